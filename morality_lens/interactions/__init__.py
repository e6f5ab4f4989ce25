"""Do the components add up, or get into each other's way?

- ``by_component``: Factorial effects of a projection, split over the components and segments that make it.
- ``caveats``: What must be refused or said of numbers before and after their effects are estimated.
- ``claims``: What an interaction of two components may be called, and when there is none.
- ``contrasts``: What is compared with what: levels of factors, matrices of contrasts, links, and places.
- ``cube``: A labelled cube of cells, checked and brought into order.
- ``describing``: Plain sentences about factorial effects, and the control at round 0.
- ``effects``: Factorial effects of the components, with intervals, families and bands.
- ``missing_cells``: Effects from the cells that are there: least squares with a cluster jackknife, and
  worst-case bounds.
- ``odds``: Effects on the log-odds of cell means, for outcomes of 0 and 1.
- ``planning``: Before a run: the smallest effect that a number of items can be expected to show.
- ``ratios``: Means over items and ratios of such means, with intervals by clusters.
- ``resampling``: Cluster-robust variances, sign-flips, bootstrap-t and step-down max-|t| on plain arrays.
- ``wordings``: Effects over wordings: items and wordings are both samples, and both enter the interval.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
