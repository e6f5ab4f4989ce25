"""A sparse autoencoder as a value: what it encodes, what it decodes, where it was trained."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from morality_lens.runs.run import Run

Activation = Literal["relu", "jumprelu", "topk"]
Scaling = Literal["none", "constant_norm_rescale", "layer_norm"]
CELLS = 2**24
"""Activations of one step, all features counted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseAutoencoder:
    """Features of the residual stream after one layer; read by ``load_sae``, or made from arrays.

    With x' the scaled residual, less the decoder's bias where that is subtracted, pre-activations are
    x' @ encoder + encoder bias; ``relu`` keeps the positive ones, ``jumprelu`` those of them that are above
    their threshold, ``topk`` the k largest of a residual, where positive; of equal ones the first. What is
    rebuilt is activations @ decoder + decoder bias, scaled back.

    Attributes:
        encoder: [d_model, feature].
        encoder_bias: [feature].
        decoder: [feature, d_model].
        decoder_bias: [d_model].
        layer: the residual stream after this block, -1 for the embedding.
        activation: how a pre-activation becomes an activation.
        threshold: of each feature, for ``jumprelu``.
        k: features of a residual, for ``topk``.
        subtract_bias: whether the decoder's bias is taken from the input first.
        scaling: what is done to each input: nothing, its norm made the root of d_model
            (``constant_norm_rescale``), or mean 0 and standard deviation 1 (``layer_norm``).
        trained_on: the model, as its files say.
        source: where it was read from.

    Raises:
        ValueError: arrays that do not fit together, or a threshold or k that is missing.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> weights = rng.normal(size=(128, 256)).astype(np.float32)
        >>> made = ml.sparse.SparseAutoencoder(
        ...     encoder=weights, encoder_bias=np.zeros(256, np.float32), decoder=weights.T.copy(),
        ...     decoder_bias=np.zeros(128, np.float32), layer=3, activation="topk", k=8,
        ... )
        >>> made
        <SparseAutoencoder topk: 256 features of 128 at layer 3, of an unnamed model>
        >>> int((made.encode(np.ones((2, 128), np.float32)) > 0).sum())
        16
    """

    encoder: Float[np.ndarray, "d_model feature"]
    encoder_bias: Float[np.ndarray, " _"]
    decoder: Float[np.ndarray, "_ _"]
    decoder_bias: Float[np.ndarray, " _"]
    layer: int
    activation: Activation = "relu"
    threshold: Float[np.ndarray, " _"] | None = None
    k: int | None = None
    subtract_bias: bool = False
    scaling: Scaling = "none"
    trained_on: str = "an unnamed model"
    source: str = "arrays"

    def __post_init__(self) -> None:
        width, count = self.encoder.shape
        shapes = {
            "encoder_bias": (count,),
            "decoder": (count, width),
            "decoder_bias": (width,),
            **({"threshold": (count,)} if self.activation == "jumprelu" else {}),
        }
        for name, shape in shapes.items():
            value = getattr(self, name)
            found = None if value is None else value.shape
            if found != shape:
                raise ValueError(
                    f"the autoencoder from {self.source} has an encoder of {width} x {count} and "
                    f"needs {name} of shape {shape}; got {found}."
                )
        if self.activation == "topk" and not (self.k and 0 < self.k <= count):
            raise ValueError(
                f"the autoencoder from {self.source} keeps the k largest of {count} features; got k={self.k}."
            )

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.encoder.shape[0]

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.encoder.shape[1]

    def encode(self, residuals: Float[np.ndarray, "point d_model"]) -> Float[np.ndarray, "point feature"]:
        """Activations of all features; use :meth:`steps` for many points."""
        x, _, _ = self._scaled(residuals)
        inner = x - self.decoder_bias if self.subtract_bias else x
        before = inner @ self.encoder + self.encoder_bias
        if self.activation == "topk":
            return np.where(_largest(before, int(self.k or 0)), np.maximum(before, 0.0), 0.0)
        kept = np.maximum(before, 0.0)
        return kept if self.threshold is None else np.where(before > self.threshold, kept, 0.0)

    def decode(
        self, activations: Float[np.ndarray, "point feature"], residuals: Float[np.ndarray, "point d_model"]
    ) -> Float[np.ndarray, "point d_model"]:
        """What activations rebuild of the residuals that they were encoded from, in their scale."""
        _, scale, shift = self._scaled(residuals)
        return (activations @ self.decoder + self.decoder_bias) * scale[:, None] + shift[:, None]

    def scales(
        self, residuals: Float[np.ndarray, "point d_model"]
    ) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"]]:
        """By what the rebuilt residual is multiplied at the end, and what is added to all of its numbers."""
        _, scale, shift = self._scaled(residuals)
        return scale, shift

    def steps(self, points: int) -> Iterator[slice]:
        """Slices of so many points that the activations of all features fit into memory."""
        size = max(1, CELLS // self.n_features)
        for start in range(0, points, size):
            yield slice(start, min(start + size, points))

    def refuse_other_run(self, run: Run) -> None:
        """Nothing, where a run stored the residuals that the features are of.

        Raises:
            ValueError: another width, a layer that was not stored, or no residuals at all.
        """
        width = int(run.manifest["study"]["model"]["d_model"])
        if width != self.d_model:
            raise ValueError(
                f"the autoencoder was trained on residuals of width {self.d_model} ({self.trained_on}), and "
                f"those of this run have {width}; take one that was trained on the run's model."
            )
        _ = run.residuals
        if self.layer not in run.layers:
            raise ValueError(
                f"the autoencoder is of layer {self.layer}, and this run stored the layers "
                f"{', '.join(map(str, run.layers))}; play it with that layer, or take another autoencoder."
            )

    def _scaled(self, residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scaled residuals, and what scales them back: a factor and a sum of each."""
        x = residuals.astype(self.encoder.dtype)
        one, none = np.ones(len(x), x.dtype), np.zeros(len(x), x.dtype)
        if self.scaling == "constant_norm_rescale":
            norm = np.linalg.norm(x, axis=1) / np.sqrt(self.d_model).astype(x.dtype)
            norm = np.where(norm > 0, norm, one)
            return x / norm[:, None], norm, none
        if self.scaling == "layer_norm":
            mean, spread = x.mean(axis=1), x.std(axis=1, ddof=1)  # as torch has it
            return (x - mean[:, None]) / (spread[:, None] + x.dtype.type(1e-5)), spread, mean
        return x, one, none

    def __repr__(self) -> str:
        return (
            f"<SparseAutoencoder {self.activation}: {self.n_features} features of {self.d_model} at layer "
            f"{self.layer}, of {self.trained_on}>"
        )


def _largest(values: Float[np.ndarray, "point feature"], k: int) -> np.ndarray:
    """Which are the k largest of each row; of equal ones the first."""
    least = np.partition(values, values.shape[1] - k, axis=1)[:, values.shape[1] - k, None]
    above, level = values > least, values == least
    room = k - above.sum(axis=1, keepdims=True)
    return above | (level & (np.cumsum(level, axis=1) <= room))
