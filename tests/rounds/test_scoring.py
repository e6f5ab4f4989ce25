"""Options scored by their full text: as plain transformers scores the concatenated tokens."""

import numpy as np
import pytest
import torch
import zoo
from conftest import make_questions
from tiny import tiny_run
from transformers import PreTrainedTokenizerFast

from morality_lens.design import Condition
from morality_lens.dialogues import rendering
from morality_lens.dialogues.continuing import reply_in_place
from morality_lens.dialogues.rendering import Transcript
from morality_lens.dialogues.turns import statement_turn
from morality_lens.items.kinds import SCORINGS, Rating
from morality_lens.judges.outcomes import behaviour_cube, compare_scorings, text_shares
from morality_lens.models import decoding
from morality_lens.models.loading import record_of
from morality_lens.report.analysis import analyze
from morality_lens.rounds import scoring
from morality_lens.rounds.scoring import log_probabilities, score_options
from morality_lens.rounds.selection import Execution, Selection
from morality_lens.runs.passages import passages
from morality_lens.runs.run import open_run

QUIET = Execution(progress=False)


def plainly(record, prompt, reply):
    """The sum of the log-probabilities of a reply's tokens, from one pass over both."""
    with torch.no_grad():
        logits = record.lm.module(torch.tensor([[*prompt, *reply]]), use_cache=False).logits[0]
    log = torch.log_softmax(logits.double(), -1)
    return sum(float(log[len(prompt) - 1 + i, token]) for i, token in enumerate(reply))


def prompts(run):
    """Passage, round and the tokens up to the answer."""
    for passage in passages(run):
        for number in passage.rounds:
            yield passage, number, passage.token_ids[: passage.places("answer_start", number)[0] + 1]


def compare(model, run, scores):
    """Every stored sum is what plain transformers gives for the concatenated tokens."""
    record = record_of(model)
    for passage, number, prompt in prompts(run):
        at = {"item": passage.item, "round": number, **passage.condition.coords}
        for option, text in enumerate(run.asked[passage.item].options):
            reply = reply_in_place(record.renderer, prompt, text)
            found = scores.sel(at).isel(option=option)
            assert float(found["sum"]) == pytest.approx(plainly(record, prompt, reply), rel=1e-4, abs=1e-3)
            assert int(found["tokens"]) == len(reply)
            assert record.renderer.tokenizer.decode(reply).strip() == text


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mistral", "qwen3", "gemma2"])
def test_a_score_is_the_log_probability_of_the_concatenated_tokens(zoo_folder, tmp_path, architecture):
    model, run = tiny_run(zoo_folder(architecture), tmp_path / "run", make_questions(3), rounds=2)
    scores = score_options(model, run, rows=7, execution=QUIET)
    compare(model, run, scores)
    record = record_of(model)
    turn = statement_turn(scoring.NEUTRAL)
    neutral = rendering.append_turn(record.renderer, Transcript(), turn, round=0).token_ids
    for name, question in run.asked.items():
        for option, text in enumerate(question.options):
            reply = reply_in_place(record.renderer, neutral, text)
            found = float(scores["neutral"].sel(item=name)[option])
            assert found == pytest.approx(plainly(record, neutral, reply), rel=1e-4, abs=1e-3)
            assert int(scores["bytes"].sel(item=name)[option]) == len(text.encode())
    np.testing.assert_allclose(scores["pmi"], scores["sum"] - scores["neutral"])
    np.testing.assert_allclose(scores["per_token"] * scores["tokens"], scores["sum"])
    np.testing.assert_allclose(scores["per_byte"] * scores["bytes"], scores["sum"])
    for name in SCORINGS:
        np.testing.assert_array_equal(scores["choice"].sel(scoring=name), scores[name].argmax("option"))


def test_it_is_right_where_history_is_rewritten(tmp_path):
    folder = zoo.save_model(tmp_path / "model", "llama", template=zoo.FORGETTING)
    with pytest.warns(UserWarning, match="rewrites earlier turns"):
        model, run = tiny_run(folder, tmp_path / "run", make_questions(2), rounds=1)
    compare(model, run, score_options(model, run, execution=QUIET))


def test_it_is_right_without_a_cache(zoo_folder, tmp_path):
    model, run = tiny_run(zoo_folder("llama"), tmp_path / "run", make_questions(1), rounds=1)
    record = record_of(model)
    made = [scoring._Prompt(tokens=p, replies=((5, 6, 7), (8,))) for _, _, p in prompts(run)]
    lm = decoding.LanguageModel(**{**vars(record.lm), "cached": False})
    found = log_probabilities(lm, [made], 3)
    for prompt, sums in zip(made, found, strict=True):
        wanted = [plainly(record, prompt.tokens, reply) for reply in prompt.replies]
        np.testing.assert_allclose(sums, wanted, rtol=1e-4, atol=1e-3)


def test_no_token_of_a_dialogue_is_read_again_for_an_option(zoo_folder, tmp_path, monkeypatch):
    model, run = tiny_run(zoo_folder("llama"), tmp_path / "run", make_questions(2), rounds=2)
    fed = []
    feed = decoding.feed

    def counting(lm, batch, new, *args, **kwargs):
        fed.append(sum(map(len, new)))
        return feed(lm, batch, new, *args, **kwargs)

    monkeypatch.setattr(decoding, "feed", counting)
    scores = score_options(model, run, execution=QUIET)
    distinct = {(passage.item, prompt) for passage, _, prompt in prompts(run)}
    # A token of a dialogue is one place in the tree of all prompts; the last of a prompt is read in its row.
    places = {(item, prompt[:n]) for item, prompt in distinct for n in range(1, len(prompt))}
    most = sum({(p.item, p.condition.label): len(prompt) for p, _, prompt in prompts(run)}.values())
    each = {name: int((scores["tokens"].sel(item=name)[0, 0, 0, 0] - 1).sum()) for name in run.asked}
    replies = sum(each[item] for item, _ in distinct)
    neutral = rendering.append_turn(
        record_of(model).renderer, Transcript(), statement_turn(scoring.NEUTRAL), round=0
    )
    after = len(neutral.token_ids) - 1 + sum(1 + count for count in each.values())  # read once for both items
    dialogues = sum(fed) - len(distinct) - replies - after
    assert len(places) <= dialogues < 0.9 * most
    monkeypatch.setattr(scoring, "ITEMS", 1)
    fed.clear()
    score_options(model, run, rows=10**6, execution=QUIET)
    assert sum(fed) - len(distinct) - replies - after - len(neutral.token_ids) + 1 <= dialogues


def test_scores_do_not_depend_on_the_order_of_options_or_what_is_read_beside(zoo_folder, tmp_path):
    model, run = tiny_run(zoo_folder("mistral"), tmp_path / "run", make_questions(3), rounds=1)
    lm, rng = record_of(model).lm, np.random.default_rng(0)
    tokens = [p for _, _, p in prompts(run)][:6]
    replies = [tuple(map(tuple, (rng.integers(4, 300, n).tolist() for n in (1, 4, 2)))) for _ in tokens]
    one = [[scoring._Prompt(tokens=p, replies=r)] for p, r in zip(tokens, replies, strict=True)]
    other = [[scoring._Prompt(tokens=p, replies=r[::-1])] for p, r in zip(tokens, replies, strict=True)]
    found, turned = log_probabilities(lm, one, 32), log_probabilities(lm, other[::-1], 2)
    np.testing.assert_allclose(found, [sums[::-1] for sums in turned[::-1]], rtol=1e-5, atol=1e-4)


def test_a_reply_is_tokenized_in_its_place():
    """A tokenizer that joins ``>`` and ``T`` would change the prompt; the words after it stay whole."""
    made = zoo.make_tokenizer(None)
    renderer = rendering.make_renderer(made)
    start = rendering.append_turn(renderer, Transcript(), statement_turn("Hello."), round=0)
    ids = reply_in_place(renderer, start.token_ids, "The Vel")
    assert made.decode(ids) == " The Vel"  # after `Assistant:` a word begins with a blank
    together, _ = rendering.encode(renderer, start.text + " The Vel")
    assert tuple(together[len(together) - len(ids) :]) == ids
    chat = rendering.make_renderer(zoo.make_tokenizer(zoo.CHATML))
    start = rendering.append_turn(chat, Transcript(), statement_turn("Hello."), round=0)
    assert chat.tokenizer.decode(reply_in_place(chat, start.token_ids, " The Vel")) == "The Vel"


def test_letters_joined_to_the_prompt_are_scored_apart():
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {t: i for i, t in enumerate(["<s>", "</s>", "<", ">", "A", ">A", "a", ":", "U", "s", "e"])}
    joined = Tokenizer(models.BPE(vocab=vocabulary, merges=[(">", "A")]))
    joined.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    made = PreTrainedTokenizerFast(tokenizer_object=joined, bos_token="<s>", eos_token="</s>")
    made.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}<{{ m.role[:1] }}>{% endfor %}"
    renderer = rendering.make_renderer(made)
    prompt = [0, *rendering.encode(renderer, "a<a>")[0]]
    assert reply_in_place(renderer, prompt, "A") == (vocabulary["A"],)


@pytest.fixture(scope="module")
def scored(zoo_folder, tmp_path_factory):
    """A run of a tiny model whose options were scored, and the scores."""
    out = tmp_path_factory.mktemp("scored")
    model, run = tiny_run(zoo_folder("llama"), out / "run", make_questions(6), rounds=1)
    assert "option text" not in run.measures
    with pytest.raises(ValueError, match="score the options' texts first, with morality-lens score"):
        behaviour_cube(run, "option text")
    return model, run, score_options(model, run, execution=Execution(out=out / "parts", progress=False))


def test_the_scores_of_a_whole_run_are_measures_of_it(scored):
    _, run, scores = scored
    again = open_run(run.path)
    assert again.measures[: len(run.measures)] == run.measures
    np.testing.assert_array_equal(again.option_scores["sum"], scores["sum"])
    shares = text_shares(scores["sum"])
    np.testing.assert_allclose(shares.sum("option"), 1)
    np.testing.assert_allclose(behaviour_cube(again, "option text"), shares.isel(option=1))
    odds = behaviour_cube(again, "option text PMI log-odds")
    pmi = scores["pmi"]
    wanted = pmi.isel(option=1) - pmi.isel(option=[0, 2]).mean("option")
    np.testing.assert_allclose(odds, wanted.transpose(*odds.dims))
    assert odds.attrs == {"units": "nats", "oriented": True}
    sums = behaviour_cube(again, "option text log-odds")
    np.testing.assert_allclose(sums, np.log(shares)[..., 1] - np.log(shares)[..., [0, 2]].mean("option"))
    table = compare_scorings(again)
    right = (scores["choice"].sel(scoring="per_byte") == 1).mean("item")
    one = table[(table["instruction"] == "on") & (table["cot"] == "off") & (table["feedback"] == "on")]
    wanted = right.sel(instruction="on", cot="off", feedback="on")
    np.testing.assert_allclose(one["right by text per byte"], wanted)
    found = analyze(again, draws=200)
    assert found.text_effects is not None
    assert "right option's text" in found.text_effects.attrs["outcome"]


def test_a_selection_is_returned_and_not_kept(zoo_folder, tmp_path):
    model, run = tiny_run(zoo_folder("llama"), tmp_path / "run", make_questions(2), rounds=1)
    some = Selection(items=["q1"], conditions=[Condition()], rounds=[1])
    scores = score_options(model, run, selection=some, execution=QUIET)
    assert scores["item"].values.tolist() == ["q1"]
    assert scores["round"].values.tolist() == [1]
    assert int(scores["sum"].notnull().sum()) == 3
    assert int(scores["choice"].notnull().sum()) == 4
    assert "option text" not in open_run(run.path).measures


def test_finished_items_are_not_scored_again(scored, monkeypatch):
    model, run, scores = scored
    parts = Execution(out=run.path.parent / "parts", progress=False)
    monkeypatch.setattr(scoring, "log_probabilities", None)
    again = score_options(model, run, execution=parts)
    np.testing.assert_array_equal(again["sum"], scores["sum"])
    with pytest.raises(ValueError, match="holds another option texts"):
        score_options(model, run, neutral="Hm.", execution=parts)


def test_what_has_no_texts_is_refused(zoo_folder, tmp_path):
    rating = Rating(id="r", cluster="r", context="", question="How?", low_label="bad", high_label="good")
    from morality_lens.design import Design, Protocol
    from morality_lens.models.loading import load_model
    from morality_lens.rounds.playing import play

    model = load_model(zoo_folder("llama"))
    protocol = Protocol(design=Design(rounds=1), answer_tokens=2, rationale_tokens=2, feedback_tokens=2)
    run = play(model, [rating], out=tmp_path / "run", protocol=protocol, progress=False)
    with pytest.raises(ValueError, match="item 'r' is a Rating"):
        score_options(model, run)
