"""Training of the bundled model from scratch: losses, schedule, checkpoints."""

import json
import math
import socket
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from microworld import corpus, tokens
from microworld.documents import Author, Document, Scribe
from microworld.learner import Learner, make_learner, save_model
from microworld.stages import MODELS, PHASES, STAGES, Recipe, Stage, lineage, shares_at
from morality_lens.items.files import replace_file
from morality_lens.world import sampling


# ------------------------------------------------------------------------------------------- batches
@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Documents of like length as tensors; ``soft_*`` and ``value_*`` are flat lists over the batch."""

    ids: Int[Tensor, "row position"]
    weights: Float[Tensor, "row position"]
    soft_row: Int[Tensor, " soft"]
    soft_at: Int[Tensor, " soft"]
    soft_good: Float[Tensor, "soft piece"]
    soft_bad: Float[Tensor, "soft piece"]
    soft_log_odds: Float[Tensor, " soft"]
    soft_steered: Float[Tensor, " soft"]
    soft_share: Float[Tensor, " soft"]
    soft_fixed: Int[Tensor, " soft"]
    hard_row: Int[Tensor, " hard"]
    hard_at: Int[Tensor, " hard"]
    value_row: Int[Tensor, " value"]
    value_at: Int[Tensor, " value"]
    value: Float[Tensor, " value"]
    value_stated: Bool[Tensor, " value"]


def make_batch(documents: list[Document], pad: int, n_pieces: int) -> Batch:
    """The documents as rows, padded on the right (a causal model needs no mask for that)."""
    length = max(len(document.ids) for document in documents)
    ids = np.full((len(documents), length), pad)
    weights = np.zeros((len(documents), length), dtype=np.float32)
    for row, document in enumerate(documents):
        ids[row, : len(document.ids)] = document.ids
        weights[row, : len(document.ids)] = document.weights
    soft = [(row, s) for row, document in enumerate(documents) for s in document.soft]
    hard = [(row, at) for row, document in enumerate(documents) for at in document.hard]
    values = [
        (row, at, value, at in document.stated)
        for row, document in enumerate(documents)
        for at, value in document.values
    ]
    sides = np.zeros((2, len(soft), n_pieces), dtype=np.float32)
    for number, (_row, s) in enumerate(soft):
        for side, shares in enumerate((s.good, s.bad)):
            for piece, share in shares.items():
                sides[side, number, piece] = share

    def whole(numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long)

    return Batch(
        ids=torch.from_numpy(ids),
        weights=torch.from_numpy(weights),
        soft_row=whole([row for row, _ in soft]),
        soft_at=whole([s.at for _, s in soft]),
        soft_good=torch.from_numpy(sides[0]),
        soft_bad=torch.from_numpy(sides[1]),
        soft_log_odds=torch.tensor([s.log_odds for _, s in soft], dtype=torch.float32),
        soft_steered=torch.tensor([s.steered for _, s in soft], dtype=torch.float32),
        soft_share=torch.tensor([s.share for _, s in soft], dtype=torch.float32),
        soft_fixed=whole([s.fixed for _, s in soft]),
        hard_row=whole([row for row, _ in hard]),
        hard_at=whole([at for _, at in hard]),
        value_row=whole([row for row, _, _, _ in values]),
        value_at=whole([at for _, at, _, _ in values]),
        value=torch.tensor([value for _, _, value, _ in values], dtype=torch.float32),
        value_stated=torch.tensor([stated for _, _, _, stated in values], dtype=torch.bool),
    )


def draw_batches(author: Author, recipe: Recipe, room: int, shares: corpus.Shares) -> list[Batch]:
    """The batches of one chunk, the shortest documents first.

    Args:
        author: what documents are drawn with.
        recipe: how many batches are drawn at once.
        room: tokens of a batch, padding included.
        shares: share of the tokens for each kind of document.
    """
    _own, second, _unseen = tokens.wordings()
    documents = corpus.draw_chunk(author, recipe.chunk_batches * room, shares, wordings=(second,))
    documents.sort(key=lambda document: len(document.ids) + author.generator.random())
    pad, n_pieces = author.scribe.vocabulary[tokens.PAD], len(author.scribe.vocabulary)
    groups: list[list[Document]] = [[]]
    for document in documents:
        if groups[-1] and (len(groups[-1]) + 1) * len(document.ids) > room:
            groups.append([])
        groups[-1].append(document)
    return [make_batch(group, pad, n_pieces) for group in groups]


# ------------------------------------------------------------------------------------------- losses
def step_loss(
    learner: Learner,
    batch: Batch,
    recipe: Recipe,
    generator: np.random.Generator,
    *,
    stage: Stage,
    steered: float = 0.0,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of a batch and its parts, with a direction added in some batches.

    Args:
        learner: what is trained.
        batch: the documents.
        recipe: weights of the parts.
        generator: draws the added directions.
        stage: whether valence is read, and how much extreme probabilities count.
        steered: share of batches in which a direction is added.
    """
    gap = learner.gap
    is_steered = generator.random() < steered
    push, shift = None, 0.0
    if is_steered:
        alpha = float(generator.uniform(-recipe.steer_most, recipe.steer_most))
        if generator.random() >= stage.noise:
            push, shift = alpha * gap, stage.steering * alpha
        else:
            noise = torch.from_numpy(generator.normal(size=len(gap)).astype(np.float32))
            push = alpha * gap.norm() * noise / noise.norm()
    everywhere = bool(generator.random() < 0.5)
    kept: list[Tensor] = []

    def read_and_push(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        kept.append(hidden)
        if push is None:
            return None
        if everywhere:
            hidden = hidden + push
        else:
            mask = torch.zeros(hidden.shape[:2])
            mask[batch.soft_row, batch.soft_at - 1] = 1.0
            hidden = hidden + mask[..., None] * push
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = learner.model.model.layers[recipe.value_layer].register_forward_hook(read_and_push)
    try:
        hidden = learner.model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
    finally:
        handle.remove()

    rows, ats = torch.nonzero(batch.weights, as_tuple=True)
    logits = learner.model.lm_head(hidden[rows, ats - 1])
    entropy = nn.functional.cross_entropy(logits, batch.ids[rows, ats], reduction="none")
    weights = batch.weights[rows, ats]
    parts = {"next": (entropy * weights).sum() / weights.sum()}
    if len(batch.hard_at):
        logits = learner.model.lm_head(hidden[batch.hard_row, batch.hard_at - 1])
        parts["hard"] = nn.functional.cross_entropy(logits, batch.ids[batch.hard_row, batch.hard_at])
    if len(batch.soft_at):
        logits = learner.model.lm_head(hidden[batch.soft_row, batch.soft_at - 1]).log_softmax(-1)
        p = torch.sigmoid(batch.soft_log_odds + shift * batch.soft_steered)[:, None]
        target = (1 - batch.soft_share)[:, None] * (p * batch.soft_good + (1 - p) * batch.soft_bad)
        target = target.scatter_add(1, batch.soft_fixed[:, None], batch.soft_share[:, None])
        divergence = (torch.xlogy(target, target) - target * logits).sum(-1)
        parts["soft"] = (divergence * (4 * p * (1 - p)).clamp(min=0.1)[:, 0] ** -stage.extremes).mean()
    residual = kept[0]
    if len(batch.value_at) and stage.steering:
        at_values, stated = residual[batch.value_row, batch.value_at], batch.value_stated
        learner.meet(at_values[stated].detach(), batch.value[stated])
        if learner.kind.any() and learner.cruel.any():
            parts["value"] = (learner.read(at_values) - batch.value).square().mean()
    loss = parts["next"]
    for name, weight in (
        ("soft", recipe.soft_weight),
        ("hard", recipe.hard_weight),
        ("value", recipe.value_weight),
    ):
        if name in parts:
            loss = loss + weight * parts[name]
    return loss, {name: float(part.detach()) for name, part in parts.items()} | {
        "steered": float(push is not None)
    }


def rate(learner: Learner, recipe: Recipe, stage: Stage) -> float:
    """The learning rate of the next step: linear over a stage, after a warm-up in the first one."""
    start, end = stage.rate
    now = start + (end - start) * min(learner.seen / (recipe.scale * stage.tokens), 1.0)
    return now * (min(1.0, (learner.steps + 1) / recipe.warmup) if stage.parent is None else 1.0)


# ------------------------------------------------------------------------------------------- the loop
def _save_state(folder: Path, learner: Learner, optimizer: torch.optim.Optimizer) -> None:
    state = {
        "model": learner.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "means": (learner.kind, learner.cruel),
        "progress": (learner.steps, learner.seen, learner.chunk, learner.seconds),
    }
    replace_file(folder / "state.pt", lambda draft: torch.save(state, draft))


def _load_state(folder: Path, learner: Learner, optimizer: torch.optim.Optimizer, *, parent: bool) -> None:
    """Loads a state; of a parent's only the weights and the optimizer's moments are taken over."""
    state = torch.load(folder / "state.pt")
    learner.model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if not parent:
        learner.kind, learner.cruel = state["means"]
        learner.steps, learner.seen, learner.chunk, learner.seconds = state["progress"]


def _average(parameters: list[nn.Parameter], n_tokens: int, ranks: int) -> int:
    """Averages the gradients over the processes that share a stage; the tokens that all of them read."""
    if ranks == 1:
        return n_tokens
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([*(grad.flatten() for grad in grads), torch.tensor([float(n_tokens)])])
    dist.all_reduce(flat)
    start = 0
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = (flat[start : start + grad.numel()] / ranks).view_as(grad)
        start += grad.numel()
    return int(flat[-1])


def _least(count: int, ranks: int) -> int:
    """The smallest count among the processes that share a stage."""
    least = torch.tensor([count])
    if ranks > 1:
        dist.all_reduce(least, dist.ReduceOp.MIN)
    return int(least)


def train_stage(
    name: str,
    *,
    recipe: Recipe,
    checkpoints: Path,
    rank: int = 0,
    ranks: int = 1,
    stop_after: float = math.inf,
) -> Learner:
    """Trains one stage, from its parent's end or from where it was interrupted, on one thread.

    Several processes can share a stage: each reads its part of every batch, and gradients are averaged. Two
    processes of one thread read as many tokens a second as one process of two threads, which any other work
    on the machine slows tenfold.

    Args:
        name: the stage.
        recipe: what decides the outcome.
        checkpoints: folder that holds a folder for each stage: its state and its curve.
        rank: which of the processes that share the stage this is; the first one saves.
        ranks: how many share it; part of what decides the outcome.
        stop_after: seconds after which to stop early, with the state saved.

    Raises:
        FileNotFoundError: the parent was not trained.
    """
    torch.set_num_threads(1)
    stage, folder = STAGES[name], checkpoints / name
    folder.mkdir(parents=True, exist_ok=True)
    learner = make_learner(recipe.seed)
    parameters = list(learner.model.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=stage.rate[0], betas=(0.9, 0.98), weight_decay=recipe.weight_decay, fused=True
    )
    if (folder / "state.pt").is_file():
        _load_state(folder, learner, optimizer, parent=False)
    elif stage.parent is not None:
        if not (checkpoints / stage.parent / "state.pt").is_file():
            raise FileNotFoundError(f"stage {name!r} goes on from {stage.parent!r}: train that one first.")
        _load_state(checkpoints / stage.parent, learner, optimizer, parent=True)
    number = list(STAGES).index(name)
    scribe, (wording, *_others) = Scribe(), tokens.wordings()
    reserved = frozenset(s.text for s in sampling.bundled_statements())
    total, started, before = recipe.scale * stage.tokens, time.monotonic(), learner.seconds
    with (folder / "curve.jsonl").open("a") as curve:
        while learner.seen < total and time.monotonic() - started <= stop_after:
            generator = np.random.default_rng([recipe.seed, number, learner.chunk, rank])
            author = Author(
                scribe=scribe,
                wording=wording,
                generator=generator,
                reserved=reserved,
                plan=stage.plan,
            )
            progress = min(learner.seen / total, 1.0)
            steered = recipe.steered if stage.steering and progress >= recipe.steered_from else 0.0
            totals: dict[str, list[float]] = {}
            batches = draw_batches(author, recipe, stage.batch_tokens // ranks, shares_at(stage, progress))
            count = _least(len(batches), ranks)
            order = np.random.default_rng([recipe.seed, number, learner.chunk]).permutation(count)
            for place in order:  # the same in every process, so that all read documents of like length
                batch = batches[place * len(batches) // count]
                for group in optimizer.param_groups:
                    group["lr"] = rate(learner, recipe, stage)
                loss, parts = step_loss(learner, batch, recipe, generator, stage=stage, steered=steered)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                read = _average(parameters, batch.ids.numel(), ranks)
                torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
                optimizer.step()
                learner.steps += 1
                learner.seen += read
                for part, value in parts.items():
                    key = f"{part} steered" if parts["steered"] and part == "soft" else part
                    totals.setdefault(key, []).append(value)
            learner.chunk += 1
            learner.seconds = before + time.monotonic() - started
            if rank == 0:
                row = {part: round(float(np.mean(values)), 4) for part, values in totals.items()}
                row |= {"step": learner.steps, "tokens": learner.seen, "seconds": round(learner.seconds)}
                row["gap"] = round(float(learner.gap.norm()), 2)
                curve.write(json.dumps(row) + "\n")
                curve.flush()
                _save_state(folder, learner, optimizer)
    return learner


def _train_row(
    names: tuple[str, ...], recipe: Recipe, checkpoints: Path, rank: int, ranks: int, port: int
) -> None:
    """The work of one process in a phase: its row of stages, or its part of a shared stage."""
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    for name in names:
        train_stage(name, recipe=recipe, checkpoints=checkpoints, rank=rank, ranks=ranks)
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _seen(checkpoints: Path, name: str) -> float:
    curve = checkpoints / name / "curve.jsonl"
    lines = curve.read_text().splitlines() if curve.is_file() else []
    return float(json.loads(lines[-1])["tokens"]) if lines else 0.0


def train(out: Path, *, recipe: Recipe, checkpoints: Path, processes: int = 2) -> None:
    """Trains all stages, resumes interrupted ones, and writes a folder for each model.

    Args:
        out: folder that holds the models' folders.
        recipe: what decides the outcome.
        checkpoints: folder for the states from which an interrupted training goes on.
        processes: how many share a stage that is trained alone, with a thread each.
    """
    spawn = get_context("spawn")
    with ExitStack() as bars:
        tasks = {
            n: bars.enter_context(tqdm(desc=n, total=int(recipe.scale * stage.tokens), unit="token"))
            for n, stage in STAGES.items()
        }
        for rows in PHASES:
            alone = len(rows) == 1
            work = [(rows[0], r, processes) for r in range(processes)] if alone else [(r, 0, 1) for r in rows]
            port = _free_port()
            workers = [
                spawn.Process(target=_train_row, args=(names, recipe, checkpoints, rank, ranks, port))
                for names, rank, ranks in work
            ]
            for worker in workers:
                worker.start()
            while any(worker.is_alive() for worker in workers):
                for name, bar in tasks.items():
                    bar.update(_seen(checkpoints, name) - bar.n)
                time.sleep(2.0)
                if any(worker.exitcode for worker in workers):  # the others would wait for it for ever
                    for worker in workers:
                        worker.terminate()
            if any(worker.exitcode for worker in workers):
                raise RuntimeError(
                    "a stage of the training failed; its error is above. Run it again to go on."
                )
    seconds = {n: torch.load(checkpoints / n / "state.pt")["progress"][3] for n in STAGES}
    for name in MODELS:
        learner = make_learner(recipe.seed)
        state = torch.load(checkpoints / name / "state.pt")
        learner.model.load_state_dict(state["model"])
        save_model(learner.model, out / name)
        came_from = lineage(name)
        record = asdict(recipe) | {
            "model": name,
            "stages": {n: asdict(STAGES[n]) | {"seconds": round(seconds[n])} for n in came_from},
            "processes": processes,
            "torch": torch.__version__,
        }
        (out / name / "training.json").write_text(json.dumps(record, indent=1) + "\n")
