"""The training of the bundled models: documents, stages, measurement and cards."""
