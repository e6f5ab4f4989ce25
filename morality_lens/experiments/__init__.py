"""What else can be asked? Weak evidence, telling own outputs apart, masked words, trajectories.

- ``detection``: Signal detection: can a model tell its good outputs from its bad ones, and does it say what
  it holds?
- ``dynamics``: How answers move over the rounds: flips, half-life and convergence; and samples, their
  expected maximum.
- ``evidence``: Weak evidence: the question asked again with a sentence that speaks for one group, then for
  the other.
- ``masking``: Mask the words: what is left of an effect when nobody can read the component's own words any
  more.
- ``robustness``: What weak evidence does to answers: a partition of the items, and the share that follows.
- ``self_distinguish``: Can the model tell its own good outputs from its bad ones: two at a time, in both
  orders.
- ``shifts``: From round to round the residual stream shifts: how far along the moral direction, beside
  random ones.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
