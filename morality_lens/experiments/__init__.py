"""What else can be asked? Weak evidence, telling own outputs apart, masked words, trajectories.

- ``calibration``: Uncertainty and calibration of answers: entropy, Brier score, calibration error of the
  options.
- ``detection``: Signal detection: does a model distinguish its good outputs from its bad ones, as well as a
  probe does?
- ``dynamics``: How answers change over the rounds: flips, half-life, convergence; and the expected maximum
  of samples.
- ``evidence``: Weak evidence: the question asked again with a sentence that favours one group, then the
  other.
- ``masking``: Word masking: what remains of an effect when no token can attend to the component's own
  words.
- ``robustness``: The effect of weak evidence on answers: a partition of the items, and the share that
  follows it.
- ``self_distinguish``: Can the model distinguish its own good outputs from its bad ones: two at a time, in
  both orders.
- ``shifts``: Shifts of the residual stream between rounds: their alignment with the moral direction and
  random ones.
- ``trajectories``: Answers as trajectories over the rounds: changes, returns, transitions compared, and when
  they settle.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
