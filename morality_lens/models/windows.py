"""The context window of a model: the limit that its configuration states, or where its rope changes."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

NAMES = (
    "max_position_embeddings", "n_positions", "seq_length", "max_seq_len", "max_sequence_length", "n_ctx",
)  # fmt: skip
"""Names that configurations have for the length of the context window."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """How many tokens a model may read.

    Attributes:
        tokens: the limit.
        stated: the limit that the configuration states.
        reason: why it is lower than stated; empty where it is not.
    """

    tokens: int
    stated: int
    reason: str = ""


def context_window(config: Any) -> Window:
    """The window of a model.

    Rope that changes once any row of a batch passes some length (LongRoPE, dynamic NTK) rotates keys that
    were cached before in one way and later ones in another, and rows beside the long one in its way: the
    window ends where it changes.

    Args:
        config: of the text model.

    Raises:
        ValueError: the configuration states no window.
    """
    stated = next((int(n) for name in NAMES if (n := getattr(config, name, None))), None)
    if stated is None:
        raise ValueError(
            f"the configuration of this {config.model_type} model states no context window (none of "
            f"{', '.join(NAMES)}); write the length it was trained on into its config.json as "
            "max_position_embeddings."
        )
    switches = [(at, kind) for kind, at in _switches(config, stated) if at < stated]
    if not switches:
        return Window(tokens=stated, stated=stated)
    at, kind = min(switches)
    reason = (
        f"its rotary position embedding ({kind}) changes for a whole batch once one row is longer than {at} "
        f"tokens, so dialogues are limited to {at} of the {stated} tokens of its context window"
    )
    return Window(tokens=at, stated=stated, reason=reason)


def warn_if_limited(window: Window, name: str) -> None:
    """A warning where the window is shorter than stated."""
    if window.reason:
        warnings.warn(f"{name}: {window.reason}.", stacklevel=3)


def _switches(config: Any, stated: int) -> Iterator[tuple[str, int]]:
    """Kinds of rope that change with length, and the last length before the change."""
    held = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested = [value for value in held.values() if isinstance(value, Mapping)]
    for one in nested or [held]:
        kind = str(one.get("rope_type", one.get("type", "default")))
        original = one.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", None
        )
        if kind == "longrope":
            yield kind, int(original or stated)
        elif "dynamic" in kind:
            yield kind, min(stated, int(original or stated))
