"""The bundled world: its words, items drawn from them, and the planted truth of its models.

- ``lexicon``: The words of the bundled world's items: invented groups, question templates, acts and open
  prompts.
- ``sampling``: Items of the bundled world, drawn from its grammar: questions, labelled statements and open
  prompts.
- ``truth``: The planted truth: how likely a fair answer, or a kind text, is in every condition and round.
- ``verdicts``: The verdicts that a study of the bundled model organism should reach.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
