"""Which heads and layers carry an effect, and is it causal?

- ``ablation``: Ablation: a direction, what is orthogonal to it, or its LEACE subspace set to a mean.
- ``attending``: What one head reads: its attention from every token of a text to those before it.
- ``attribution``: Which heads and MLPs, reading which words, make up a projection: an exact split of the
  residual stream.
- ``attribution_patching``: Attribution patching: the effect of every patch to first order, from one
  gradient.
- ``costs``: The cost of steering: perplexity of everyday text, and accuracy on questions that their context
  settles.
- ``decomposition``: A batch of dialogues, each site split into what components add and what heads read from
  which segment.
- ``forming``: When an answer forms: lens curves with bands, the layers from which they hold, a probe
  beside them.
- ``intervening``: A change of the residual stream at given tokens, and its effect on the answer.
- ``lenses``: What every layer would answer: stored residuals read through the final norm and the
  unembedding.
- ``measuring``: What is measured when activations are changed: log-odds, probabilities, projections.
- ``mediation``: Mediation: the part of a behavioural interaction that the residual at a layer carries.
- ``pairing``: Dialogues of a source and a target condition, item by item, and the tokens that correspond in
  them.
- ``patching``: Activation patching between conditions: one prompt's end, run with activations of the other
  prompt.
- ``reading_features``: Which tokens of the dialogues switch a sparse feature on: the transcripts read
  once more.
- ``settings``: Settings of an intervention: which dialogues, which activations, what is read, and how large
  a pass is.
- ``steering``: Steering: a direction added at a layer in several doses, with random directions as a
  control.
- ``summaries``: Summaries of patching, steering, ablation and mediation: recovered shares, slopes,
  verdicts.
- ``targets``: What a residual is split along: a probe's direction, or the path through the final norm to an
  answer.
- ``tuned_lenses``: Tuned lenses as they are published: an affine map for each layer, read from a folder.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
