"""What is reported? One self-contained file from a run or a study.

- ``analysis``: From a run to its report: projections, effects and tables, each refused in words where it
  must be.
- ``page``: One self-contained HTML file: findings in sentences, figures, tables, transcripts, provenance.
- ``sections``: What was found inside the model as sections of the report: sentences and figures.
- ``tables``: What a report tabulates: plain texts in rows and columns.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
