"""Which layers a direction is read at: chosen by held-out quality, never by the size of an effect."""

from collections.abc import Sequence

import numpy as np

from morality_lens.interactions.caveats import POPULATION
from morality_lens.probes.probe import Probe
from morality_lens.probes.quality import highest


def best_layer(probe: Probe, layer: int | None = None, *, among: Sequence[int] | None = None) -> int:
    """The requested layer, or the first of those with the highest held-out AUROC.

    Args:
        probe: a probe.
        layer: the requested layer; None chooses by AUROC.
        among: the layers to choose from; None takes all of the probe's.

    Raises:
        ValueError: the probe has no such layer, or no AUROC to choose by.
    """
    layers = probe.direction["layer"].values.tolist()
    if layer is not None:
        if layer not in layers:
            raise ValueError(f"the probe has no layer {layer}; choose one of {layers}.")
        return layer
    choices = [one for one in layers if among is None or one in among]
    best = highest(probe.quality["auroc"].sel(layer=choices).values)
    if best is None:
        raise ValueError(f"this probe has no held-out AUROC to choose a layer by; give one of {layers}.")
    return choices[best]


def reading_layers(probe: Probe | None) -> list[int]:
    """The layers whose held-out AUROC is not distinguishable from the best one's, the best layer first.

    An AUROC near 1 does not rank layers. Among these the rank correlation with graded values does, where the
    statements have some; else the AUROC.
    """
    if probe is None or not np.isfinite(probe.quality["auroc"].values).any():
        return []
    quality = probe.quality
    reach = quality["layer"].values[(quality["auroc_high"] >= quality["auroc"].max()).values]
    graded = "spearman" in quality and np.isfinite(quality["spearman"].sel(layer=reach).values).all()
    rank = quality["spearman" if graded else "auroc"]
    return sorted(map(int, reach), key=lambda n: -float(rank.sel(layer=n)))


def sound_layers(probe: Probe) -> list[int]:
    """The layers of a probe about which something can be claimed.

    Halves of the statements agree on a direction there (where they were compared), and the classes have a gap
    that is distinguishable from none; see :func:`morality_lens.interactions.refitted.refused_layers`.
    """
    quality = probe.quality
    sound = np.ones(quality.sizes["layer"], bool)
    if "split_half" in quality:
        sound &= ~(quality["split_half"].values < POPULATION)
    if "gap" in quality:
        sound &= quality["gap"].values > 0
    return quality["layer"].values[sound].tolist()


def opening_layer(probe: Probe) -> int | None:
    """The layer that is shown first: of the sound ones the best held-out one; None for none."""
    sound = sound_layers(probe)
    known = probe.quality["auroc"].sel(layer=sound)
    return best_layer(probe, among=sound) if np.isfinite(known.values).any() else None
