"""What was refused, and why: a sentence for every estimate that could not be made."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Refusals:
    """Sentences that accumulate while estimates are attempted."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    @property
    def lines(self) -> tuple[str, ...]:
        """The sentences, in the order in which they came up."""
        return tuple(self._lines)

    def add(self, *lines: str) -> None:
        """Append sentences."""
        self._lines += lines

    def attempt(self, what: str, make: Callable[[], T | None]) -> T | None:
        """The result, or None and a sentence that gives the reason.

        Args:
            what: the name of the estimate, which begins the sentence.
            make: makes the estimate; a ``ValueError`` is a refusal.
        """
        try:
            return make()
        except ValueError as error:
            self.add(f"{what}: {error}")
            return None
