"""Which direction is the moral one, and can it be trusted?

- ``axes``: Several named directions of one model as one value: its folder, its projection of a run.
- ``axes_fitting``: Named axes fitted on the residuals of their statements: together or apart, with or without
  nuisances.
- ``card``: The trust card of a direction as a value: its lines, their rules and verdicts, one sentence,
  JSON.
- ``closed_form``: Directions with a closed form: fitted for all layers and many weightings of the
  examples at once.
- ``comparing``: Several directions side by side: their cosines, and the lines of their trust cards in one
  table.
- ``controls``: Controls of a direction: fits that have not seen the statement, words alone, random
  labels.
- ``erasure``: Least-squares concept erasure: the smallest change after which no linear classifier finds a
  label.
- ``estimators``: Estimators of a direction with the interface of scikit-learn.
- ``fitting``: Directions fitted on labelled residuals, one per layer, with their held-out quality.
- ``from_runs``: Directions fitted on a run's own residuals, and the direction in which a component moves
  them.
- ``from_statements``: From a model and labelled statements to a probe with its held-out quality, refits
  and trust card.
- ``gaps``: The gap of the class means along a direction, as statements show it that it has not seen.
- ``hub``: Probes shared through the Hugging Face Hub, or through a folder.
- ``interchange``: Directions in the forms of other tools: control vectors of llama.cpp and repeng, steering
  vectors.
- ``kinds``: The kinds of direction: what each is fitted on, and what it can be used for. Nothing heavy is
  imported.
- ``layers``: Which layers a direction is read at: chosen by held-out quality, never by the size of an
  effect.
- ``probe``: One moral direction per layer: its file, its quality, its projection of a run.
- ``kept``: Projections made while a run is played, for runs that do not keep their residuals.
- ``projecting``: Projections of residuals on directions: the one formula, for one layer and for all.
- ``quality``: How well held-out scores rank the examples: AUROC and rank correlation, with intervals over
  clusters.
- ``random_models``: Random-initialised controls: what a model's architecture and tokenizer alone make of
  the statements.
- ``refits``: How far a direction depends on its training statements: refits, halves, and projections on
  refits.
- ``relations``: How several axes lie to each other: what each reads in the others' statements, and their
  cosines.
- ``removal``: What is taken out of residuals before a direction is fitted: nuisances, and the other axes.
- ``statements``: Statements read through a model once, for probes.
- ``training_data``: The training examples of a direction, checked: residuals, classes, values and
  clusters.
- ``trust_checks``: A direction compared with rival explanations: words, random models, chance, other
  sets, its own refits.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
