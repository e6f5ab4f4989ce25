"""Decoding: replies of a batch that rows leave one after the other are those of plain transformers."""

import itertools
from contextlib import contextmanager

import families
import numpy as np
import pytest
import torch
import zoo

from morality_lens.models import beginnings, decoding
from morality_lens.models.decoding import Draws
from morality_lens.models.loading import load_model, record_of

ENDS = (3, 40, 9, 1, 40, 3, 5, 0, 40, 11)
"""Tokens of each row's reply; the last ones take more slots than there is room for."""
ROWS = len(ENDS)
ARCHITECTURES = (*zoo.ARCHITECTURES, "Jamba", "BLOOM", "GPT-OSS")


SINGLE = ("Jamba", "GPT-OSS")
"""Their experts have no float64."""


def loaded(architecture, zoo_folder, tmp_path):
    """A model's record, and how far its numbers may be from those of plain transformers."""
    if architecture in zoo.ARCHITECTURES:
        folder = zoo_folder(architecture)
    else:
        folder = families.save_family(families.FAMILIES[architecture], tmp_path / "family")
    single = architecture in SINGLE
    return record_of(load_model(folder, dtype="float32" if single else "float64")), 1e-5 if single else 1e-11


@pytest.fixture
def prompts():
    rng = np.random.default_rng(0)
    return [rng.integers(4, 300, size).tolist() for size in (30, 33, 31, 40, 28, 30, 36, 30, 39, 30)]


def ending(sizes):
    """Rows end after so many tokens each."""
    return lambda row, tokens: len(tokens) > sizes[row]


@contextmanager
def rows_fed(lm):
    """While open, the number of rows of every pass is noted."""
    seen: list[int] = []
    handle = lm.module.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(len(inputs["input_ids"])), with_kwargs=True
    )
    try:
        yield seen
    finally:
        handle.remove()


def alone(record, row, words):
    """What plain transformers writes after a row and each of its words, and their residuals."""
    residuals, logits = zoo.fresh_pass(record, [*row, *words])
    return logits[len(row) - 1 :].argmax(-1).tolist(), residuals[:, len(row) :]


def differs(got, want) -> float:
    return float((got - want).norm(dim=-1).max() / want.norm(dim=-1).max())


@pytest.mark.filterwarnings("ignore:.*rewrites earlier turns", "ignore:.*rotary position embedding")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_that_end_leave_the_passes_and_are_there_for_the_next_turn(
    architecture, zoo_folder, tmp_path, prompts
):
    record, within = loaded(architecture, zoo_folder, tmp_path)
    lm = record.lm
    batch = decoding.start(lm, ROWS)
    logits, _ = decoding.prefill(lm, batch, prompts)
    sizes, said = [list(ENDS), [4, 0, 2, 4, 4, 1, 1, 4, 2, 3]], [list(p) for p in prompts]
    turns = [[[5 + row, *range(6, 6 + row % 4)] for row in range(ROWS)]]
    for number, limits in enumerate(sizes):
        with rows_fed(lm) as fed:
            reply = decoding.generate(
                lm, batch, logits, limit=max(limits), stops=frozenset(), ends=ending(limits)
            )
        needed = [sum(n > step for n in limits) for step in range(max(limits))]
        for n, rows in zip(needed, fed, strict=True):
            assert n <= rows < 4 * n / 3 if lm.cached else rows == n
        for row, size in enumerate(limits):
            words = reply.tokens[row]
            wanted, residuals = alone(record, said[row], words)
            assert words == wanted[:size]
            assert reply.stopped[row] is (size < max(limits))
            if size:
                assert differs(reply.end[row], torch.tensor(residuals[:, -1])) < within
                assert differs(reply.mean[row], torch.tensor(residuals.mean(1))) < within
            else:
                assert reply.end[row].isnan().all()
            said[row] += words
        assert batch.tokens == said
        if number < len(turns):
            logits, _ = decoding.prefill(lm, batch, turns[number])
            for row, new in enumerate(turns[number]):
                said[row] += new
                want = zoo.fresh_pass(record, said[row])[1][-1]
                assert differs(logits[row], want) < within


@pytest.fixture(scope="module")
def llama(zoo_folder):
    return record_of(load_model(zoo_folder("llama"), dtype="float64"))


def test_a_row_draws_the_same_tokens_whoever_leaves_beside_it(llama, prompts):
    """Its random numbers are its own, by row and step."""
    keys, sampled = [f"row {r}" for r in range(ROWS)], []
    for chosen in (range(ROWS), (4,), (8, 1, 0)):
        batch = decoding.start(llama.lm, len(chosen))
        logits, _ = decoding.prefill(llama.lm, batch, [prompts[r] for r in chosen])
        reply = decoding.generate(
            llama.lm,
            batch,
            logits,
            limit=20,
            stops=frozenset(),
            draws=Draws.of(0, [keys[r] for r in chosen], 20, 1.5),
            ends=ending([ENDS[r] for r in chosen]),
        )
        sampled.append(dict(zip(chosen, reply.tokens, strict=True)))
    assert sampled[1].items() <= sampled[0].items()
    assert sampled[2].items() <= sampled[0].items()


def test_a_row_that_is_done_before_is_as_it_was(llama, prompts):
    batch = decoding.start(llama.lm, ROWS)
    logits, _ = decoding.prefill(llama.lm, batch, prompts)
    done = [r % 3 > 0 for r in range(ROWS)]
    reply = decoding.generate(llama.lm, batch, logits, limit=4, stops=frozenset(), done=done)
    assert [len(t) for t in reply.tokens] == [0 if d else 4 for d in done]
    again, _ = decoding.prefill(llama.lm, batch, [[9]] * ROWS)
    for row in range(ROWS):
        want = zoo.fresh_pass(llama, [*prompts[row], *reply.tokens[row], 9])[1][-1]
        assert differs(again[row], want) < 1e-11


# --------------------------------------------------------------------------------------------- copies
def storages(batch):
    return [
        t.untyped_storage().data_ptr() for layer in batch.cache.layers for t in (layer.keys, layer.values)
    ]


def test_steps_are_written_in_place_and_rows_leave_without_a_copy(llama, prompts):
    """Neither a step nor a row that leaves moves the cache to other memory, while there is room."""
    batch = decoding.start(llama.lm, ROWS)
    logits, _ = decoding.prefill(llama.lm, batch, prompts)
    seen = set()

    def ends(row, tokens):
        seen.add(tuple(storages(batch)))
        return len(tokens) > ENDS[row] % 30

    decoding.generate(llama.lm, batch, logits, limit=decoding.RoomyLayer.ROOM, stops=frozenset(), ends=ends)
    assert len(seen) == 1


def test_taking_rows_copies_them_once_with_room(llama, prompts, monkeypatch):
    """The copy has room: the first step after it copies nothing again."""
    batch = decoding.start(llama.lm, ROWS)
    decoding.prefill(llama.lm, batch, prompts)
    copies = []
    reorder = decoding._reorder
    monkeypatch.setattr(decoding, "_reorder", lambda *a: (copies.append(1), reorder(*a))[1])
    taken = decoding.take(llama.lm, batch, [3, 3, 0, 8])
    assert len(copies) == 2 * len(batch.cache.layers)  # keys and values
    before = storages(taken)
    assert not set(before) & set(storages(batch))
    decoding.feed(llama.lm, taken, [[7]] * 4)
    assert storages(taken) == before


# ------------------------------------------------------------------------------------- common beginnings
def texts_like(*shape, seed=1):
    """Texts that share a beginning: (copies, shared tokens, own tokens) each."""
    rng, texts = np.random.default_rng(seed), []
    start = rng.integers(4, 300, 6).tolist()
    for copies, shared, own in shape:
        stem = [*start, *rng.integers(4, 300, shared).tolist()]
        texts += [[*stem, *rng.integers(4, 300, own + i).tolist()] for i in range(copies)]
    return [texts[i] for i in rng.permutation(len(texts))]


@pytest.mark.parametrize("architecture", ["gpt2", "mistral", "gemma3", "Jamba"])
def test_texts_read_with_common_beginnings_once_are_read_right(architecture, zoo_folder, tmp_path):
    record, within = loaded(architecture, zoo_folder, tmp_path)
    lm, texts = record.lm, texts_like((4, 40, 3), (3, 30, 5), (1, 35, 2))
    rng = np.random.default_rng(2)
    weights = torch.tensor(rng.random((len(texts), 2, max(map(len, texts)))), dtype=lm.module.dtype)
    plain, batch = decoding.start(lm, len(texts)), decoding.start(lm, len(texts))
    logits, reads = decoding.prefill(lm, plain, texts, weights)
    got, got_reads, fed = beginnings.prefill(lm, batch, texts, weights)
    assert fed == sum(map(len, texts)) if not lm.cached else fed < 0.5 * sum(map(len, texts))
    assert differs(got, logits) < within
    assert differs(got_reads, reads) < within
    assert batch.tokens == plain.tokens == texts
    again, wanted = (decoding.prefill(lm, b, [[5, 6]] * len(texts))[0] for b in (batch, plain))
    assert differs(again, wanted) < within


def test_the_fewest_tokens_are_read():
    """Compared with every way to cut the sorted texts into stretches."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        shape = [(int(rng.integers(1, 4)), int(rng.integers(0, 30)), int(rng.integers(1, 9))) for _ in "abc"]
        texts = texts_like(*shape, seed=seed)
        ordered = sorted(texts)
        fewest = sum(map(len, texts))
        for cuts in itertools.product((False, True), repeat=len(texts) - 1):
            at = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(texts)]
            read = 0
            for start, stop in itertools.pairwise(at):
                some = ordered[start:stop]
                stem = min(min(map(len, some)) - 1, *(beginnings.common_length(some[0], t) for t in some))
                read += stem + sum(len(t) - stem for t in some)
            fewest = min(fewest, read)
        stems = beginnings.stems_of(texts)
        if stems is None:
            assert fewest > (1 - beginnings.LEAST) * sum(map(len, texts))
        else:
            assert stems.fed(texts) == fewest


def test_texts_with_little_in_common_are_read_in_one_pass():
    assert beginnings.stems_of(texts_like((1, 40, 3), (1, 30, 5))) is None
    assert beginnings.stems_of([[1], [1], [1]]) is None
