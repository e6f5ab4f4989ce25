"""Do the five claims hold? The whole study, its tasks, its verdicts and its report.

- ``analysis``: A whole study from its folder: five verdicts, every part as figures and tables, and
  one report.
- ``folder``: The folder of a study: its runs and results, and the tasks that its claims are about.
- ``plan``: The amount of each part of a study: profiles, and an estimate of the time.
- ``rules``: The five claims in words: thresholds, decision rules, what a verdict holds, and its measured
  error rate.
- ``running``: The whole study in one call that resumes where it was interrupted.
- ``sections``: The parts of a study as sentences, figures and tables, each from stored results.
- ``settings``: The material of a study, and its settings.
- ``tasks``: The tasks that the claims are about: answers or probabilities, whole and by category.
- ``verdicts``: The five claims of the study (arXiv 2410.20513), each supported, refuted, mixed or
  undecided.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
