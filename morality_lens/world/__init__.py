"""The bundled world: its words, items drawn from them, and the planted truth of its models."""
