"""Side questions: they are read as plain transformers reads them, after the stored dialogue."""

from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from conftest import make_questions
from tiny import made_up_probe, tiny_run

from morality_lens.design import Condition
from morality_lens.dialogues import rendering, wording
from morality_lens.dialogues.rendering import Transcript
from morality_lens.dialogues.turns import evidence_turn
from morality_lens.dialogues.wording import load_wording
from morality_lens.models.loading import record_of
from morality_lens.rounds.replay import dialogue_after, wording_of
from morality_lens.rounds.side_questions import SideQuestion, ask

WORDING = load_wording()
CELLS = (Condition(), Condition(instruction="on", cot="on", feedback="on"))


@pytest.mark.parametrize("architecture", ["gpt2", "mistral", "gemma2", "neox"])
def test_an_aside_is_what_plain_transformers_says_after_the_stored_dialogue(
    zoo_folder, tmp_path, architecture
):
    items = make_questions(3)
    model, run = tiny_run(zoo_folder(architecture), tmp_path / "run", items, rounds=2)
    record, probe = record_of(model), made_up_probe(model)
    asides, wanted = [], []
    for item in items:
        for condition in CELLS:
            said = dialogue_after(record, run, item, condition, WORDING)
            stored = run.select(run.transcripts, item.id, condition)["token_ids"].iloc[-1]
            assert list(said[-1].token_ids) == stored.tolist()
            for history in (Transcript(), *said):
                turn = evidence_turn(item, "People say it was the Vel.", WORDING)
                asides.append(SideQuestion(history=history, turn=turn, replies=("A", "B", "C")))
                number = history.turns[-1][0] if history.turns else 0
                wanted.append(rendering.append_turn(record.renderer, history, turn, round=number))
    replies = ask(record, asides, probe=probe, limit=3, rows=7)
    letters = rendering.letter_tokens(record.renderer, 3)
    for reply, whole in zip(replies, wanted, strict=True):
        residuals, logits = zoo.fresh_pass(record, whole.token_ids)
        spread = torch.softmax(logits[-1].double(), -1)
        each = np.array([float(spread[list(t)].sum()) for t in letters])
        np.testing.assert_allclose(reply.mass, each.sum(), rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(reply.probabilities, each / each.sum(), rtol=2e-3, atol=1e-5)
        moral = (residuals[:, -1].astype(float) * probe.direction.values).sum(-1) + probe.intercept.values
        np.testing.assert_allclose(reply.projection, moral, rtol=1e-3, atol=1e-3)
        ids = torch.tensor([list(whole.token_ids)])
        out = record.lm.module.generate(
            ids, do_sample=False, max_new_tokens=3, eos_token_id=list(record.stops), pad_token_id=0
        )[0, ids.shape[1] :].tolist()
        plain = record.renderer.tokenizer.decode(
            [t for t in out if t not in record.stops], skip_special_tokens=True
        )
        assert reply.text == plain.strip()


def test_asides_after_a_history_that_the_template_rewrites(tmp_path, questions):
    folder = zoo.save_model(tmp_path / "model", "llama", template=zoo.FORGETTING)
    with pytest.warns(UserWarning, match="rewrites earlier turns"):
        model, run = tiny_run(folder, tmp_path / "run", questions, rounds=2)
    record = record_of(model)
    assert not record.prefix_reuse
    said = dialogue_after(record, run, questions[1], CELLS[1], WORDING)
    turn = evidence_turn(questions[1], "People say it was the Vel.", WORDING)
    replies = ask(record, [SideQuestion(history=h, turn=turn, replies=("A", "B", "C")) for h in said])
    letters = rendering.letter_tokens(record.renderer, 3)
    for number, (history, reply) in enumerate(zip(said, replies, strict=True)):
        whole = rendering.rerender(record.renderer, history, turn, round=number)
        _, logits = zoo.fresh_pass(record, whole.token_ids)
        spread = torch.softmax(logits[-1].double(), -1)
        each = np.array([float(spread[list(t)].sum()) for t in letters])
        np.testing.assert_allclose(reply.probabilities, each / each.sum(), rtol=2e-3, atol=1e-5)


def test_an_aside_too_long_and_signs_without_tokens_are_refused(zoo_folder, tmp_path, questions):
    model, run = tiny_run(zoo_folder("llama"), tmp_path / "run", questions)
    record = record_of(model)
    said = dialogue_after(record, run, questions[0], CELLS[1], WORDING)[-1]
    long = evidence_turn(questions[0], "word " * 3000, WORDING)
    with pytest.raises(ValueError, match="window holds"):
        ask(record, [SideQuestion(history=said, turn=long, replies=("A", "B"))])
    turn = evidence_turn(questions[0], "Word.", WORDING)
    with pytest.raises(ValueError, match="cannot be told apart"):
        ask(record, [SideQuestion(history=said, turn=turn, replies=("A", "A"))])


def test_another_wording_than_the_runs_is_refused(zoo_folder, tmp_path, questions):
    _, run = tiny_run(zoo_folder("llama"), tmp_path / "run", questions)
    other = tmp_path / "words.toml"
    text = Path(wording.__file__).with_name("wording.toml").read_text()
    other.write_text(text.replace("Please look at your answer again.", "Look again."))
    with pytest.raises(ValueError, match="give the path of the file"):
        wording_of(run, str(other))
    assert wording_of(run).sha256 == WORDING.sha256


def test_a_stored_dialogue_that_other_words_do_not_make_is_refused(zoo_folder, tmp_path, questions):
    model, run = tiny_run(zoo_folder("llama"), tmp_path / "run", questions)
    words = WORDING.choice.model_copy(update={"review": ("Look again, please.",)})
    other = WORDING.model_copy(update={"choice": words})
    with pytest.raises(ValueError, match="stored dialogue of item q0"):
        dialogue_after(record_of(model), run, questions[0], CELLS[0], other)
