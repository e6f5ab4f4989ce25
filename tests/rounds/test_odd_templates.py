"""Templates that print a date, change a dialogue only now and then, or write no prompt for a reply."""

import datetime
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import zoo
from conftest import make_questions
from rounds.test_playing import expected_site

from morality_lens.design import COMPONENTS, Design, Protocol
from morality_lens.dialogues import rendering
from morality_lens.dialogues.turns import statement_turn
from morality_lens.dialogues.wording import load_wording
from morality_lens.models.loading import load_model, record_of
from morality_lens.rounds.endings import line_ends
from morality_lens.rounds.playing import play
from morality_lens.rounds.preflight import Fitting
from morality_lens.rounds.replay import dialogue_after, same_model
from morality_lens.rounds.side_questions import SideQuestion, ask
from morality_lens.runs import writing
from morality_lens.runs.passages import passages

DATED = "{{ bos_token }}Today is {{ strftime_now('%d %B %Y') }}.\n" + zoo.CHATML
SHORT = Protocol(
    design=Design(rounds=2), answer_tokens=4, rationale_tokens=5, feedback_tokens=5, temperature=1.5
)
TODAY, TOMORROW = datetime.date(2024, 2, 29), datetime.date(2024, 3, 1)


def on(model, day):
    """The model on another day."""
    record = record_of(model)
    renderer = replace(record.renderer, today=day)
    object.__setattr__(model, "morality_lens_record", replace(record, renderer=renderer))
    return model


def load(folder, template):
    return load_model(zoo.save_model(folder, "llama", template=template), device="cpu")


def test_a_run_keeps_the_date_of_its_start_when_it_is_resumed(tmp_path, monkeypatch):
    model, questions = load(tmp_path / "m", DATED), make_questions(4)
    at_once = play(on(model, TODAY), questions, out=tmp_path / "a", protocol=SHORT, progress=False)
    commit, done = writing.commit, []

    def commit_then_die(*given):
        commit(*given)
        done.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "commit", commit_then_die)
    fitting = Fitting(batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        play(model, questions, out=tmp_path / "b", protocol=SHORT, fitting=fitting, progress=False)
    monkeypatch.undo()
    model = on(model, TOMORROW)
    resumed = play(model, questions, out=tmp_path / "b", protocol=SHORT, fitting=fitting, progress=False)
    assert at_once.manifest["today"] == resumed.manifest["today"] == "2024-02-29"
    assert resumed.answers["text"].tolist() == at_once.answers["text"].tolist()
    np.testing.assert_allclose(resumed.residuals, at_once.residuals, rtol=1e-4, atol=1e-4)
    texts = record_of(model).renderer.tokenizer.batch_decode(resumed.transcripts["token_ids"].tolist())
    assert all(text.startswith("<s>Today is 29 February 2024.") for text in texts)
    # What continues its dialogues later speaks on that day too.
    record = same_model(model, resumed, None)
    (*_, last) = dialogue_after(record, resumed, questions[0], resumed.design.conditions[0], load_wording())
    ask(record, [SideQuestion(history=last, turn=statement_turn("Fair?"), replies=("A", "B"))])
    with pytest.raises(ValueError, match="differs from the one"):
        dialogue_after(record_of(model), resumed, questions[0], resumed.design.conditions[0], load_wording())


LATE = "{% if messages | length > 6 %}(a long dialogue) {% endif %}" + zoo.CHATML
"""Changes what was said before once a dialogue is long: a short trial does not show it."""


@pytest.mark.filterwarnings("ignore:the chat template of")
def test_a_dialogue_that_the_template_changes_is_read_again_and_the_rest_goes_on(tmp_path):
    model = load(tmp_path / "m", LATE)
    assert record_of(model).prefix_reuse
    questions = make_questions(3)
    run = play(model, questions, out=tmp_path / "run", protocol=SHORT, progress=False)
    stored = run.transcripts.groupby(["item", *COMPONENTS]).size()
    assert stored.min() == 1 < stored.max(), "some dialogues were changed, and some were not"
    cube, seen = run.residuals.load(), set()
    for passage in passages(run):
        residuals, _ = zoo.fresh_pass(record_of(model), passage.token_ids)
        spans = [dict(zip(("name", "round", "start", "stop"), s, strict=True)) for s in passage.spans]
        for number in passage.rounds:
            where = {"item": passage.item, **passage.condition.coords, "round": number}
            seen.add(tuple(where.values()))
            for site in run.design.sites:
                got = cube.sel(**where, site=site).values
                want = expected_site(spans, residuals, site, number)
                if want is None:
                    assert np.isnan(got).all()
                    continue
                assert np.linalg.norm(got - want) < 1e-5 * np.linalg.norm(want), (where, site)
    assert len(seen) == 3 * 8 * 3  # each round of each dialogue, once
    for condition in run.design.conditions[::2]:
        dialogue_after(record_of(model), run, questions[1], condition, load_wording())


def test_a_template_without_a_prompt_for_the_reply_is_named_as_such(tmp_path):
    without = zoo.CHATML.split("{% if add_generation_prompt")[0]
    with pytest.raises(ValueError, match=r"assistant. before a reply but not as a prompt"):
        load(tmp_path / "m", without)


def test_a_template_that_raises_is_named_as_such(tmp_path):
    raising = "{{ raise_exception('only one turn, please') if messages | length > 1 }}" + zoo.CHATML
    with pytest.raises(ValueError, match=r"refuses the dialogue \(only one turn, please\)"):
        load(tmp_path / "m", raising)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("B\nC. The other", "B"),
        ("B. Not known\n", "B. Not known"),
        ("\n\nB\nA", "\n\nB"),
        ("Let me see.\nB", "Let me see.\nB"),
        ("Let me see.\nB\nA", "Let me see.\nB"),
        ("The Vel\n\nbecause", "The Vel"),
        ("Option A seems likely, let me think:\nB\nA", "Option A seems likely, let me think:\nB"),
        ("Is it A?\nNo: B\nA", "Is it A?\nNo: B"),
        ("Not A\nB\nA", "Not A\nB"),
        ("The answer cannot be A\nB\nA", "The answer cannot be A\nB"),
    ],
)
def test_an_answer_ends_at_the_first_line_break_after_a_choice(text, kept):
    renderer = rendering.make_renderer(zoo.make_tokenizer(zoo.CHATML))
    ends = line_ends(renderer, make_questions(1))
    ids, said = rendering.encode(renderer, text)[0], []
    for token in ids:
        if ends(0, [*said, token]):
            break
        said.append(token)
    assert renderer.tokenizer.decode(said).rstrip("\n") == kept


def test_a_playing_model_stops_at_the_line_break(tmp_path):
    model = load(tmp_path / "m", zoo.CHATML)
    record = record_of(model)
    script = iter(rendering.encode(record.renderer, "B. Not known\nC. The Tor")[0] * 99)
    head = record.lm.head

    def forced(_, args, out):
        out = torch.full_like(out, -50.0)
        out[..., next(script)] = 50.0
        return out

    handle = head.register_forward_hook(forced)
    try:
        protocol = replace(SHORT, answer_tokens=20, temperature=0.0, design=Design(
            factors=Design().factors[:1], rounds=1))  # fmt: skip
        run = play(model, make_questions(1), out=tmp_path / "run", protocol=protocol, progress=False)
    finally:
        handle.remove()
    assert run.answers["text"].iloc[0] == "B. Not known"
    assert run.answers["stopped"].iloc[0]


@pytest.mark.parametrize(
    "form", ["%d %b %Y", "%Y-%m-%d", "%e %F %D %R %T %C %G-%u %h", "%-m/%-d/%y %-H", "100%% %d", "%%d"]
)
def test_a_date_is_written_in_every_form(form):
    template = (
        f"{{% macro day() %}}{{{{ strftime_now('{form}') }}}}{{% endmacro %}}{{{{ day() }}}}|{zoo.CHATML}"
    )
    renderer = replace(rendering.make_renderer(zoo.make_tokenizer(template)), today=TODAY)
    said = rendering.append_turn(renderer, rendering.Transcript(), statement_turn("Which day?"), round=0)
    assert said.text.partition("|")[0] == datetime.datetime(2024, 2, 29).strftime(form)


def test_a_run_that_an_earlier_version_began_is_not_finished_by_other_rules(tmp_path, monkeypatch):
    model, questions = load(tmp_path / "m", zoo.CHATML), make_questions(4)
    commit = writing.commit

    def commit_then_die(*given):
        commit(*given)
        raise KeyboardInterrupt

    def again():
        return play(model, questions, out=tmp_path / "run", protocol=SHORT, fitting=Fitting(batch_size=2),
                    progress=False)  # fmt: skip

    def forget(which):
        file = tmp_path / "run" / "manifest.json"
        file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != which}))

    monkeypatch.setattr(writing, "commit", commit_then_die)
    with pytest.raises(KeyboardInterrupt):
        again()
    monkeypatch.undo()
    whole = (tmp_path / "run" / "manifest.json").read_text()
    forget("rules")
    with pytest.raises(ValueError, match="begun by another version"):
        again()
    (tmp_path / "run" / "manifest.json").write_text(whole)
    finished = again()
    forget("rules")
    assert again().answers["text"].tolist() == finished.answers["text"].tolist()
