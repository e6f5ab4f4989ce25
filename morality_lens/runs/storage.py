"""What of the residual stream a run keeps, and how much room that takes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, prod
from numbers import Integral
from typing import Any, Literal

from morality_lens.design import Design

Keep = Literal["residuals", "projections", "both"]


@dataclass(frozen=True, kw_only=True)
class Storage:
    """What is kept of every site.

    Attributes:
        layers: the layers that are kept, -1 the embedding; None keeps all.
        keep: the ``residuals``, their ``projections`` on given directions, or ``both``.
        dtype: ``float16`` halves the room; every value is then rounded to 11 binary digits (a relative error
            of at most 2**-11 = 0.0005). None is float16 for a float16 model, float32 for all others.

    Raises:
        ValueError: layers that are none, no whole numbers or named twice, or another type.

    Examples:
        >>> storage = ml.runs.Storage(layers=(2, 3), dtype="float16")
        >>> small = ml.play(model, items[:2], rounds=1, out=folder / "two", storage=storage, progress=False)
        >>> small.residuals["layer"].values.tolist()
        [2, 3]
    """

    layers: tuple[int, ...] | None = None
    keep: Keep = "residuals"
    dtype: Literal["float16", "float32"] | None = None

    def __post_init__(self) -> None:
        if self.layers is not None:
            object.__setattr__(self, "layers", whole_numbers(self.layers))
        if self.keep not in ("residuals", "projections", "both"):
            raise ValueError(f"keep must be residuals, projections or both; got {self.keep!r}.")
        if self.dtype not in (None, "float16", "float32"):
            raise ValueError(f"dtype must be float16, float32 or None; got {self.dtype!r}.")

    def layers_of(self, n_layers: int) -> tuple[int, ...]:
        """The layers kept of a model of so many blocks, in their order.

        Raises:
            ValueError: the model lacks one of them.
        """
        there = range(-1, n_layers)
        if self.layers is None:
            return tuple(there)
        odd = [layer for layer in self.layers if layer not in there]
        if odd:
            raise ValueError(
                f"the model has the layers -1 (the embedding) to {n_layers - 1}; got "
                f"{', '.join(map(str, odd))}."
            )
        return tuple(sorted(self.layers))

    def manifest(self, *, n_layers: int, dtype: str, **directions: Any) -> dict[str, Any]:
        """How a manifest holds it.

        Args:
            n_layers: blocks of the model.
            dtype: of its weights.
            directions: what is known of the directions that projections are made on.
        """
        kept = self.dtype or ("float16" if dtype == "float16" else "float32")
        return {"layers": list(self.layers_of(n_layers)), "keep": self.keep, "dtype": kept, **directions}


def whole_numbers(layers: Iterable[Any]) -> tuple[int, ...]:
    """Layers as plain numbers, whichever kind of integers they are."""
    given = list(layers) if isinstance(layers, Iterable) and not isinstance(layers, str) else []
    whole = [int(layer) for layer in given if isinstance(layer, Integral) and not isinstance(layer, bool)]
    if not whole or len(whole) < len(given) or len(set(whole)) != len(whole):
        raise ValueError(f"layers must be one or more different whole numbers; got {layers}.")
    return tuple(whole)


ALL = Storage()
"""All layers, as residuals, in the type that loses nothing."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The room that a run takes.

    Attributes:
        bytes: at most; missing residuals take none, and compression saves about a tenth.
        files: in its folder.
        dialogue_rounds: replies that are answers: items x conditions x rounds.

    Examples:
        >>> room = ml.runs.estimate(ml.Design(), items=1000, d_model=2048, layers=range(24))
        >>> room.files, round(room.bytes / 1e9)
        (65, 24)
    """

    bytes: int
    files: int
    dialogue_rounds: int

    def __str__(self) -> str:
        size = f"{self.bytes / 1e9:.2f} GB in {self.files:,} files"
        return f"{self.dialogue_rounds:,} dialogue rounds, up to {size}"


TABLES = 2_000
"""Bytes of an answer with its share of the transcript, compressed."""
BESIDE = 2
"""Files of a run beside those of its parts: manifest and items."""


def estimate(
    design: Design,
    *,
    items: int,
    d_model: int,
    layers: Sequence[int],
    storage: Storage = ALL,
    directions: int = 1,
    batch_size: int = 16,
) -> Estimate:
    """The room that a run would take, from numbers alone.

    Args:
        design: what is crossed, rounds and sites.
        items: their number.
        d_model: width of the residual stream.
        layers: the layers that are kept.
        storage: what is kept of them.
        directions: on which projections are kept, refits included.
        batch_size: items of a part.

    Examples:
        >>> half = ml.runs.Storage(dtype="float16")
        >>> whole = ml.runs.estimate(ml.Design(), items=1000, d_model=2048, layers=range(24))
        >>> small = ml.runs.estimate(ml.Design(), items=1000, d_model=2048, layers=range(24), storage=half)
        >>> round(whole.bytes / small.bytes, 1)
        2.0
    """
    openings = len({design.opening(condition) for condition in design.conditions})
    places = openings + len(design.conditions) * design.rounds
    width = 2 if storage.dtype == "float16" else 4
    each = width * d_model if storage.keep != "projections" else 0
    each += 8 * directions if storage.keep != "residuals" else 0
    rounds = len(design.conditions) * design.n_rounds
    size = items * (prod((places, len(design.sites), len(layers), each)) + rounds * TABLES)
    return Estimate(bytes=size, files=BESIDE + ceil(items / batch_size), dialogue_rounds=items * rounds)
