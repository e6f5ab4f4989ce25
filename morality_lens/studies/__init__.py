"""Do the five claims hold? The whole study, its tasks, its verdicts and its report.

- ``analysis``: A whole study from its folder: five verdicts, every part as figures and tables, and one
  report.
- ``folder``: The folder of a study: its runs and results, and the tasks that its claims are about.
- ``plan``: How much of everything a study plays: profiles, and an estimate of its time.
- ``running``: The whole study in one command that goes on where it stopped.
- ``sections``: The parts of a whole study as sentences, figures and tables, each from what was stored.
- ``tasks``: The tasks that the claims are about: answers or probabilities, whole and by category.
- ``verdicts``: The five claims of the study (arXiv 2410.20513), each supported, refuted or undecided on
  one's own data.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
