"""Which sparse features of the residual stream do the components switch on?

- ``autoencoder``: A sparse autoencoder as a value: what it encodes, what it decodes, where it was trained.
- ``cards``: What a feature is in one run: how often it is on, and the dialogues where it is on most.
- ``checking``: How well an autoencoder rebuilds a run's residuals, and when it is refused.
- ``formats``: Sparse autoencoders read from the folders in which they are published.
- ``reading``: The features of a run's residuals as a cube, and the effects on them.
- ``shares``: A direction's projection split exactly over features and what they leave, and their effects.
- ``tensors``: Tensors of a file, read without torch.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
