"""The command line: what can be done from a shell.

- ``analysing``: The commands that read a finished run without a model: analyze and report.
- ``axes``: The command that fits several named axes on a run's model, and keeps their effects with the run.
- ``checking``: The command that loads a model and tests it: ``morality-lens check``.
- ``circuits``: The commands for circuits inside the model: attribute and patch.
- ``commands``: What every command has: its options in panels, its texts as they are, and how much it prints.
- ``console``: What all commands print: steps, sentences, tables and JSON, with every text as it is.
- ``data_options``: Which data a command plays: a file, or a published data set by its name.
- ``exporting``: The command that writes a run's direction, or its residuals, for other tools.
- ``lenses``: The command that reads a run's residuals through a lens: ``morality-lens lens``.
- ``listing``: The command that lists the runs and studies in a folder: ``morality-lens list``.
- ``main``: The command line: its commands, and how it ends.
- ``model_options``: The options of the commands that load a model, and how they are read.
- ``places``: Whether what a command is given is there and can be used: checked before anything large is
  imported.
- ``probing``: The command that fits a direction on a run's model, and what it shares with ``run``.
- ``run``: The command that plays a whole run: ``morality-lens run``.
- ``run_config``: The configuration of a run as one value that a TOML file can hold.
- ``running``: The commands about a run's folder and who fills it: work, verify and estimate.
- ``scoring``: The command that scores the options of a run by their full text.
- ``sparse``: The command that reads the sparse features of a run: ``morality-lens features``.
- ``statements``: The labelled statements that a command reads: those of the options, or those that fit the
  model.
- ``view``: The command that shows the dialogues of a run in a browser, from a small server of this machine.
- ``stopping``: How a command ends early: by a signal, with what is finished kept, or by an error, in one
  clear line.
- ``study``: The command for a whole study: ``morality-lens study``.
- ``study_config``: The configuration of a study as one value that a TOML file can hold.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
