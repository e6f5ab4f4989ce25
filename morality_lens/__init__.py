"""Mechanistic interpretability of moral self-correction in language models.

Each package answers one question; the names used most stand here as well. Packages and names are loaded
when first used, so that importing this loads neither torch nor xarray. The names are listed in the stub
files (``__init__.pyi``), which editors and type checkers read.
"""

import warnings

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

__version__ = "0.1.0"
# What tqdm says in a notebook without widgets, whichever library imports it first; bars are then text.
warnings.filterwarnings("ignore", message="IProgress not found")
