"""Do the components add up, or get into each other's way?

- ``by_component``: Factorial effects of a projection, split over the components and segments that make
  it.
- ``carried``: What travels with a cube beside its numbers: refits of its direction, failures, stable
  layers.
- ``caveats``: Which inputs are refused, and which caveats are reported before and after effects are
  estimated.
- ``claims``: Which claims an interaction of two components supports, and when it is shown to be
  negligible.
- ``contrasts``: Which contrasts are taken: levels of factors, matrices of weights, links, and differences
  of places.
- ``crossing``: Cubes of several runs joined along a factor that no single run can cross, such as the
  language.
- ``cube``: A labelled cube of cells, checked and brought into order.
- ``curves``: Means over items along a curve, such as a value at every layer: bands, and from where on
  it holds.
- ``describing``: Plain sentences about factorial effects, and the control at round 0.
- ``effects``: Factorial effects of the factors, with intervals, families and bands.
- ``fractions``: Fractions of a design: effects of factors whose levels follow from others, and their
  aliases.
- ``intervals``: The test and the interval of a mean over clusters, for skewed contrasts and for no change
  too.
- ``missing_cells``: Effects from the available cells: least squares with a cluster jackknife, and
  worst-case bounds.
- ``names``: Names of effects: what a user calls an effect, as the result calls it.
- ``numbers``: Numbers as people read them: decimals from the interval, a sign on effects, p at the floor of
  the draws.
- ``odds``: Effects on the log-odds of cell means, for outcomes of 0 and 1.
- ``planning``: Before a run: the minimal effect that a number of items can be expected to detect.
- ``ratios``: Means over items and ratios of such means, with intervals by clusters.
- ``refitted``: Refits of a direction: those that belong to a cube, their effects, and the layers that are
  refused.
- ``resampling``: Families of tests: max-|t| over resampled clusters, by sign-flips or the bootstrap-t, on
  plain arrays.
- ``tabulating``: Effects as a table: a row for every effect and place, as numbers or as they are printed.
- ``wordings``: Effects over wordings: items and wordings are both samples, and both enter the interval.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
