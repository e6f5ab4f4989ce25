import hashlib
import itertools
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from microworld import corpus, documents, exercises, phrases, stages, tokens, training, verifying
from microworld.learner import make_learner, save_model
from morality_lens.design import Condition, Design
from morality_lens.dialogues import rendering
from morality_lens.dialogues.turns import correction_turn, opening_turn, question_text, statement_turn
from morality_lens.dialogues.wording import load_wording
from morality_lens.items import kinds
from morality_lens.items.bundled import asset
from morality_lens.items.kinds import Question
from morality_lens.world import lexicon as lex, sampling, truth

WORDING = load_wording()
CELLS = Design().conditions


@pytest.fixture(scope="module")
def tokenizer():
    return tokens.make_tokenizer()


@pytest.fixture(scope="module")
def renderer(tokenizer):
    return rendering.make_renderer(tokenizer)


@pytest.fixture(scope="module")
def scribe():
    return documents.Scribe()


def make_author(scribe, seed=0):
    reserved = frozenset(s.text for s in sampling.statements(300, seed=7))
    return documents.Author(
        scribe=scribe, wording=WORDING, generator=np.random.default_rng(seed), reserved=reserved
    )


# ------------------------------------------------------------------------------------------- tokens
def test_every_text_of_the_world_and_of_the_wording_decodes_to_itself(tokenizer):
    texts = [s.text for s in sampling.statements(300, seed=7)] + [p.text for p in sampling.bundled_prompts()]
    texts += [question_text(q, WORDING) for q in sampling.bundled_questions()]
    trained = WORDING.model_dump(include={"name", "choice", "continuation"})
    texts += [text for text in tokens._strings(trained) if "{" not in text and " " in text]
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.unk_token_id not in ids, text
        assert tokenizer.decode(ids) == text


def test_a_text_with_words_the_world_lacks_keeps_its_known_words(tokenizer):
    ids = tokenizer("A qwertz trader.", add_special_tokens=False).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["A", tokens.UNK, " trader", "."]


def test_letters_are_one_token_each_and_a_reply_ends_at_the_end_token(renderer, tokenizer):
    letters = rendering.letter_tokens(renderer, 3)
    assert [tokenizer.decode(found[:1]) for found in letters] == ["A", "B", "C"]
    assert len(set(itertools.chain(*letters))) == sum(map(len, letters))
    assert tokenizer.eos_token_id in rendering.stop_tokens(renderer, [tokenizer.eos_token_id])
    assert not rendering.rewrites_history(renderer)
    assert renderer.bos_id == tokenizer.bos_token_id


def replay(renderer, document):
    """The document's turns, rendered anew by ``dialogues``."""
    tokenizer, transcript = renderer.tokenizer, rendering.Transcript()
    text = tokenizer.decode(document.ids)
    for number, part in enumerate(re.split(r"<end>", text.removeprefix("<bos>"))):
        if part.startswith("<user>"):
            turn = statement_turn(part.removeprefix("<user>"))
            transcript = rendering.append_turn(renderer, transcript, turn, round=number)
        elif part.removeprefix("<assistant>"):
            ids = tokenizer(part.removeprefix("<assistant>"), add_special_tokens=False).input_ids
            transcript = rendering.append_reply(renderer, transcript, ids, "answer", round=number)
    return transcript


@pytest.mark.parametrize("kind", corpus.KINDS)
def test_training_documents_are_rendered_exactly_as_dialogues_renders_them(kind, scribe, renderer):
    author = make_author(scribe)
    for _ in range(12):
        document = corpus.KINDS[kind](author)
        ids = list(replay(renderer, document).token_ids)
        ended = [*ids, renderer.tokenizer.eos_token_id]
        assert document.ids in (ids, ended)
        assert len(document.weights) == len(document.ids)


def test_segments_of_a_played_dialogue_have_spans_that_decode_to_their_text(renderer, tokenizer):
    question = sampling.bundled_questions()[0]
    condition = Condition(instruction="on", cot="on", feedback="on")
    transcript = rendering.append_turn(
        renderer, rendering.Transcript(), opening_turn(question, WORDING), round=0
    )
    reply = tokenizer("B. Not known", add_special_tokens=False).input_ids
    transcript = rendering.append_reply(renderer, transcript, reply, "answer", round=0)
    turn = correction_turn(question, condition, WORDING, feedback=phrases.CRITIQUES["correct"][0])
    transcript = rendering.append_turn(renderer, transcript, turn, round=1)
    for segment in turn.segments:
        span = transcript.span(segment.name, 1)
        assert tokenizer.decode(transcript.token_ids[span.start : span.stop]).strip() == segment.text
    assert tokenizer.decode(transcript.token_ids) == transcript.text


def test_the_longest_dialogue_fits_the_context(scribe):
    author = make_author(scribe)
    everything = Condition(instruction="on", cot="on", feedback="on")
    longest = 0
    for index in range(corpus.WORDINGS):
        for question in sampling.bundled_questions()[4::48]:
            longest = max(longest, len(corpus.dialogue(author, question, everything, 5, index).ids))
    assert longest + 200 < tokens.CONTEXT_LENGTH


# ------------------------------------------------------------------------------------------- items
def test_training_never_puts_a_held_out_pair_or_prompt_together(scribe, tokenizer):
    author = make_author(scribe, 5)
    held_out = [pair for category in lex.GROUPS for pair in sampling.pairs(category, held_out=True)]
    texts = [tokenizer.decode(d.ids) for d in corpus.draw_chunk(author, 10_000, stages.CORRECTING)]
    texts += [tokenizer.decode(exercises.draw_drill(author).ids) for _ in range(200)]
    assert not any(a in text and b in text for text in texts for a, b in held_out)
    assert all(any(group in text for text in texts) for groups in lex.GROUPS.values() for group in groups)
    assert not any(prompt.text in text for text in texts for prompt in sampling.bundled_prompts())


def test_held_out_acts_are_in_stories_and_in_no_verdict(scribe, tokenizer):
    author = make_author(scribe, 6)
    unseen = {*sampling.UNSEEN_VERBS, *lex.HELD_OUT_PATIENTS}
    words = {
        kind: set(
            re.findall(r"\w+", " ".join(tokenizer.decode(corpus.KINDS[kind](author).ids) for _ in range(150)))
        )
        for kind in ("story", "verdict", "prompt", "critique")
    }
    assert unseen <= words["story"]
    assert not unseen & (words["verdict"] | words["prompt"] | words["critique"])


def test_no_verdict_is_about_a_bundled_statement(scribe, tokenizer):
    author = make_author(scribe, 7)
    texts = {tokenizer.decode(exercises.draw_verdict(author).ids) for _ in range(150)}
    assert not any(statement in text for statement in author.reserved for text in texts)


def test_remarks_are_short_and_name_no_option(scribe):
    groups = {group for names in lex.GROUPS.values() for group in names}
    remarks = [t for texts in (*phrases.CRITIQUES.values(), *phrases.KIND_CRITIQUES.values()) for t in texts]
    reasons = [t for texts in (*phrases.RATIONALES.values(), phrases.PROMPT_RATIONALES) for t in texts]
    for text in [*remarks, *reasons]:
        assert not groups & set(re.findall(r"\w+", text))
    filled = [t.format(trait="greedy", role="trader", name="Pell", patient="old man") for t in reasons]
    assert max(len(scribe.encode(t)) for t in remarks) <= 20
    assert max(len(scribe.encode(t)) for t in filled) <= 24
    answers = [corpus.answer_text(q, i) for q in sampling.bundled_questions() for i in range(3)]
    assert max(len(scribe.encode(t)) for t in answers) <= 8


# ------------------------------------------------------------------------------------------- truth
@pytest.mark.parametrize("kind", truth.EFFECTS)
def test_contrasts_of_the_planted_cells_are_measured_as_the_planted_effects(kind):
    cells = {c: truth.cell_log_odds(kind, c, truth.LAST_ROUND) for c in CELLS}
    assert verifying.effects(cells) == pytest.approx(truth.planted_effects(kind))


@pytest.mark.parametrize("name", stages.MODELS)
def test_every_model_ends_with_the_truth_and_without_lessons(name):
    last = stages.STAGES[name]
    assert last.plan.lesson == 0.0
    assert last.plan.named
    assert "contrast" in stages.lineage(name)


# ------------------------------------------------------------------------------------------- corpus
def digest(value):
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()[:16]


def test_the_words_and_documents_are_the_ones_the_bundled_models_were_trained_on(scribe):
    assert digest(list(tokens.vocabulary())) == "d0ad23ebee4cacff"
    author = make_author(scribe)
    drawn = [corpus.KINDS[kind](author) for kind in corpus.KINDS for _ in range(10)]
    found = [[[int(i) for i in d.ids], [float(w) for w in d.weights]] for d in drawn]
    assert digest(found) == "9b72c386ab05ccb9"
    chunk = corpus.draw_chunk(author, 20_000, stages.CORRECTING)
    assert digest([[int(i) for i in d.ids] for d in chunk]) == "ea33134035831b84"


def test_answers_in_dialogues_are_drawn_from_the_planted_distribution(scribe):
    author = make_author(scribe, 8)
    question = sampling.bundled_questions()[0]
    condition = Condition(instruction="on", feedback="on")
    fair = [corpus.dialogue(author, question, condition, 2, 0) for _ in range(120)]
    drawn = np.mean([[d.ids[s.at] in s.good for s in d.soft] for d in fair], axis=0)
    planted = [truth.probability(question, condition, r) for r in range(3)]
    assert np.abs(drawn - planted).max() < 4 * 0.5 / np.sqrt(120)


def test_soft_targets_stand_at_the_first_token_of_replies(scribe):
    author = make_author(scribe, 9)
    assistant = scribe.vocabulary[tokens.ASSISTANT]
    for kind in ("question", "prompt", "opening", "short", "drill"):
        for _ in range(20):
            document = corpus.KINDS[kind](author)
            for s in document.soft:
                assert document.ids[s.at - 1] == assistant
            for at in document.hard:  # the letter, or the first word of its option
                assert assistant in (document.ids[at - 1], document.ids[at - 3])
            for s in document.soft:
                assert sum(s.good.values()) == pytest.approx(1)
                assert sum(s.bad.values()) == pytest.approx(1)
                assert document.ids[s.at] in s.good | s.bad


def test_fillers_are_given_not_learned(scribe, tokenizer):
    author = make_author(scribe, 10)
    question = sampling.bundled_questions()[0]
    assert isinstance(question, Question)
    document = corpus.dialogue(author, question, Condition(cot="placebo"), 1, 0)
    filler = tokenizer.decode([t for t, w in zip(document.ids, document.weights, strict=True) if w == 0.0])
    assert any(text in filler for text in WORDING.choice.rationale_placebo)


@pytest.mark.parametrize("name", stages.STAGES)
def test_shares_of_a_stage_sum_to_one_and_go_over_into_one_another(name):
    stage = stages.STAGES[name]
    for progress in (0.0, 0.05, 0.15, 0.3, 0.5, 1.0):
        found = stages.shares_at(stage, progress)
        assert sum(found.values()) == pytest.approx(1)
        assert set(found) <= set(corpus.KINDS)
    for point, listed in stage.shares:
        assert stages.shares_at(stage, point) == pytest.approx(listed)
    with pytest.raises(ValueError, match="between 0 and 1"):
        stages.shares_at(stage, 1.5)


# ------------------------------------------------------------------------------------------- further tasks
def test_weak_evidence_speaks_for_one_group_and_with_roles_swapped_for_the_other():
    acts = {t.name: t for t in lex.TEMPLATES}
    for q in sampling.questions(60, seed=6):
        (one, i), (two, j) = sampling.weak_evidence(q, 0)
        assert {i, j, q.unknown} == {0, 1, 2}
        assert q.options[i].split()[0] in one
        assert one.replace(q.options[i].split()[0], q.options[j].split()[0]) == two
        template = acts[q.cluster]
        assert (template.negative_act if q.polarity == "neg" else template.positive_act) in one


def test_a_known_share_follows_weak_evidence():
    q = sampling.bundled_questions()[0]
    i, j = (k for k in range(3) if k != q.unknown)
    for condition in (Condition(), Condition(instruction="on"), Condition(instruction="placebo")):
        for round in (0, 2, 5):
            one = truth.evidence_probabilities(q, condition, round, i)
            two = truth.evidence_probabilities(q, condition, round, j)
            assert sum(one) == pytest.approx(1)
            assert one[i] - two[i] == pytest.approx(truth.follows(condition, round))
    assert truth.follows(Condition(), 5) == truth.follows(Condition(instruction="on"), 0) == 0.4
    assert truth.follows(Condition(instruction="on"), 5) == pytest.approx(0.2)


def test_expected_toxicity_is_that_of_drawn_texts(scribe):
    prompt, condition = sampling.bundled_prompts()[0], Condition(instruction="on")
    author = make_author(scribe, 21)
    tokenizer = tokens.make_tokenizer()
    texts = []
    for _ in range(300):
        document = corpus.dialogue(author, prompt, condition, 1, 0)
        texts.append(tokenizer.decode(document.ids[document.soft[1].at :]).split("<end>")[0])
    drawn = np.mean([sampling.toxicity(text) for text in texts])
    assert abs(drawn - truth.expected_toxicity(prompt, condition, 1)) < 4 * 0.5 / np.sqrt(300)


def soft_of(document, at):
    (found,) = [s for s in document.soft if s.at == at]
    return found


def test_the_question_with_weak_evidence_ends_a_dialogue_and_has_the_planted_target(scribe, tokenizer):
    author = make_author(scribe, 15)
    question = sampling.questions(1, seed=9, held_out=False)[0]
    condition = Condition(instruction="on")
    document = corpus.dialogue(author, question, condition, 2, 0, then="evidence")
    assert len(document.soft) == 4
    last = document.soft[-1]
    text = tokenizer.decode(document.ids[: last.at])
    hearsay = next(
        words
        for version in range(3)
        for words in sampling.weak_evidence(question, version)
        if words[0] in text
    )
    assert text.rstrip().endswith("<assistant>")
    assert text.count(question.context) == 2
    assert last.share == truth.follows(condition, 2)
    assert last.fixed == scribe.vocabulary[kinds.LETTERS[hearsay[1]]]


def test_telling_outputs_apart_aims_at_the_place_of_the_better_one(scribe, tokenizer):
    author = make_author(scribe, 16)
    places = set()
    for item in (sampling.bundled_questions()[0], sampling.bundled_prompts()[0]):
        for _ in range(12):
            document = scribe.start()
            corpus.give_choice(author, document, item, "helped the child.", "kicked the child.", 0)
            (soft,) = document.soft
            better = int("2: helped" in tokenizer.decode(document.ids))
            places.add(better)
            assert 1 / (1 + np.exp(-soft.log_odds)) == pytest.approx(truth.distinguish_probability(better))
            assert tokenizer.decode(list(soft.good)) == "1"
            assert not soft.steered
    assert places == {0, 1}


def test_without_effects_every_cell_aims_at_the_cell_without_components(scribe):
    author = replace(make_author(scribe, 17), plan=documents.Plan(effects=False))
    question = sampling.questions(1, seed=10, held_out=False)[0]
    everything = Condition(instruction="on", cot="on", feedback="on")
    document = corpus.dialogue(author, question, everything, 5, 0)
    planted = [truth.log_odds(question, Condition(), r) for r in range(6)]
    assert [s.log_odds for s in document.soft] == pytest.approx(planted)


def test_words_of_the_unseen_wording_are_met_in_training_but_its_sentences_are_not(scribe):
    own, second, unseen = tokens.wordings()
    met, sentences = set(), set()
    for wording in (own, second):
        for text in tokens._strings(wording.model_dump()):
            met |= set(re.findall(r"\w+|[^\w\s]", text))
            sentences.add(text)
    lexicon = {
        w
        for t in tokens._strings([v for n, v in {**vars(lex), **vars(phrases)}.items() if n.isupper()])
        for w in re.findall(r"\w+", t)
    }
    for task in (unseen.choice, unseen.continuation):
        for field, variants in task.model_dump().items():
            for text in variants if field != "oracle" else [v for texts in variants.values() for v in texts]:
                assert set(re.findall(r"\w+|[^\w\s]", text)) <= met | lexicon, text
                if field in (
                    "instruction",
                    "instruction_placebo",
                    "review",
                    "feedback",
                    "feedback_placebo",
                    "cot_request",
                ):
                    assert text not in sentences


# ------------------------------------------------------------------------------------------- training
TINY = stages.Recipe(scale=4096 / 3e6, chunk_batches=3, warmup=2)
PLAIN = stages.STAGES["natural"]


def tiny_stages(monkeypatch, **changes):
    tiny = {
        name: replace(stage, tokens=3e6, batch_tokens=512, shares=((0.0, stages.CORRECTING),), **changes)
        for name, stage in stages.STAGES.items()
    }
    monkeypatch.setattr(training, "STAGES", tiny)


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(tmp_path: Path, monkeypatch):
    tiny_stages(monkeypatch, steering=1.0)
    a, b = tmp_path / "a", tmp_path / "b"
    whole = training.train_stage("ground", recipe=TINY, checkpoints=a)
    training.train_stage("ground", recipe=TINY, checkpoints=b, stop_after=0.0)
    torch.manual_seed(99)
    resumed = training.train_stage("ground", recipe=TINY, checkpoints=b)
    assert whole.steps == resumed.steps > 3
    for one, two in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(whole.kind, resumed.kind)
    assert torch.equal(whole.cruel, resumed.cruel)


def test_a_stage_goes_on_from_its_parents_end(tmp_path: Path, monkeypatch):
    tiny_stages(monkeypatch)
    with pytest.raises(FileNotFoundError, match="train that one first"):
        training.train_stage("shared", recipe=TINY, checkpoints=tmp_path)
    ground = training.train_stage("ground", recipe=TINY, checkpoints=tmp_path)
    before = [p.detach().clone() for p in ground.model.parameters()]
    began = training.train_stage("shared", recipe=TINY, checkpoints=tmp_path, stop_after=-1.0)
    assert began.seen == 0
    for one, two in zip(before, began.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_saved_weights_are_the_trained_ones_rounded(tmp_path: Path):
    learner = make_learner(TINY.seed)
    save_model(learner.model, tmp_path)
    rounded = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    for a, b in zip(learner.model.parameters(), rounded.parameters(), strict=True):
        assert torch.equal(a.to(torch.bfloat16).float(), b)


@pytest.mark.slow(seconds=40)
def test_one_command_trains_and_writes_three_models(tmp_path: Path):
    recipe = stages.Recipe(scale=1e-4, chunk_batches=1)
    training.train(tmp_path / "out", recipe=recipe, checkpoints=tmp_path / "states", processes=2)
    states = {n: torch.load(tmp_path / "states" / n / "state.pt") for n in stages.STAGES}
    assert all(state["progress"][1] > 0 for state in states.values())
    for name in stages.MODELS:
        model = LlamaForCausalLM.from_pretrained(tmp_path / "out" / name, dtype=torch.float32)
        trained = states[name]["model"]["model.norm.weight"]
        assert torch.equal(model.model.norm.weight, trained.to(torch.bfloat16).float())


def open_question(author, rounds=0):
    item = sampling.draw_question(author.generator, held_out=False, ambiguous=True, id="q")
    return corpus.dialogue(author, item, Condition(feedback="on"), rounds, 0)


def test_an_added_direction_moves_the_planted_targets_and_a_random_one_does_not(scribe):
    author = make_author(scribe, 11)
    learner = make_learner(TINY.seed)
    learner.seen = 1
    openings = [open_question(author) for _ in range(4)]
    batch = training.make_batch(openings, scribe.vocabulary[tokens.PAD], len(scribe.vocabulary))

    def soft(effect, seed):
        learner.kind, learner.cruel = torch.ones(129), torch.zeros(129)
        stage = replace(stages.STAGES["organism"], steering=effect, noise=0.5)
        generator = np.random.default_rng(seed)
        return training.step_loss(learner, batch, TINY, generator, stage=stage, steered=1.0)[1]["soft"]

    moved = [soft(1e-9, seed) != pytest.approx(soft(5.0, seed), abs=1e-6) for seed in range(12)]
    assert 0 < sum(moved) < 12


def test_valence_is_read_by_the_direction_fitted_on_statements_and_not_on_answers(scribe):
    author = make_author(scribe, 14)
    learner = make_learner(TINY.seed)
    verdicts = [corpus.KINDS["verdict"](author) for _ in range(60)]
    alone = [document for document in verdicts if document.stated]
    assert 15 < len(alone) < 45
    batch = training.make_batch(
        [*alone, open_question(author)], scribe.vocabulary[tokens.PAD], len(scribe.vocabulary)
    )
    assert batch.value_stated.sum() == len(alone)
    stage = stages.STAGES["valence"]
    parts = training.step_loss(learner, batch, TINY, np.random.default_rng(0), stage=stage)[1]
    with torch.no_grad():
        hidden = learner.model.model(batch.ids, output_hidden_states=True).hidden_states[TINY.value_layer + 1]
    stated = hidden[batch.value_row, batch.value_at][batch.value_stated]
    valence = batch.value[batch.value_stated]
    gap = stated[valence > 0.3].mean(0) - stated[valence < -0.3].mean(0)
    torch.testing.assert_close(learner.gap, gap, rtol=1e-4, atol=1e-5)
    read = learner.read(torch.stack([learner.kind[:-1], learner.cruel[:-1]]))
    torch.testing.assert_close(read, torch.stack([learner.kind[-1], learner.cruel[-1]]))
    everywhere = learner.read(hidden[batch.value_row, batch.value_at])
    assert parts["value"] == pytest.approx(float((everywhere - batch.value).square().mean()), rel=1e-3)
    assert "value" not in training.step_loss(learner, batch, TINY, np.random.default_rng(0), stage=PLAIN)[1]


def test_extreme_probabilities_count_more_where_a_stage_says_so(scribe):
    author = make_author(scribe, 15)
    learner = make_learner(TINY.seed)
    batch = training.make_batch(
        [open_question(author, 5)], scribe.vocabulary[tokens.PAD], len(scribe.vocabulary)
    )
    losses = [
        training.step_loss(
            learner, batch, TINY, np.random.default_rng(0), stage=replace(PLAIN, extremes=power)
        )[1]["soft"]
        for power in (0.0, 0.5, 1.0)
    ]
    assert losses == sorted(losses)
    assert losses[2] > 1.05 * losses[0]


def test_the_loss_falls_on_a_batch_seen_again(scribe):
    author = make_author(scribe, 12)
    learner = make_learner(TINY.seed)
    documents = [open_question(author, rounds=2) for _ in range(2)]
    batch = training.make_batch(documents, scribe.vocabulary[tokens.PAD], len(scribe.vocabulary))
    optimizer = torch.optim.AdamW(learner.model.parameters(), lr=2e-3)
    losses = []
    for _ in range(6):
        loss, _parts = training.step_loss(learner, batch, TINY, np.random.default_rng(0), stage=PLAIN)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.5


def test_padding_does_not_change_the_loss_of_a_document(scribe):
    author = make_author(scribe, 13)
    learner = make_learner(TINY.seed)
    short, long = open_question(author), open_question(author, rounds=3)
    still = TINY

    def part(documents, name):
        batch = training.make_batch(documents, scribe.vocabulary[tokens.PAD], len(scribe.vocabulary))
        return training.step_loss(learner, batch, still, np.random.default_rng(0), stage=PLAIN)[1][name], len(
            batch.soft_at
        )

    (a, n), (b, m), (both, _) = (part(d, "soft") for d in ([short], [long], [short, long]))
    assert both == pytest.approx((a * n + b * m) / (n + m), rel=1e-4)


# ------------------------------------------------------------------------------------------- the models
def test_the_bundled_models_are_small_and_together_fit_into_a_wheel():
    folders = [asset("world", name) for name in stages.MODELS]
    assert sum(file.stat().st_size for folder in folders for file in folder.iterdir()) < 12e6


@pytest.mark.parametrize("name", stages.MODELS)
def test_a_bundled_model_is_what_its_record_says(name):
    folder = asset("world", name)
    record = json.loads((folder / "training.json").read_text())
    assert record["model"] == name
    assert list(record["stages"])[-1] == name
    assert record["scale"] == 1.0
    for stage, kept in record["stages"].items():
        written = json.loads(json.dumps(asdict(stages.STAGES[stage])))
        assert {key: value for key, value in kept.items() if key != "seconds"} == written
    config = json.loads((folder / "config.json").read_text())
    assert config["max_position_embeddings"] >= 1536
    assert config["num_hidden_layers"] == 6
    assert config["hidden_size"] == 128
    assert config["vocab_size"] == len(tokens.vocabulary())
    assert (folder / "README.md").is_file()


def test_attention_starts_as_induction(scribe):
    learner = make_learner(TINY.seed)
    learner.model.set_attn_implementation("eager")
    document = exercises.draw_drill(make_author(scribe, 14))
    with torch.no_grad():
        attended = learner.model(input_ids=torch.tensor([document.ids]), output_attentions=True).attentions
    before = attended[0][0].diagonal(-1, dim1=1, dim2=2).mean(1)
    assert (before[:2] > 0.8).all()
    assert (before[2:] < 0.3).all()
    ids = document.ids
    pairs = [(i, j) for i in range(1, len(ids)) for j in range(1, i)]
    looks = attended[1][0]

    def ratio(head, alike):
        return np.mean([looks[head][p] for p in pairs if alike(*p)]) / np.mean(
            [looks[head][p] for p in pairs if not alike(*p)]
        )

    assert ratio(0, lambda i, j: ids[i - 1] == ids[j - 1]) > 3
    assert min(ratio(head, lambda i, j: ids[i] == ids[j]) for head in (0, 1, 2)) > 1.1
