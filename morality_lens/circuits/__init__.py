"""Which heads and layers carry an effect, and is it causal?

- ``ablation``: Ablation: a direction, what is orthogonal to it, or its LEACE subspace set to a mean.
- ``attribution``: Which heads and MLPs, reading which words, make a projection: an exact split of the
  residual stream.
- ``attribution_patching``: Attribution patching: the effect of every patch to first order, from one
  gradient.
- ``decomposition``: A batch of dialogues, each site split into what components add and what heads take from
  which segment.
- ``intervening``: A change of the residual stream at every token, and what it does to the answer.
- ``measuring``: What is measured when activations are changed: log-odds, probabilities, projections.
- ``mediation``: How much of a behavioural interaction the representation bears at a layer: the additive
  residual put in.
- ``patching``: Activation patching between conditions: one prompt's end, run with activations of the other
  prompt.
- ``steering``: Steering: a direction added at a layer in several doses, beside random directions.
- ``summaries``: What patching, steering and ablation amount to: recovered shares, slopes, verdicts,
  mediated shares.
- ``targets``: What a residual is split along: a probe's direction, or the way through the final norm to an
  answer.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
