"""Which tests are corrected together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from einops import rearrange
from jaxtyping import Float


@dataclass(frozen=True, kw_only=True, eq=False)
class Families:
    """How the tests, laid out over ``effect`` and the other dims, fall into families."""

    pattern: str
    sizes: dict[str, int]
    outside: tuple[int, ...]
    n_tests: int
    words: str

    @classmethod
    def over(cls, dims: tuple[str, ...], shape: tuple[int, ...], family: Sequence[str]) -> "Families":
        """Families of the tests that agree in every dim but those of ``family``."""
        axes = {f"d{i}": length for i, length in enumerate(shape)}
        inside = [f"d{i}" for i, dim in enumerate(dims) if dim in family]
        outside = [axis for axis in axes if axis not in inside]
        pattern = f"({' '.join(axes)}) -> ({' '.join(outside)}) ({' '.join(inside)})"
        together = " x ".join(
            f"{n} {dim}{'s' * (n > 1)}" for dim, n in zip(dims, shape, strict=True) if dim in family
        )
        apart = [dim for dim in dims if dim not in family]
        n_tests = math.prod(axes[axis] for axis in inside)
        words = f"{n_tests} test{'s' if n_tests > 1 else ''}" + (f" ({together})" if together else "")
        if apart:
            words += f", separately for each {' and '.join(apart)}"
        places = tuple(i for i, dim in enumerate(dims) if dim not in family)
        return cls(pattern=pattern, sizes=axes, outside=places, n_tests=n_tests, words=words)

    @property
    def n_families(self) -> int:
        """How many families there are."""
        return math.prod(self.sizes.values()) // self.n_tests

    def label(
        self, values: Float[np.ndarray, "family"], dims: tuple[str, ...]
    ) -> tuple[tuple[str, ...], np.ndarray]:
        """One number per family with its dims."""
        lengths = tuple(self.sizes.values())
        return tuple(dims[i] for i in self.outside), values.reshape([lengths[i] for i in self.outside])

    def split(self, flat: np.ndarray, *, leading: bool = False) -> np.ndarray:
        """Tests [... feature] as [... family test]; ``leading`` where clusters come first."""
        left, right = self.pattern.split(" -> ")
        pattern = f"cluster {left} -> cluster {right}" if leading else self.pattern
        return rearrange(flat, pattern, **self.sizes)

    def join(self, grouped: Float[np.ndarray, "family test"]) -> Float[np.ndarray, "feature"]:
        """Undo :meth:`split`."""
        left, right = self.pattern.split(" -> ")
        return rearrange(grouped, f"{right} -> {left}", **self.sizes)
