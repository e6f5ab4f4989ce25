"""How is a dialogue played, and replayed?

- ``capture``: What is read of a batch while it is played: residuals at the sites, and the options'
  probabilities.
- ``endpoint``: Feedback from a model behind an OpenAI-compatible server; what was answered is kept and not
  asked again.
- ``feedback``: Where feedback comes from: the model itself, another one, a judge who knows, or a file.
- ``feedback_text``: What each dialogue is told of its last answer: a source's words, neutral ones, or
  another item's.
- ``player``: One batch of items: every turn said, every reply generated, every residual read once.
- ``playing``: Play every condition's rounds with one shared prefix, and capture residuals as they are made.
- ``preflight``: What is checked before anything is played: items, context window, batch size.
- ``replay``: What a stored dialogue needs to be continued: its wording, its turns, its cell, its model.
- ``rereading``: Transcripts read through a model again, every token with its projection.
- ``row``: One dialogue while it is played.
- ``side_questions``: Questions put in passing: after any round of a dialogue that was played, without a
  trace in it.
- ``sources``: The source of feedback that a protocol asks for, and where it came from.
- ``tables``: The tables of a played batch: a row per answer, and the tokens of each dialogue.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
