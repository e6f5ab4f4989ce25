"""What is reported? One self-contained file from a run or a study.

- ``analysis``: The estimates of a run: projections, effects and claims, or the reason why there are none.
- ``axes``: Several axes in the report: effects on each, what each reads, and what a removal cost.
- ``browser``: A run's dialogues to browse in its report: as many as fit into the page, and how to see all of
  them.
- ``card``: A run's summary as a data set of the Hub: a card, the tables behind it, and nothing of the
  residuals.
- ``figures``: Figures as the page takes them: a heading, a legend and the numbers, in a reader's order.
- ``flow``: The section of a report about answers between rounds: what became right, and what became wrong.
- ``methods``: A methods paragraph and references, generated from what a run and its analysis record.
- ``page``: One self-contained HTML file: the result first, then figures, dialogues, tables and settings.
- ``refusals``: What was refused, and why: a sentence for every estimate that could not be made.
- ``section``: A section of the report as a value: its heading, sentences, figures and tables.
- ``sections``: Results from inside the model as sections of the report: sentences and figures.
- ``serving``: A run's dialogues on a server of this machine: read page by page, coloured by the model on
  request.
- ``sparks``: Small curves inside a table: an effect over rounds or layers, with its band.
- ``summary``: The result in one table: every effect in the last round, on behaviour and inside.
- ``tables``: The tables of a report: plain texts in rows and columns.
- ``trajectories``: The section of a report about answers as trajectories: changes, uncertainty, settling,
  transitions.
- ``writing``: The report of a run as a file, and the coloured transcripts kept for it.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
