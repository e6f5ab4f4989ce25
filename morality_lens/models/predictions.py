"""The most probable next token at many places of a pass, without the logits of all of them at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from morality_lens.models.decoding import LanguageModel, widened

AT_ONCE = 1024
"""Places whose logits are computed together."""


@contextmanager
def predicting(lm: LanguageModel, places: Bool[Tensor, "row new"]) -> Iterator[list[int]]:
    """While open, a pass leaves here what the model would say next at each place, row by row.

    What a model does to its logits afterwards (a cap, a scale) keeps their order. The pass may read one place
    a row only: this looks at what comes before that.

    Args:
        lm: the model.
        places: of the tokens that are fed.
    """
    found: list[int] = []

    def before_head(_: Any, args: tuple) -> None:
        chosen = args[0][places.to(args[0].device)]
        for part in chosen.split(AT_ONCE):
            with torch.no_grad():
                found.extend(widened(lm.head.forward(part[None])[0]).argmax(-1).tolist())

    handle = lm.head.register_forward_pre_hook(before_head)
    try:
        yield found
    finally:
        handle.remove()
