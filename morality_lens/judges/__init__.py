"""How good is an answer?

- ``classifier``: Any Hugging Face sequence classifier as a judge of toxicity.
- ``outcomes``: A run's answers as cubes and tables: whatever its items' measures are, and what could not
  be read.
- ``positions``: Whether answers prefer a position: how much more often each is chosen than its content
  explains.
- ``questions``: Judges of answers to questions: correctness and bias scores; what is missing stays
  missing.
- ``toxicity``: Judges of toxicity: fitted on labelled statements, and how far two of them agree.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
