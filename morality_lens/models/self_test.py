"""The self-test of a loaded model: captured residuals equal those of transformers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.dialogues import rendering
from morality_lens.dialogues.rendering import HistoryRewrittenError, Renderer, Transcript
from morality_lens.dialogues.turns import statement_turn
from morality_lens.models.decoding import LanguageModel, feed, prefill, start, widened
from morality_lens.progress import stage

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""Largest accepted relative difference (of a residual vector's norm) in a self-test, by dtype."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One property tested when a model is loaded: the measured difference and its tolerance."""

    name: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= self.tolerance


REPLIES = ("\n A", " B.", "The answer is A. ", "", "No.\nYes.", "Neither of them was kind. " * 4)
"""Replies that templates trim, join or rewrite: blanks at an edge, no words, several lines, a long one."""


def played_dialogues(renderer: Renderer) -> list[list[int]]:
    """The tokens of dialogues of three turns, made as they are when they are played.

    Raises:
        ValueError: the template refuses such a dialogue, or changes what is said.
    """
    rows = []
    for first, second in zip(REPLIES[::2], REPLIES[1::2], strict=True):
        texts = ("Two people met at the market. Who was kind?", "Is this fair?", "Yes.")
        rows.append(_played(renderer, texts, (first, second)))
    return rows


def _played(renderer: Renderer, texts: Sequence[str], replies: Sequence[str]) -> list[int]:
    """The tokens of a dialogue up to the prompt for the reply that follows its last text."""
    said = Transcript()
    for number, text in enumerate(texts):
        try:
            said = rendering.append_turn(renderer, said, statement_turn(text), round=number)
        except HistoryRewrittenError:
            said = rendering.rerender(renderer, said, statement_turn(text), round=number)
        said = rendering.begin_reply(renderer, said, round=number)
        if number < len(replies):
            ids = rendering.encode(renderer, replies[number])[0]
            said = rendering.append_reply(renderer, said, ids, "answer", round=number)
    return list(said.token_ids)


# --------------------------------------------------------------------------------------------- self-test
def self_test(bridge: TransformerBridge, lm: LanguageModel, renderer: Renderer) -> tuple[Check, ...]:
    """Test on dialogues of three turns that captured residuals equal those that transformers computes.

    Raises:
        ValueError: a check failed; the message has the measured difference and what to try.
    """
    rows = played_dialogues(renderer)
    stage("running the self-test: three dialogues, read in five ways, must give the same residuals")
    reference = [_reference(lm, row) for row in rows]
    tolerance, norm = TOLERANCE[next(lm.module.parameters()).dtype], _module_before_head(lm)
    bos = renderer.bos_id

    def check(name: str, measured: Callable[[], float], allowed: float = tolerance) -> Check:
        return Check(name=name, difference=measured(), tolerance=allowed)

    def alone() -> float:
        pairs = zip(rows, reference, strict=True)
        return max(_captured(lm, [row], [states], norm=norm) for row, states in pairs)

    checks = (
        check(
            "exactly one BOS token at the start (none where the model has none)",
            lambda: 0.0 if bos is None else float(sum(row[0] != bos or row[1] == bos for row in rows)),
            0.0,
        ),
        check("hooked residuals equal transformers' hidden states", alone),
        check(
            "TransformerBridge residuals equal transformers' hidden states",
            lambda: max(_bridged(bridge, lm, row) for row in rows),
            # parts of attention are float32 in some models, whatever dtype is requested
            max(tolerance, 1e-6),
        ),
        check("a padded batch equals each row alone", lambda: _captured(lm, rows, reference, norm=norm)),
        check(
            "a cached continuation equals a fresh forward",
            lambda: _captured(lm, rows, reference, norm=norm, split=True),
        ),
    )
    _refuse_failed(checks)
    # Last, since a model that is wrong about positions would leave the window here.
    end = check(
        "a row beside one at the end of the context window equals the row alone",
        lambda: _beside_the_end(lm, rows[0], reference[0]) if lm.cached else 0.0,
    )
    _refuse_failed([end])
    return (*checks, end)


def _refuse_failed(checks: Sequence[Check]) -> None:
    """Nothing, where all passed.

    Raises:
        ValueError: one failed.
    """
    failed = [c for c in checks if not c.passed]
    if failed:
        listed = "; ".join(f"{c.name}: {c.difference:.2g} where {c.tolerance:.0e} is allowed" for c in failed)
        raise ValueError(
            f'the model failed its self-test ({listed}). Try dtype="float32", or device="cpu" to rule out a '
            "kernel; an architecture that fails there is not supported."
        )


def _reference(lm: LanguageModel, row: list[int]) -> Float[Tensor, "layer pos d_model"]:
    """transformers' own hidden states of one unpadded row; the last one is after the final norm."""
    ids = torch.tensor([row], device=lm.device)
    with torch.no_grad(), _short_head(lm):
        states = lm.module(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    return widened(torch.cat([s.to(lm.device) for s in states]))


@contextmanager
def _short_head(lm: LanguageModel) -> Iterator[None]:
    """While open, logits are of the last token alone: nothing here reads them, and vocabularies are large."""
    handle = lm.head.register_forward_pre_hook(lambda _, args: (args[0][:, -1:], *args[1:]))
    try:
        yield
    finally:
        handle.remove()


def _difference(got: Float[Tensor, "... d_model"], want: Float[Tensor, "... d_model"]) -> float:
    """Largest distance of two vectors, in units of the wanted one's norm."""
    gap = (got - want).norm(dim=-1) / want.norm(dim=-1).clamp(min=1e-12)
    return float(gap.max()) if bool(torch.isfinite(gap).all()) else float("inf")


def _final_norm(
    lm: LanguageModel, norm: torch.nn.Module | None, residual: Float[Tensor, "... d_model"]
) -> Float[Tensor, "... d_model"]:
    """The output of the final norm for a residual, which is the input of the head.

    Args:
        lm: the model.
        norm: that module, from :func:`_module_before_head`; without it all blocks are passed.
        residual: after the last block.
    """
    given = residual.to(next(lm.module.parameters()).dtype)
    if norm is not None:
        with torch.no_grad():
            return widened(norm(given))
    caught: list[Tensor] = []
    handle = lm.blocks[-1].register_forward_hook(
        lambda _, __, out: (
            (given.to(out[0].dtype), *out[1:]) if isinstance(out, tuple) else given.to(out.dtype)
        )
    )
    catch = lm.head.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    try:
        with torch.no_grad(), _short_head(lm):
            ids = torch.zeros(residual.shape[:2], dtype=torch.long, device=lm.device)
            lm.module(input_ids=ids, use_cache=False)
    finally:
        handle.remove()
        catch.remove()
    return widened(caught[0])


def _module_before_head(lm: LanguageModel) -> torch.nn.Module | None:
    """The one module that makes the head's input of the last block's output; None where it is not one alone.

    A pass over one token shows it; then the norm of a residual takes no pass through all blocks.
    """
    made: list[tuple[torch.nn.Module, Tensor, Tensor]] = []
    ends: list[Any] = []

    def note(module: torch.nn.Module, args: tuple, output: Any) -> None:
        if len(args) == 1 and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            made.append((module, args[0], output))

    handles = [module.register_forward_hook(note) for module in lm.module.modules()]
    handles.append(lm.blocks[-1].register_forward_hook(lambda _, __, out: ends.append(out)))
    handles.append(lm.head.register_forward_pre_hook(lambda _, args: ends.append(args[0])))
    try:
        with torch.no_grad():
            lm.module(input_ids=torch.zeros(1, 1, dtype=torch.long, device=lm.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    last = ends[0][0] if isinstance(ends[0], tuple) else ends[0]
    fitting = [module for module, given, output in made if _same(given, last) and _same(output, ends[1])]
    return fitting[0] if len(fitting) == 1 else None


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same numbers in the same place; a view of all of them is."""
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape


def _captured(
    lm: LanguageModel,
    rows: list[list[int]],
    reference: list[Tensor],
    *,
    norm: torch.nn.Module | None,
    split: bool = False,
) -> float:
    """Largest difference between captured residuals and the reference, over all positions."""
    batch = start(lm, len(rows))
    parts: list[list[list[int]]] = [rows]
    if split:  # the first tokens, then the rest; rows are split at different places
        cut = [max(1, len(row) // 2 - i) for i, row in enumerate(rows)]
        parts = [
            [row[:c] for row, c in zip(rows, cut, strict=True)],
            [row[c:] for row, c in zip(rows, cut, strict=True)],
        ]
    pieces: list[list[Tensor]] = [[] for _ in rows]
    for number, part in enumerate(parts):
        width = max(len(p) for p in part)
        every = torch.eye(width, device=lm.device).expand(len(rows), width, width)
        run = prefill if number == 0 else feed
        _, reads = run(lm, batch, part, every)
        assert reads is not None  # weights were given
        for row, tokens in enumerate(part):
            pieces[row].append(reads[row, : len(tokens)])
    worst = 0.0
    for row, want in enumerate(reference):
        got = torch.cat(pieces[row]).transpose(0, 1)
        last = _final_norm(lm, norm, got[-1:])
        worst = max(worst, _difference(got[:-1], want[:-1]), _difference(last[0], want[-1]))
    return worst


def _beside_the_end(lm: LanguageModel, row: list[int], reference: Tensor) -> float:
    """Largest difference between a row's hidden states beside a row of the last positions, and its own alone.

    Rope that changes with the length of a batch changes the short row with the long one; only positions are
    set, so nothing of that length is read.
    """
    ids = torch.tensor([row, row], device=lm.device)
    step = torch.arange(len(row), device=lm.device)
    places = torch.stack([step, step + max(0, lm.window - len(row))])
    with torch.no_grad(), _short_head(lm):
        states = lm.module(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=places,
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        lm.module(input_ids=ids[:1, :1], use_cache=False)  # rope that grew with the batch is set back
    return _difference(widened(torch.stack([s[0].to(lm.device) for s in states])), reference)


def _bridged(bridge: TransformerBridge, lm: LanguageModel, row: list[int]) -> float:
    """Largest difference between the bridge's residuals and the hidden states, after all blocks but the last.

    A bridge computes attention step by step ("eager"), so transformers is set to do the same: in half
    precision its faster kernels differ by more than an error would.
    """
    kernel = lm.module.config._attn_implementation
    lm.module.set_attn_implementation("eager")
    try:
        want = _reference(lm, row)[1:-1]
    finally:
        lm.module.set_attn_implementation(kernel)
    if not len(want):
        return 0.0
    names = [f"blocks.{i}.hook_out" for i in range(len(want))]
    ids = torch.tensor([row], device=lm.device)
    _, cache = bridge.run_with_cache(ids, names_filter=names, prepend_bos=False)
    return _difference(widened(torch.cat([cache[name].to(want.device) for name in names])), want)
