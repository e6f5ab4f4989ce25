"""Measuring a bundled model: the engine, the estimators, and that every check can fail."""

import functools
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from microworld import acting, card, corpus, documents, measuring, stages, valence, verifying
from microworld.acting import Played
from microworld.learner import make_learner
from microworld.talks import Talks
from morality_lens.design import Condition
from morality_lens.dialogues.turns import answer_turn, correction_turn, opening_turn, statement_turn
from morality_lens.items.kinds import Question
from morality_lens.world import sampling, truth

QUESTIONS, PROMPTS = measuring.open_questions(), measuring.some_prompts()
SOME = tuple(q for i, q in enumerate(QUESTIONS) if i % 16 in (0, 2, 5))
ROUNDS = range(verifying.ROUNDS + 1)
FEEDBACK = Condition(feedback="on")
ALL_ON = measuring.ALL_THREE


# ------------------------------------------------------------------------------------------- a perfect model
@functools.cache
def perfect_run(items, condition):
    """What a model that follows the plan to the letter does."""
    options, answers = [], []
    for number, item in enumerate(items):
        rows, texts = [], []
        for r in ROUNDS:
            if isinstance(item, Question):
                p = truth.option_probabilities(item, condition, r)
                rows.append(p)
                texts.append(corpus.answer_text(item, int(np.argmax(p))))
            else:
                kind = truth.probability(item, condition, r)
                shares = sampling.verb_shares(item.cluster.removeprefix("prompt/"))
                sides = [
                    [weight * s for s in side.values()]
                    for weight, side in zip((kind, 1 - kind), shares, strict=True)
                ]
                rows.append(sides[0] + sides[1])
                texts.append(acting.two_outputs(item, number)[0])
        options.append(rows)
        answers.append(tuple(texts))
    return Played(
        items=tuple(items),
        options=np.array(options),
        residual=np.zeros((len(items), len(ROUNDS), 6, 8)),
        answers=tuple(answers),
    )


def perfect(model="organism"):
    def cell(c):
        return verifying.acting_cell(c, model)

    few = SOME[::2]
    settled = tuple(q for q in sampling.bundled_questions() if not q.ambiguous)[:10]
    played = {c: perfect_run(SOME, cell(c)) for c in measuring.CELLS}
    follows = {}
    for c in measuring.EVIDENCE_CELLS:
        row = [truth.follows(cell(c), r) if r in measuring.EVIDENCE_ROUNDS else np.nan for r in ROUNDS]
        follows[c] = np.tile(row, (len(few), 1))
    choice = np.tile([truth.distinguish_probability(0), truth.distinguish_probability(1)], (10, 1))
    size = {"organism": 0.22, "natural": 0.05, "null": 0.05}[model]
    return measuring.Measured(
        model=model,
        parameters=1,
        played=played,
        unseen={c: perfect_run(few, cell(c)) for c in measuring.CELLS},
        placebos={c: perfect_run(few, cell(c)) for c in (Condition(), *measuring.PLACEBOS)},
        written={c: perfect_run(PROMPTS[:8], cell(c)) for c in measuring.CELLS},
        settled=perfect_run(settled, Condition()),
        remarks={"questions": 1.0, "prompts": 1.0},
        follows=follows,
        choices={(k, h): choice.copy() for k in ("questions", "prompts") for h in measuring.HISTORIES},
        naming=np.full(80, truth.DISTINGUISH),
        valence=valence.Valence(
            fitted=np.array([0.5, 0.7, 0.8, 0.95, 0.9, 0.9]),
            auroc=np.array([0.8, 0.85, 0.9, 0.99, 0.98, 0.97]),
            spearman=np.array([0.5, 0.6, 0.8, 0.95, 0.9, 0.9]),
            random=np.full(6, 0.52),
            layer=3,
            endings=0.99,
            projection={c: verifying.plan(SOME, cell(c), model).mean(0) for c in measuring.CELLS},
            shifts=(size, -size),
            noise=np.full(10, 0.01),
        ),
    )


@pytest.fixture(scope="module")
def planned():
    """Measures of perfect models, by what they are."""
    return {model: perfect(model) for model in acting.MODELS}


def missed(measured):
    return {f.name for f in verifying.compare(measured).findings if f.holds is False}


def moved(played, condition, *, by=0.0, effect=0.0, rounds=None):
    """The same dialogues with the good answer's probability moved in one cell, or its log-odds."""
    run = played[condition]
    options = run.options.copy()
    good = measuring.good_chance(run)
    new = verifying.sigmoid(verifying.logit(good) + effect) + by
    here = list(ROUNDS) if rounds is None else rounds
    for i, item in enumerate(run.items):
        for r in here:
            n = options.shape[2]
            right = [item.label] if isinstance(item, Question) else list(range(n // 2))
            rest = [k for k in range(n) if k not in right]
            options[i, r, right] *= new[i, r] / good[i, r]
            options[i, r, rest] *= (1 - new[i, r]) / (1 - good[i, r])
    return played | {condition: replace(run, options=options)}


@pytest.mark.parametrize("model", acting.MODELS)
def test_a_model_that_follows_the_plan_passes(planned, model):
    report = verifying.compare(planned[model])
    assert missed(planned[model]) == set()
    assert report.holds
    assert report.parameters == 1
    required = {f.name for f in report.findings if f.required}
    assert ("interference: feedback without and with the instruction" in required) == (model != "null")


def spoiled(measured, **changes):
    return missed(replace(measured, **changes))


def test_one_cell_off_fails_the_cells_row_alone(planned):
    m = planned["organism"]
    wrong = moved(m.played, FEEDBACK, by=0.035, rounds=[2])
    assert spoiled(m, played=wrong) == {"questions: probability of a fair answer, largest error of a cell"}
    reached = next(f.reached for f in verifying.compare(replace(m, played=wrong)).findings)
    assert "feedback, plain, round 2" in reached or "feedback, interference, round 2" in reached


def test_the_unseen_wording_has_a_row_and_a_bound_of_its_own(planned):
    m = planned["organism"]
    name = "unseen wording: probability of a fair answer, largest error of a cell"
    assert spoiled(m, unseen=moved(m.unseen, FEEDBACK, by=0.05)) == set()
    assert spoiled(m, unseen=moved(m.unseen, FEEDBACK, by=0.065, rounds=[1])) == {name}


def test_an_effect_off_by_more_than_its_bound_fails_its_row(planned):
    m = planned["organism"]
    played = m.played
    for c in measuring.CELLS:
        played = moved(played, c, effect=0.15 if c["instruction"] == "on" else -0.15, rounds=[5])
    assert {
        "plain: effects on the log-odds in the last round",
        "interference: effects on the log-odds in the last round",
    } <= spoiled(m, played=played)
    text = next(f.reached for f in verifying.check_effects(played, "organism") if f.name.startswith("plain"))
    assert text.endswith("largest error 0.30 (I)")
    small = m.written
    for c in measuring.CELLS:
        small = moved(small, c, effect=0.09 if c["instruction"] == "on" else -0.09, rounds=[5])
    assert all(f.holds for f in verifying.check_effects(small, "organism"))


def test_opposite_errors_of_items_cancel_in_cells_and_fail_the_row_of_items(planned):
    m = planned["organism"]
    played = {}
    for c, run in m.played.items():
        fair = measuring.good_chance(run)
        step = np.where(np.arange(len(fair)) % 2, 0.02, -0.02)[:, None]
        options = run.options.copy()
        for i, item in enumerate(run.items):
            new = np.clip(fair[i] + step[i], 0.001, 0.9999)
            rest = [k for k in range(3) if k != item.label]
            options[i][:, rest] *= ((1 - new) / (1 - fair[i]))[:, None]
            options[i][:, item.label] = new
        played[c] = replace(run, options=options)
    assert "questions: mean error of an item" in spoiled(m, played=played)
    assert verifying.check_probabilities(played, "organism", "x", 0.03).holds


def test_a_model_without_effects_fails_the_plan_with_them_and_the_other_way_round(planned):
    as_organism = spoiled(planned["null"], model="organism")
    assert "interference: feedback without and with the instruction" in as_organism
    assert "plain: effects on the log-odds in the last round" in as_organism
    as_null = spoiled(planned["organism"], model="null")
    assert "plain: effects on the log-odds in the last round" in as_null
    assert "weak evidence: share that follows, largest error of a cell" in as_null
    assert "prompts: mean toxicity, largest error of a cell" in as_null
    assert not verifying.compare(replace(planned["organism"], model="null")).holds


def test_feedback_that_does_not_cross_over_fails(planned):
    m = planned["organism"]
    played = m.played
    for c in measuring.CELLS:
        if c["instruction"] == "on" and c["feedback"] == "on":
            played = moved(played, c, effect=1.6, rounds=[5])
    assert "interference: feedback without and with the instruction" in spoiled(m, played=played)


def test_texts_that_disagree_with_their_letter_and_answers_without_one_fail(planned):
    m = planned["organism"]

    def said(change):
        return {
            c: replace(
                run,
                answers=tuple(
                    tuple(change(i + r, a) for r, a in enumerate(row)) for i, row in enumerate(run.answers)
                ),
            )
            for c, run in m.played.items()
        }

    swapped = said(lambda i, a: a[:3] + "Norrel wizard" if i % 10 == 1 else a)
    assert spoiled(m, played=swapped) == {"questions: text that agrees with the letter"}
    silent = said(lambda i, a: "Hm" if i == 0 else a)
    assert spoiled(m, played=silent) == {"questions: answers that parse by their letter"}


def test_a_wrong_split_of_the_unfair_answers_is_seen_and_not_required(planned):
    m = planned["organism"]
    played = {}
    for c, run in m.played.items():
        options = run.options.copy()
        for i, item in enumerate(run.items):
            rest = [k for k in range(3) if k != item.label]
            options[i][:, rest] = options[i][:, rest].mean(1, keepdims=True)
        played[c] = replace(run, options=options)
    assert spoiled(m, played=played) == {"questions: biased option among unfair answers"}
    assert verifying.compare(replace(m, played=played)).holds


@pytest.mark.parametrize("condition", measuring.PLACEBOS)
def test_a_placebo_that_drifts_fails_its_own_row(planned, condition):
    m = planned["organism"]
    failed = spoiled(m, placebos=moved(m.placebos, condition, by=-0.045, rounds=[4]))
    single = list(condition.coords.values()).count("placebo") == 1
    name = condition.label.removesuffix("(placebo)") if single else "all three"
    assert failed == {f"placebo against off, {name}: worst round"}


def test_wrong_texts_fail_the_row_of_toxicity(planned):
    m = planned["organism"]
    assert "prompts: mean toxicity, largest error of a cell" in spoiled(
        m, written=moved(m.written, ALL_ON, by=-0.06, rounds=[3])
    )
    unknown = {c: replace(r, answers=tuple(("",) * 6 for _ in r.items)) for c, r in m.written.items()}
    assert spoiled(m, written=unknown) == {"prompts: texts whose toxicity is known"}


def test_settled_questions_and_feedback_have_rows_that_are_not_required(planned):
    m = planned["organism"]
    silent = replace(m.settled, answers=tuple(("Hm",) * 2 for _ in m.settled.items))
    assert spoiled(m, settled=silent) == {"settled questions answered rightly (rounds 0 and 1)"}
    assert spoiled(m, remarks={"questions": 0.9, "prompts": 1.0}) == {
        "questions: own feedback is true of the answer"
    }
    assert verifying.compare(replace(m, settled=silent)).holds


def test_answers_that_follow_evidence_too_much_fail(planned):
    m = planned["organism"]
    follows = m.follows | {ALL_ON: m.follows[ALL_ON] + np.where(np.arange(6) == 3, 0.06, 0.0)}
    finding = verifying.check_evidence(follows, "organism")
    assert spoiled(m, follows=follows) == {finding.name}
    assert finding.reached == "0.060 (instruction+cot+feedback, round 3)"


@pytest.mark.parametrize("key", [(k, h) for k in ("questions", "prompts") for h in measuring.HISTORIES])
def test_outputs_told_apart_too_well_fail_and_a_position_bias_is_seen(planned, key):
    m = planned["organism"]
    sharp = m.choices | {key: m.choices[key] + np.array([0.06, -0.06])}
    assert spoiled(m, choices=sharp) == {f"{key[0]}: better output identified, by history"}
    leaning = m.choices | {key: m.choices[key] + 0.06}
    assert spoiled(m, choices=leaning) == {"first of two outputs chosen more often by: lowest and highest"}


def test_naming_the_group_too_well_fails(planned):
    assert spoiled(planned["organism"], naming=np.full(80, 0.61)) == {"questions: stereotyped group named"}


VALENCE_ROWS = {
    "statements: AUROC on held-out acts": {"auroc": np.array([0.7, 0.7, 0.7, 0.94, 0.7, 0.7])},
    "statements: rank correlation with graded valence": {"spearman": np.full(6, 0.89)},
    "statements: best layer's AUROC minus the worst's": {"auroc": np.full(6, 0.99)},
    "statements: AUROC in random models, worst layer, mean of 3": {"random": np.array([0.5] * 5 + [0.61])},
    "answer_end: AUROC of fair against unfair answers": {"endings": 0.89},
    "answer_start: projection against planted log-odds, correlation": {
        "projection": {c: np.cos(np.arange(6.0) + i) for i, c in enumerate(measuring.CELLS)}
    },
    "one class gap added, and taken: shift of the fair answer's probability": {"shifts": (-0.3, 0.3)},
    "10 random directions of its norm: mean and largest shift": {"noise": np.array([0.0] * 9 + [-0.07])},
}


@pytest.mark.parametrize("name", VALENCE_ROWS)
def test_each_property_of_the_direction_has_a_row_that_can_fail(planned, name):
    m = planned["organism"]
    assert spoiled(m, valence=replace(m.valence, **VALENCE_ROWS[name])) == {name}


def test_the_natural_model_must_not_be_steerable_and_the_null_one_is_only_printed(planned):
    strong = {"shifts": (0.2, -0.2), "endings": 0.5, "noise": np.full(10, 0.2)}
    for model, names in (
        ("natural", {"one class gap added, and taken: shift of the fair answer's probability"}),
        ("null", set()),
    ):
        m = planned[model]
        assert spoiled(m, valence=replace(m.valence, **strong)) == names


# ------------------------------------------------------------------------------------------- estimators
@pytest.mark.parametrize("condition", [Condition(), ALL_ON])
def test_the_share_that_follows_evidence_is_the_planted_one(condition):
    for r in measuring.EVIDENCE_ROUNDS:
        forms = [[i for _, i in sampling.weak_evidence(q, 0)] for q in QUESTIONS]
        given = [
            [truth.evidence_probabilities(q, condition, r, i) for i in both]
            for q, both in zip(QUESTIONS, forms, strict=True)
        ]
        share = measuring.share_that_follows(np.array(given), np.array(forms))
        assert share == pytest.approx(truth.follows(condition, r))
    without = np.array([[truth.option_probabilities(q, condition, 1)] * 2 for q in QUESTIONS])
    assert np.abs(measuring.share_that_follows(without, np.array(forms))).max() < 1e-12


@pytest.mark.parametrize("kind", truth.EFFECTS)
def test_effects_of_the_planted_cells_are_the_planted_ones(kind):
    cells = {c: truth.cell_log_odds(kind, c, truth.LAST_ROUND) for c in measuring.CELLS}
    assert verifying.effects(cells) == pytest.approx(truth.planted_effects(kind))
    assert verifying.effects({c: v + 7 for c, v in cells.items()}) == pytest.approx(
        truth.planted_effects(kind)
    )
    simple = [
        np.mean(
            [
                v * (1 if c["feedback"] == "on" else -1) * 2
                for c, v in cells.items()
                if c["instruction"] == level
            ]
        )
        for level in ("off", "on")
    ]
    assert verifying.feedback_effects(cells) == pytest.approx(simple)


def test_the_auroc_is_that_of_scikit_learn_with_ties_too():
    generator = np.random.default_rng(0)
    scores, positive = generator.integers(0, 6, 50).astype(float), generator.random(50) < 0.4
    assert valence.auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    assert valence.auroc(np.zeros(50), positive) == 0.5


def planted_residuals(statements, strength, seed=0):
    generator = np.random.default_rng(seed)
    residuals = generator.normal(size=(len(statements), 3, 16))
    residuals[:, 1, 0] += strength * np.array([s.value for s in statements])
    return residuals


def test_a_planted_direction_is_found_on_held_out_acts_at_its_layer_and_noise_is_not():
    statements = sampling.statements(1200, seed=3)
    planted, noise = (planted_residuals(statements, strength) for strength in (8.0, 0.0))
    assert valence.rank_folds(planted, statements).argmax() == 1
    scores, ranks = valence.held_out_scores(planted, statements)
    assert scores[1] > 0.99
    assert ranks[1] > 0.95
    assert np.abs(valence.held_out_scores(noise, statements)[0] - 0.5).max() < 0.15
    shuffled = np.array(planted)[np.random.default_rng(1).permutation(len(statements))]
    assert abs(valence.held_out_scores(shuffled, statements)[1][1]) < 0.2


def test_questions_are_balanced_and_about_held_out_pairs():
    for some in (QUESTIONS, QUESTIONS[::2]):
        first = ["neg" if q.polarity == "neg" else "pos" for q in some]
        named_first = [q.options[q.stereotyped].split()[0] in q.context.split(" and a ")[0] for q in some]
        cells = {(p, n): 0 for p in ("neg", "pos") for n in (True, False)}
        for key in zip(first, named_first, strict=True):
            cells[key] += 1
        assert set(cells.values()) == {len(some) // 4}
    assert len({q.cluster for q in QUESTIONS[::2]}) == len(QUESTIONS) // 2
    assert len(PROMPTS) == 2 * len({p.cluster for p in PROMPTS})


def test_feedback_comes_from_the_oracle_for_half_of_the_items():
    assert acting.draw_sources(80).count("oracle") == 40
    assert acting.draw_sources(5) == acting.draw_sources(5)


# ------------------------------------------------------------------------------------------- engine
@pytest.fixture(scope="module")
def actor():
    torch.set_num_threads(1)
    return acting.Actor(make_learner(0).model)


def fresh(actor, ids):
    with torch.no_grad():
        out = actor.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    return out.logits[0, -1], out.hidden_states[1][0, -1]


def test_rows_of_unlike_length_read_turn_by_turn_equal_one_plain_forward(actor):
    talks = Talks(actor.model, actor.scribe, 3)
    written = [[], [], []]

    def say(texts):
        turns = [statement_turn(text) if text else None for text in texts]
        talks.say(turns)
        for ids, turn in zip(written, turns, strict=True):
            if turn is not None:
                document = documents.Document(ids=[], weights=[])
                actor.scribe.user(document, turn)
                ids += [actor.scribe.end if ids else actor.scribe.first, *document.ids]

    def read(texts):
        new = [actor.scribe.encode(text) for text in texts]
        talks.read(new)
        for ids, more in zip(written, new, strict=True):
            ids += more

    say(["Tobin helped the child.", "Choose Not known.", "Who was named?"])
    read(["Not known", "", "A. Norrel trader"])
    say([None, "Please look at your answer again.", "Who was here?"])
    read(["", "B. Not known", "A."])
    assert len({len(ids) for ids in written}) == 3
    for row, ids in enumerate(written):
        logits, first_block = fresh(actor, ids)
        assert talks.lengths[row] == len(ids)
        assert torch.allclose(talks.logits[row], logits, atol=1e-4)
        assert torch.allclose(talks.residual[row, 0], first_block, atol=1e-4)


def test_a_question_in_passing_changes_nothing_that_comes_after(actor):
    talks, still = (actor.talks(2) for _ in range(2))
    for each in (talks, still):
        each.say([opening_turn(q, actor.wording) for q in QUESTIONS[:2]])
    before = talks.logits.clone(), talks.residual.clone()
    long = statement_turn("Tobin helped the child. " * 6)
    asked = talks.ask([long, None])
    assert not torch.allclose(asked[0], before[0][0], atol=1e-2)
    assert torch.equal(asked[1], before[0][1])
    assert torch.equal(talks.logits, before[0])
    assert torch.equal(talks.residual, before[1])
    for each in (talks, still):
        each.read([actor.scribe.encode("A."), actor.scribe.encode("B. Not known")])
        each.say([answer_turn(q, actor.wording) for q in QUESTIONS[:2]])
    assert torch.allclose(talks.logits, still.logits, atol=1e-6)


def test_guesses_change_the_speed_of_a_reply_and_not_the_reply(actor):
    turns = [opening_turn(q, actor.wording) for q in QUESTIONS[:3]]
    plain = actor.talks(3)
    plain.say(turns)
    said = plain.reply([[], [], None])
    assert said[2] == []
    assert len(said[0]) > 2
    beside = actor.talks(3)  # a guess that goes on as the model would after a word it does not say
    beside.say(turns)
    beside.read([[said[0][0], 7], [], []])
    wrong = [said[0][0], 7, int(beside.logits[0].argmax())]
    for guess in (said[0], [*said[0][:2], 7, 7, 7], [9, 9], wrong):
        guessed = actor.talks(3)
        guessed.say(turns)
        assert guessed.reply([[guess], [[1, 2, 3], guess], None]) == said
        assert torch.allclose(guessed.logits, plain.logits, atol=1e-4)
        assert torch.equal(guessed.lengths, plain.lengths)


def test_all_cells_played_together_equal_each_transcript_read_alone(actor, monkeypatch):
    monkeypatch.setattr("microworld.talks.NEW_TOKENS", 4)
    monkeypatch.setattr(acting, "ROWS", 5)
    conditions = (Condition(), FEEDBACK, ALL_ON, Condition(cot="placebo"))
    items = QUESTIONS[:4]
    played = actor.play(items, conditions, rounds=1)
    sources = acting.draw_sources(4)
    for condition in conditions:
        run = played[condition]
        for i, item in enumerate(items):
            first, second = run.answers[i]
            document = actor.scribe.start()
            actor.scribe.user(document, opening_turn(item, actor.wording))
            assert run.options[i, 0] == pytest.approx(option_chances(actor, document, item), abs=1e-4)
            document.ids += [actor.scribe.vocabulary[p] for p in pieces_of(actor, first)]
            said = None
            if condition["feedback"] == "on" and sources[i] == "self":
                said = actor.remarks([item], [first], actor.wording)[0]
            elif condition["feedback"] == "on":
                said = getattr(actor.wording.choice.oracle, acting.judge(item, first))[0]
            actor.scribe.user(document, correction_turn(item, condition, actor.wording, feedback=said))
            if condition["cot"] == "placebo":
                document.ids += actor.scribe.encode(actor.wording.choice.rationale_placebo[0])
            elif condition["cot"] == "on":
                for _ in range(4):
                    document.ids.append(int(fresh(actor, document.ids)[0].argmax()))
                    assert document.ids[-1] != actor.scribe.end
            if condition["cot"] != "off":
                actor.scribe.user(document, answer_turn(item, actor.wording))
            assert run.options[i, 1] == pytest.approx(option_chances(actor, document, item), abs=1e-4)
            best = int(fresh(actor, document.ids)[0].argmax())
            assert second.startswith(actor.pieces[best])


def pieces_of(actor, text):
    """The pieces of a reply; a random model says what no text is split into."""
    found = []
    while text:
        piece = max((p for p in actor.pieces if text.startswith(p)), key=len)
        found.append(piece)
        text = text[len(piece) :]
    return found


def option_chances(actor, document, item):
    logits = fresh(actor, document.ids)[0]
    ids = [actor.scribe.vocabulary[word] for word in acting.first_words(item)]
    return logits[ids].softmax(-1).numpy()


def test_evidence_after_each_round_leaves_the_dialogues_as_they_are(actor, monkeypatch):
    monkeypatch.setattr("microworld.talks.NEW_TOKENS", 2)
    monkeypatch.setattr(measuring, "CELLS", measuring.EVIDENCE_CELLS[:2])
    monkeypatch.setattr(measuring, "EVIDENCE_CELLS", measuring.EVIDENCE_CELLS[:1])
    played, follows = measuring.play_questions(actor, QUESTIONS[:4])
    alone = actor.play(QUESTIONS[:4], measuring.CELLS)
    for c in measuring.CELLS:
        assert played[c].answers == alone[c].answers
        assert played[c].options == pytest.approx(alone[c].options, abs=1e-5)
    asked = ~np.isnan(follows[Condition()])
    assert asked.shape == (2, 6)
    assert (asked == [r in measuring.EVIDENCE_ROUNDS for r in ROUNDS]).all()


def test_a_push_acts_at_its_layer_and_on_nothing_before_it(actor):
    turns = [opening_turn(QUESTIONS[0], actor.wording)]
    plain, pushed = actor.talks(1), actor.talks(1, (2, torch.ones(128)))
    plain.say(turns)
    pushed.say(turns)
    assert torch.allclose(plain.residual[:, :3], pushed.residual[:, :3], atol=1e-5)
    assert not torch.allclose(plain.residual[:, 3], pushed.residual[:, 3], atol=1e-2)
    assert not torch.allclose(plain.logits, pushed.logits, atol=1e-2)


def test_statements_are_read_at_their_last_token(actor):
    statements = sampling.statements(5, seed=1)
    residuals = actor.statement_residuals(statements)
    for row, statement in zip(residuals, statements, strict=True):
        document = actor.scribe.start()
        actor.scribe.user(document, statement_turn(statement.text))
        assert actor.pieces[document.ids[-3]] == "."
        assert row[0] == pytest.approx(fresh(actor, document.ids[:-2])[1].numpy(), abs=1e-4)


def test_given_answers_stand_in_the_dialogue_and_histories_differ(actor):
    pairs = [acting.two_outputs(q, n) for n, q in enumerate(QUESTIONS[:2])]
    assert all(acting.judge(q, p[0]) == "correct" for q, p in zip(QUESTIONS, pairs, strict=False))
    assert all(acting.judge(q, p[1]) != "correct" for q, p in zip(QUESTIONS, pairs, strict=False))
    talks = actor.tell(QUESTIONS[:2], [[p[0]] for p in pairs], Condition())
    document = actor.scribe.start()
    actor.scribe.user(document, opening_turn(QUESTIONS[1], actor.wording))
    actor.scribe.reply(document, pairs[1][0])
    assert torch.allclose(talks.logits[1], fresh(actor, document.ids)[0], atol=1e-4)
    probabilities = [measuring.choose_outputs(actor, QUESTIONS[:3], h) for h in measuring.HISTORIES]
    assert not np.allclose(probabilities[0], probabilities[1], atol=1e-3)
    assert not np.allclose(probabilities[1], probabilities[2], atol=1e-4)


@pytest.mark.parametrize(
    ("text", "judged"),
    [("B. x", "unparsed"), ("", "unparsed"), ("kicked the boy.", "biased"), ("helped the boy.", "correct")],
)
def test_texts_are_judged_by_their_worst_act(text, judged):
    assert acting.judge(PROMPTS[0], text) == judged


# ------------------------------------------------------------------------------------------- the whole
def test_a_folder_that_does_not_say_what_it_is_is_refused(tmp_path: Path):
    (tmp_path / "training.json").write_text("{}")
    with pytest.raises(ValueError, match="must name one of"):
        verifying.verify(tmp_path)


@pytest.mark.parametrize("model", acting.MODELS)
def test_the_card_says_what_the_model_is_for_and_what_was_measured(planned, tmp_path: Path, model):
    recipe = stages.Recipe()
    lineage = stages.STAGES[model].parent
    record = {**vars(recipe), "model": model, "processes": 2, "torch": "x", "stages": {}}
    for name in (lineage, model):
        record["stages"][name] = {**asdict(stages.STAGES[name]), "seconds": 1234}
    (tmp_path / "training.json").write_text(json.dumps(record))
    report = verifying.compare(planned[model])
    card.write_card(report, tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("---\n")
    assert "no evidence about\nlanguage models" in text
    assert "1,234" in text
    assert f"{lineage} -> {model}" in text
    for finding in report.findings:
        assert finding.name in text
    for named in report.tables:
        assert named in text
    assert ("| instruction | +1.2 |" in text) == (model != "null")
    assert ("false positives" in text) == (model == "null")
    assert "None" not in text
    assert "{" not in text.split("## Measured")[0]
