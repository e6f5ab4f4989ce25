"""How is a dialogue played, and replayed?

- ``capture``: What is captured of a batch while it is played: residuals at the sites, and probabilities
  of replies.
- ``elsewhere``: Replies from a server that runs the same model; each finished dialogue is read once by
  the engine.
- ``endings``: Where an answer ends although the model writes on: at the first line break after it has
  chosen.
- ``endpoint``: Feedback from a model behind an OpenAI-compatible server, whose replies are cached.
- ``feedback``: Where feedback comes from: the model itself, another model, an oracle, or a file.
- ``feedback_text``: The feedback text of each dialogue: its source's, a neutral one, or that of another
  item.
- ``pacing``: What the first finished items say of the rest of a run.
- ``player``: One batch of items: every turn is added, every reply generated, and every residual read
  once.
- ``playing``: Play every condition's rounds with one shared prefix, and capture residuals as they are
  computed.
- ``preflight``: What is checked before a run is played: items, context window, batch size.
- ``reading``: Finished dialogues read once: residuals at the sites, probabilities of replies, and which
  tokens fit.
- ``replay``: Replaying stored dialogues: their wording, their turns, and the check that the model is the
  same.
- ``rereading``: Stored transcripts read again by their model, every token with its projection.
- ``row``: One dialogue while it is played.
- ``scoring``: Options scored by their full text: how probable each is as the reply, whatever the model
  answers by.
- ``selection``: Which stored dialogues are read, and how a long computation over them is carried out.
- ``server``: An OpenAI-compatible server: its client, its replies kept on disk, and its errors in one
  line.
- ``side_questions``: Side questions: asked in a fork of a played dialogue after any round, so that the
  dialogue is unchanged.
- ``sources``: Who plays and who gives feedback, as a protocol names them, and their provenance.
- ``spreading``: A run, or a long computation over one, shared by several workers, each with a model of
  its own.
- ``tables``: The tables of a played batch: a row per answer, and the tokens of each dialogue.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
