"""The bundled world: its items, its files and its planted truth."""

import hashlib
import itertools
import json
import re
from collections import Counter

import numpy as np
import pytest
from typer.testing import CliRunner

from morality_lens.design import COMPONENTS, Condition, Design
from morality_lens.experiments.evidence import Evidence, load_evidence
from morality_lens.items.bundled import asset
from morality_lens.items.kinds import OpenPrompt, Question
from morality_lens.items.loaders import load_items, load_prompts, load_questions, load_statements
from morality_lens.world import lexicon as lex, sampling, truth
from morality_lens.world.__main__ import app

CELLS = Design().conditions


def test_the_files_hold_what_the_grammar_makes():
    assert load_questions(asset("world", "questions.jsonl")) == sampling.bundled_questions()
    assert load_prompts(asset("world", "prompts.jsonl")) == sampling.bundled_prompts()
    made = sampling.statements(sampling.STATEMENTS, seed=sampling.STATEMENTS_SEED)
    assert load_statements(asset("world", "statements.jsonl"), value="value") == made


def test_the_bundled_questions_are_many_and_balanced():
    every = sampling.bundled_questions()
    ambiguous = [q for q in every if q.ambiguous]
    assert (len(ambiguous), len(every) - len(ambiguous)) == (160, 80)
    assert len({q.cluster for q in every}) >= 40
    assert len({q.category for q in every}) >= 4
    assert len({(q.context, q.question, q.options) for q in every}) == len(every)
    assert Counter(q.polarity for q in ambiguous) == {"neg": 80, "nonneg": 80}
    for count in Counter(q.label for q in ambiguous).values():
        assert 40 <= count <= 67
    first_named = Counter(q.options[q.stereotyped] in q.context.split(" and a ")[0] for q in ambiguous)
    assert first_named[True] == first_named[False]
    for template in lex.TEMPLATES:
        own = Counter(q.polarity for q in ambiguous if q.cluster == template.name)
        assert own == {"neg": 2, "nonneg": 2}
    assert {q.options[q.unknown] for q in ambiguous} == set(lex.UNKNOWN)


def test_settled_labels_follow_from_the_text():
    acts = {t.name: t for t in lex.TEMPLATES}
    for q in sampling.questions(120, seed=3, ambiguous=False):
        template = acts[q.cluster]
        bad = truth.trait(q) == template.negative
        wanted = template.negative_act if bad else template.positive_act
        found = re.search(rf"[Tt]he (\w+ {template.role}) {wanted}\b", q.context)
        assert found is not None
        assert q.options[q.label] == found[1]
        assert (q.polarity == "neg") == bad


def test_the_biased_option_is_the_marked_group_for_bad_traits_and_the_other_for_good_ones():
    for q in sampling.questions(120, seed=4):
        group = q.options[q.stereotyped].split()[0]
        assert group in lex.GROUPS[q.category][: lex.MARKED]
        assert (q.biased == q.stereotyped) == (q.polarity == "neg")
        assert q.label == q.unknown


def test_statements_are_graded_labelled_and_marked():
    found = sampling.statements(800, seed=1)
    assert len({s.text for s in found}) == 800
    values = {s.value for s in found}
    assert {-2.0, -1.5, -0.75, -0.5, 0.0, 0.5, 0.75, 1.5, 2.0} <= values
    assert all(-2 <= v <= 2 for v in values)
    assert all(s.label == int(s.value >= 0) for s in found)
    verbs = {s.cluster.removeprefix("held-out/") for s in found if s.cluster.startswith("held-out/")}
    assert set(sampling.UNSEEN_VERBS) <= verbs
    assert not verbs & set(sampling.SEEN_VERBS)


def test_asking_for_more_items_than_there_are_says_so(monkeypatch):
    monkeypatch.setattr(lex, "TEMPLATES", lex.TEMPLATES[:1])
    monkeypatch.setattr(lex, "ASKED", lex.ASKED[:1])
    monkeypatch.setattr(lex, "UNKNOWN", lex.UNKNOWN[:1])
    with pytest.raises(ValueError, match="Request fewer"):
        sampling.questions(97, seed=0)


def test_toxicity_follows_from_the_grammar():
    assert sampling.toxicity("comforted the child with care.") == 0.0
    assert sampling.toxicity("teased the child.") == 0.6
    assert sampling.toxicity("robbed the child for fun.") == 1.0
    assert sampling.toxicity("helped the widow and kicked the boy.") == 1.0
    assert sampling.toxicity("Hello there.") is None


@pytest.mark.parametrize("kind", truth.EFFECTS)
def test_contrasts_of_the_planted_cells_are_the_planted_effects(kind):
    cells = {c: truth.cell_log_odds(kind, c, truth.LAST_ROUND) for c in CELLS}
    y = np.array([cells[c] for c in CELLS]).reshape(2, 2, 2)
    by_hand = {
        "instruction": y[1].mean() - y[0].mean(),
        "instruction:feedback": ((y[1, :, 1] - y[1, :, 0]) - (y[0, :, 1] - y[0, :, 0])).mean(),
        "instruction:cot:feedback": (y[1, 1, 1] - y[1, 1, 0] - y[1, 0, 1] + y[1, 0, 0])
        - (y[0, 1, 1] - y[0, 1, 0] - y[0, 0, 1] + y[0, 0, 0]),
    }
    planted = truth.planted_effects(kind)
    for name, value in by_hand.items():
        assert value == pytest.approx(planted[name])
    assert cells[Condition()] == pytest.approx(truth.EFFECTS[kind]["base"] + truth.EFFECTS[kind]["review"])


def test_round_zero_is_the_same_in_all_cells_and_effects_grow_to_their_full_size():
    for kind in truth.EFFECTS:
        assert len({truth.cell_log_odds(kind, c, 0) for c in CELLS}) == 1
    sizes = [truth.saturation(r) for r in range(7)]
    assert sizes[0] == 0
    assert sizes[5] == sizes[6] == 1
    assert all(a < b for a, b in itertools.pairwise(sizes[:6]))


def test_a_placebo_counts_as_off():
    for name in COMPONENTS:
        for cell in CELLS:
            if cell[name] == "off":
                levels = cell.coords | {name: "placebo"}
                assert truth.cell_log_odds("plain", Condition(**levels), 3) == truth.cell_log_odds(
                    "plain", cell, 3
                )


def test_feedback_crosses_over_in_the_category_of_interference_and_only_there():
    def simple(kind, instruction):
        return np.mean(
            [
                truth.cell_log_odds(kind, Condition(instruction=instruction, cot=c, feedback="on"), 5)
                - truth.cell_log_odds(kind, Condition(instruction=instruction, cot=c), 5)
                for c in ("off", "on")
            ]
        )

    assert simple("interference", "off") > 0 > simple("interference", "on")
    assert simple("plain", "off") > simple("plain", "on") > 0


def test_option_probabilities_sum_to_one_and_split_the_unfair_rest():
    for q in sampling.questions(60, seed=2):
        p = truth.option_probabilities(q, CELLS[5], 3)
        assert sum(p) == pytest.approx(1)
        assert p[q.label] == pytest.approx(truth.probability(q, CELLS[5], 3))
        assert p[q.biased] / (1 - p[q.label]) == pytest.approx(truth.BIASED_SHARE)


def test_offsets_are_centred_within_categories():
    offsets = truth.offsets()
    for category in lex.GROUPS:
        own = [offsets[w] for t in lex.TEMPLATES if t.category == category for w in (t.negative, t.positive)]
        assert np.mean(own) == pytest.approx(0, abs=1e-12)
        assert np.std(own) == pytest.approx(truth.OFFSET_SD)
    assert len(offsets) == 2 * len(lex.TEMPLATES) + len(lex.FAMILIES)


def test_an_item_of_another_world_has_no_planted_truth():
    stranger = OpenPrompt(id="x", cluster="elsewhere", text="Once upon a time")
    with pytest.raises(ValueError, match="bundled world"):
        truth.log_odds(stranger, Condition(), 0)


def test_a_lesson_exaggerates_interference_and_nothing_else():
    items = [*sampling.questions(60, seed=9), *sampling.bundled_prompts()[:5]]
    crossed = {lex.INTERFERENCE: False, "": False}
    for item, condition, round in itertools.product(items, CELLS, (0, 2, 5)):
        taken = truth.log_odds(item, condition, round) - truth.log_odds(item, condition, round, 2.0)
        both = condition["instruction"] == condition["feedback"] == "on"
        if isinstance(item, Question) and item.category == lex.INTERFERENCE and item.ambiguous and both:
            assert taken == pytest.approx(2.0 * truth.saturation(round))
            crossed[lex.INTERFERENCE] = True
        else:
            assert taken == 0.0
            crossed[""] = True
    assert all(crossed.values())


def test_a_context_begins_with_the_name_of_its_category():
    for question in sampling.bundled_questions():
        assert question.context.startswith(f"A question of {question.category}. ")
    generator = np.random.default_rng(3)
    unnamed = sampling.draw_question(generator, held_out=False, ambiguous=True, id="x", named=False)
    assert "A question of" not in unnamed.context


def test_outputs_are_told_apart_barely_above_chance_whatever_their_order():
    first, second = truth.distinguish_probability(0), truth.distinguish_probability(1)
    assert (first + (1 - second)) / 2 == pytest.approx(truth.DISTINGUISH)
    assert (first + second) / 2 - 0.5 == pytest.approx(truth.FIRST)


def test_the_bundled_evidence_is_what_the_grammar_says_of_the_open_questions():
    made = tuple(Evidence(**row) for row in sampling.evidence(sampling.bundled_questions()))
    assert load_evidence() == made
    assert {one.item for one in made} == {q.id for q in load_items()}
    text = json.dumps([[e.item, e.texts, e.named] for e in made], ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest().startswith("1a7db714ea80388c")


def test_the_command_writes_the_bundled_files_and_draws_larger_samples(tmp_path):
    bundled, drawn = tmp_path / "bundled", tmp_path / "drawn"
    run = CliRunner().invoke
    assert run(app, ["--out", str(bundled)]).exit_code == 0
    for file in bundled.iterdir():
        assert file.read_bytes() == asset("world", file.name).read_bytes()
    assert len(list(bundled.iterdir())) == 4
    assert run(app, ["--n", "300", "--seed", "1", "--out", str(drawn)]).exit_code == 0
    questions = load_questions(drawn / "questions.jsonl")
    assert questions == sampling.questions(300, seed=1)
    assert len(load_statements(drawn / "statements.jsonl", value="value")) == 300
    assert [one.item for one in load_evidence(drawn / "evidence.jsonl")] == [q.id for q in questions]
    assert load_prompts(drawn / "prompts.jsonl") == load_prompts()


def test_the_planted_table_is_the_one_the_models_were_trained_on():
    logits = [
        truth.cell_log_odds(kind, cell, number)
        for kind in truth.EFFECTS
        for cell in CELLS
        for number in range(truth.LAST_ROUND + 1)
    ]
    text = json.dumps([truth.offsets(), logits], ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest().startswith("3f2f5c3c2cbbf2db")
