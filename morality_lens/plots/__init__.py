"""What does a result look like? Figures by Plotly, and transcripts to read.

- ``axes``: Figures of several axes: what each reads of the others' statements, cosines, effects, costs.
- ``changes``: Figures of answers as trajectories: means by round and condition, settling, transitions
  compared.
- ``components``: Figures of attribution: components with intervals, layers, heads, segments.
- ``factorial``: Figures of factorial effects, cell means and behaviour; they compute nothing.
- ``features``: Figures of sparse features: the effects on them, and the share of a direction's effect that
  they carry.
- ``flow``: Figures of the answers between rounds: which became right or wrong, condition by condition.
- ``interventions``: Figures of interventions: patches by place and layer, doses, ablations, mediation.
- ``lenses``: Figures of lenses: what every layer would answer, effects on it, when it is there, a probe
  beside it.
- ``overview``: One figure of the result: every effect over layers, and beside it on behaviour.
- ``probes``: Figures of a direction: its held-out quality, its trust card, its transfer.
- ``study``: Figures of a study's parts: forest plots, weak evidence, shifts from round to round.
- ``style``: Shared style of all figures: colours, panel grids, marks of one series and the template.
- ``transcripts``: Dialogues to read: rounds side by side, named segments, tokens coloured by a value of
  every layer.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
