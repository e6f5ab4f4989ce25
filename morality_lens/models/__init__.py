"""How is a model loaded, hooked and decoded?

- ``decoding``: A batch of dialogues in one key-value cache: feed tokens, generate, and read residuals on
  the way.
- ``hooks``: Changes of activations in the plain model: where they can be made, and hooks that make or read
  them.
- ``loading``: Load a model by hub name, from a folder or the bundled one, and test it before it is used.
- ``self_test``: What a model must pass when it is loaded: captured residuals are those of transformers.
- ``suffixes``: The ends of prompts, run again with changed activations while everything before is kept.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
