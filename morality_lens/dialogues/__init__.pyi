from .wording import load_wording as load_wording
