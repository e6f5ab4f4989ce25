"""The command line: what can be done from a shell.

- ``circuits``: The commands that look inside a model: attribute and patch.
- ``main``: The command line: study, run, probe, analyze, attribute, patch, report and check.
- ``run_config``: A whole study as one value that a TOML file can hold.
- ``study``: The command that does everything: ``morality-lens study``.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
