"""What does a result look like? Figures with Plotly, and transcripts to read.

- ``components``: Figures about what carries an effect: components with intervals, layers, heads, segments.
- ``factorial``: One Plotly figure per kind of labelled result: computes nothing, shows nothing.
- ``interventions``: Figures about causes: patches by place and layer, doses, ablations, mediation.
- ``probes``: Figures about a direction itself: its held-out quality, its trust card, its transfer.
- ``study``: Figures of the study's parts: intervals in rows, weak evidence, shifts from round to round.
- ``style``: What all figures share: the colours, the panel grids, the marks of one series and the final
  look.
- ``transcripts``: A transcript to read: turns, named segments, tokens coloured by the projection, a layer
  slider.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
