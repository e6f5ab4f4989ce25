"""Which direction is the moral one, and can it be trusted?

- ``card``: The trust card of a direction as a value: its lines, their rules and verdicts, one sentence,
  JSON.
- ``closed_form``: Directions with a closed form: fitted for all layers and many weightings of the cases at
  once.
- ``controls``: What a direction is held against: fits that have not seen the case, words alone, random
  labels.
- ``erasure``: Least-squares concept erasure: the smallest change after which no linear classifier finds a
  label.
- ``estimators``: Estimators of a direction that are used like scikit-learn's own.
- ``fitting``: Directions fitted on labelled residuals, one per layer, with their held-out quality.
- ``from_runs``: Directions fitted on a run's own residuals, and the direction in which a component moves
  them.
- ``from_statements``: From a model and labelled statements to a probe that knows its own error and what it
  was held against.
- ``hub``: Probes shared through the Hugging Face Hub, or through a folder.
- ``kinds``: The kinds of direction: what each is fitted on, and what it can be used for. Nothing heavy is
  imported.
- ``layers``: Which layers a direction is read at: by held-out quality, never by the size of an effect.
- ``probe``: One moral direction per layer: its file, its quality, its projection of a run.
- ``projecting``: Projections of residuals on directions: the one formula, for one layer and for all.
- ``quality``: How well held-out scores order the cases: AUROC and rank correlation, with intervals over
  clusters.
- ``random_models``: Random twins of a model: what its architecture and its tokenizer alone make of the same
  statements.
- ``refits``: What a direction owes to the statements it happened to be fitted on: refits, halves, and what
  they see.
- ``statements``: Statements read through a model once, for probes.
- ``training_data``: The cases a direction is trained on, checked: residuals, classes, ratings and clusters.
- ``trust_checks``: A direction held against what could explain it away: words, random models, chance, other
  sets, itself.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
