"""What was stored?

- ``agreement``: How well the tokens that a server wrote fit the model that read them.
- ``alignment``: Which tokens of one dialogue correspond to which of another: the places where activations
  can be moved.
- ``archives``: The file of one part of a run: a zip archive of arrays, tables and a record that checks
  itself.
- ``choosing``: Which rounds, sites or layers of a run are read: those that were asked for, all of them there.
- ``claims``: Who works on which part now, so that several processes share the parts of one folder.
- ``cube``: Arrays of a run as one lazy array: items in their own order, round 0 expanded to all
  conditions.
- ``datasets``: Results of any shape on disk, one file each: a zip archive of zarr arrays, replaced whole.
- ``exporting``: A run's residuals for other tools: shards of safetensors with a table of rows beside them.
- ``inspect_logs``: Evaluation logs of Inspect as cubes of behaviour: what was played elsewhere, without
  residuals.
- ``manifest``: The manifest of a run: what is played, by what, in which parts, and how far it is.
- ``option_notes``: Whether the signs of the replies (letters, digits) are what the model says next, in
  sentences.
- ``pages``: A run's dialogues page by page: which ones match, and one of them whole; memory does not grow
  with the run.
- ``passages``: The dialogues of a run, to be read again: tokens, places of a site in every round, and who
  wrote what.
- ``rates``: How replies came out: shares of answers that parse, stop by themselves, were cut or lack
  their feedback.
- ``requests``: Whether a folder holds what is requested, the same request begun earlier, or something
  else.
- ``results``: Results kept in the folder of a run, each in a file replaced whole.
- ``resuming``: Results made some items at a time and kept on disk as they are made, so that no work is
  done twice.
- ``run``: A run on disk, opened lazily: residuals, answers, transcripts, manifest.
- ``storage``: What of the residual stream a run keeps, and how much room that takes.
- ``token_view``: One dialogue with its tokens, segments and a projection per layer and token.
- ``transitions``: How answers change between rounds: counts from each outcome to each, by condition.
- ``verifying``: Whether everything that a run says it holds is there, byte by byte.
- ``workers``: Several processes that share the parts of one folder, on one machine or on a Ray cluster.
- ``writing``: A run begun, extended, written part by part, and finished.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
