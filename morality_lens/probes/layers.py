"""Which layers a direction is read at: by held-out quality, never by the size of an effect."""

import numpy as np

from morality_lens.probes.probe import Probe


def best_layer(probe: Probe, layer: int | None) -> int:
    """The layer asked for, or the one with the highest held-out AUROC.

    Raises:
        ValueError: the probe has no such layer, or no AUROC to choose by.
    """
    layers = probe.direction["layer"].values.tolist()
    if layer is None:
        if not np.isfinite(probe.quality["auroc"].values).any():
            raise ValueError(f"this probe has no held-out AUROC to choose a layer by; give one of {layers}.")
        return int(probe.quality["auroc"].idxmax("layer"))
    if layer not in layers:
        raise ValueError(f"the probe has no layer {layer}; choose out of {layers}.")
    return layer


def reading_layers(probe: Probe | None) -> list[int]:
    """The layers whose held-out AUROC cannot be told from the best one's, the best reader first.

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
