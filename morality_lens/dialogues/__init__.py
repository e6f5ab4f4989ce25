"""What is said? Wording, turns and their rendering as tokens.

- ``continuing``: The tokens of a given text as a reply, in their place after a prompt.
- ``control``: Control tokens that a text spells stay text: they forge no turn, end no reply and begin no
  dialogue.
- ``languages``: The languages in which the package has a wording, by their names; imports nothing large.
- ``rendering``: Dialogues as tokens, by the model's own chat template, with the exact span of every
  segment.
- ``script``: The order of turns: what is said in each round of a dialogue, and which replies follow, said
  once.
- ``templates``: Chat templates run as strangers' programs: in a sandbox, with a bound on their time and
  their output.
- ``thinking``: Thoughts that a model writes before its reply: how its chat template marks them.
- ``turns``: Item, condition and what was said become the next turn, every segment of it named.
- ``wording``: Every word that the protocol says, read from a TOML file that a user can replace.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
