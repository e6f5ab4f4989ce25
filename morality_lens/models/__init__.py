"""How is a model loaded, hooked and decoded?

- ``beginnings``: Texts that begin alike, read with their common beginnings once.
- ``checkpoints``: A checkpoint as a plain transformers model and its tokenizer: folders, hub names, .gguf
  files, adapters.
- ``decoding``: A batch of dialogues in one key-value cache: feed tokens, generate, and read residuals on
  the way.
- ``finding``: Where a model lies: a bundled one, a folder, a .gguf file or a hub name; checked without
  loading it.
- ``hooks``: Changes of activations in the plain model: where they are possible, and hooks that make or
  read them.
- ``loading``: Load a model by hub name, from a folder or the bundled one, and run its self-test.
- ``predictions``: The most probable next token at many places of a pass, without the logits of all of
  them at once.
- ``self_test``: The self-test of a loaded model: captured residuals equal those of transformers.
- ``suffixes``: The ends of prompts, run again with changed activations while everything before is kept.
- ``windows``: The context window of a model: the limit that its configuration states, or where its rope
  changes.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
