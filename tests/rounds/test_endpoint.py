"""Feedback from a server: asked once, kept, and missing where the reply holds none."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import make_questions
from server import Server, completion

from morality_lens.cli.run_config import RunConfig, load_study
from morality_lens.design import Design, Protocol
from morality_lens.dialogues.turns import critique_turn
from morality_lens.dialogues.wording import load_wording
from morality_lens.models.loading import load_model
from morality_lens.progress import listening
from morality_lens.rounds import endpoint, server
from morality_lens.rounds.endpoint import Endpoint
from morality_lens.rounds.feedback import ReviewedAnswer, Said, said, without_thoughts
from morality_lens.rounds.playing import play

WORDING = load_wording()
SHORT = Protocol(design=Design(rounds=2), answer_tokens=4, rationale_tokens=4, feedback_tokens=12)


@pytest.fixture
def server():
    one = Server()
    yield one
    one.server.shutdown()
    one.server.server_close()


def make_endpoint(server: Server, cache: Path, **more) -> Endpoint:
    protocol = replace(SHORT, feedback="endpoint", feedback_from=server.address, feedback_model="m")
    return Endpoint(protocol=protocol, wording=WORDING, cache=cache, **more)


def test_a_server_is_asked_each_thing_once_over_all_starts(server, tmp_path, monkeypatch):
    monkeypatch.setenv(endpoint.KEY, "sk-secret")
    asked = [ReviewedAnswer(item=q, answer="A", condition="", round=1) for q in make_questions(3)]
    asked += [replace(one, answer="B") for one in asked[:2]]
    first = make_endpoint(server, tmp_path / "kept.jsonl").feedback([*asked, asked[1]])
    assert len(server.asked) == 5
    assert all(one.text.startswith("remark ") and "\n" not in one.text for one in first)
    assert {a["key"] for a in server.asked} == {"Bearer sk-secret"}
    turn = critique_turn(asked[0].item, "A", WORDING)
    assert turn.content in [a["messages"][0]["content"] for a in server.asked]
    assert all((a["max_tokens"], a["temperature"], a["model"]) == (12, 0, "m") for a in server.asked)
    with (tmp_path / "kept.jsonl").open("a") as file:
        file.write('{"key": "torn')  # killed while it was written
    again = make_endpoint(server, tmp_path / "kept.jsonl").feedback(asked)
    assert again == first[:5]
    assert len(server.asked) == 5
    assert "sk-secret" not in (tmp_path / "kept.jsonl").read_text()


def test_rate_limits_and_failures_of_a_server_are_waited_out(server, tmp_path):
    server.failures = [429, 500, 503]
    said = make_endpoint(server, tmp_path / "kept.jsonl").feedback(
        [ReviewedAnswer(item=make_questions(1)[0], answer="A", condition="", round=1)]
    )
    assert said == [Said(text="remark 4")]


def test_a_server_that_refuses_is_an_error_without_the_key_and_nothing_is_lost(server, tmp_path, monkeypatch):
    monkeypatch.setenv(endpoint.KEY, "sk-secret")
    asked = [ReviewedAnswer(item=q, answer="A", condition="", round=1) for q in make_questions(3)]
    one = make_endpoint(server, tmp_path / "kept.jsonl")
    one.feedback(asked[:2])
    server.failures = [401]
    with pytest.raises(ConnectionError, match="Its earlier replies are kept") as caught:
        one.feedback(asked)
    assert "sk-secret" not in str(caught.value)
    assert len((tmp_path / "kept.jsonl").read_text().splitlines()) == 2
    make_endpoint(server, tmp_path / "kept.jsonl").feedback(asked)
    assert len(server.asked) == 4


def test_the_official_server_needs_a_key(tmp_path, monkeypatch):
    monkeypatch.delenv(endpoint.KEY, raising=False)
    protocol = replace(SHORT, feedback="endpoint", feedback_model="m")
    with pytest.raises(ValueError, match=endpoint.KEY):
        Endpoint(protocol=protocol, wording=WORDING, cache=tmp_path / "kept.jsonl")


def reviews(n: int) -> list[ReviewedAnswer]:
    return [
        ReviewedAnswer(item=q, answer=f"A{i}", condition="", round=1) for i, q in enumerate(make_questions(n))
    ]


# ------------------------------------------------------------------------------- replies without feedback
NONE = [
    (completion(None), "1 empty"),
    (completion("  \n"), "1 empty"),
    (completion(None, refusal="I cannot judge that."), '1 refused ("I cannot judge that.")'),
    (completion("It is", "content_filter"), "1 filtered"),
    (completion("<think>Is it fair? I"), "1 thoughts alone"),
    (completion("", reasoning_content="Is it fair?"), "1 thoughts alone"),
    (completion("", "length"), "1 cut before the first word"),
    ({"error": {"message": "no such model: x", "code": 5}, "choices": None}, '("no such model: x")'),
    ({**completion(""), "choices": []}, "1 replies without a choice"),
]


@pytest.mark.parametrize(("reply", "counted"), NONE, ids=[counted for _, counted in NONE])
def test_a_reply_without_feedback_is_asked_again_then_missing_counted_and_not_kept(
    server, tmp_path, reply, counted
):
    server.always = reply
    one, heard = make_endpoint(server, tmp_path / "kept.jsonl"), []
    with listening(heard.append):
        assert one.feedback(reviews(1)) == [None]
    assert len(heard) == 1
    assert counted in heard[0]
    assert len(server.asked) == 1 + endpoint.AGAIN
    assert len({asked["seed"] for asked in server.asked}) == 1 + endpoint.AGAIN
    assert one.failures.startswith("1 of 1 requests: ")
    assert counted in one.failures
    assert not (tmp_path / "kept.jsonl").exists()
    assert one.feedback(reviews(1)) == [None]
    assert len(server.asked) == 1 + endpoint.AGAIN, "what failed is not asked again in the same run"
    server.always = None
    assert make_endpoint(server, tmp_path / "kept.jsonl").feedback(reviews(1)) != [None]


def test_one_bad_reply_is_mended_by_the_next(server, tmp_path):
    server.replies = [completion(None), completion("Be fair.")]
    one = make_endpoint(server, tmp_path / "kept.jsonl")
    assert one.feedback(reviews(1)) == [Said(text="Be fair.")]
    assert one.failures == ""


def test_thoughts_that_reach_the_limit_get_twice_the_room(server, tmp_path):
    server.replies = [completion("<think>Is it", "length"), completion("<think>Is it fair?</think>Be fair.")]
    assert make_endpoint(server, tmp_path / "kept.jsonl").feedback(reviews(1)) == [Said(text="Be fair.")]
    assert [asked["max_tokens"] for asked in server.asked] == [12, 24]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Be fair. The answer is", "Be fair."),
        ('He said "no." Then 3.5 of', 'He said "no."'),
        ("The answer rests on a", "The answer rests on a [...]"),
        ("\u3053\u308c\u3002\u305d\u308c", "\u3053\u308c\u3002"),
    ],
)
def test_a_cut_reply_ends_with_a_sentence_or_a_mark_and_stays_cut_when_it_is_read_again(
    server, tmp_path, text, kept
):
    server.always = completion(text, "length")
    assert make_endpoint(server, tmp_path / "kept.jsonl").feedback(reviews(1)) == [Said(text=kept, cut=True)]
    assert make_endpoint(server, tmp_path / "kept.jsonl").feedback(reviews(1)) == [Said(text=kept, cut=True)]
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        ("<think>\na\n</think>\n\nBe fair.", "Be fair."),
        ("a </think> Be fair.", "Be fair."),
        ("Be fair. <think>But", "Be fair."),
        ("<think>a</think>", ""),
        ("Be fair.", "Be fair."),
    ],
)
def test_what_a_model_thinks_aloud_is_not_its_feedback(text, visible):
    assert without_thoughts(text) == visible
    assert said(without_thoughts(text)) == (Said(text=visible) if visible else None)


def test_an_empty_reply_kept_by_an_earlier_version_is_asked_again(server, tmp_path):
    one = make_endpoint(server, tmp_path / "kept.jsonl")
    texts = [critique_turn(r.item, r.answer, WORDING).content for r in reviews(2)]
    rows = [
        {"key": one._key(t), "remark": said} for t, said in zip(texts, ["(nothing)", "Be fair."], strict=True)
    ]
    (tmp_path / "kept.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = make_endpoint(server, tmp_path / "kept.jsonl").feedback(reviews(2))
    assert found == [Said(text="remark 1"), Said(text="Be fair.")]


def test_a_run_stops_where_more_than_a_fifth_of_the_requests_bring_nothing(server, tmp_path):
    server.always = completion(None, refusal="I cannot.")
    one = make_endpoint(server, tmp_path / "kept.jsonl")
    with pytest.raises(ConnectionError, match=r'3 of 3 requests: 3 refused \("I cannot."\).*kept.*resume'):
        one.feedback(reviews(3))
    server.always = None
    again = make_endpoint(server, tmp_path / "again.jsonl")
    assert None not in again.feedback(reviews(12))
    server.always = completion(None)
    more = [replace(one, answer="B") for one in reviews(3)]
    assert again.feedback(more) == [None] * 3  # 3 of 15
    with pytest.raises(ConnectionError, match="4 of 16 requests: 4 empty"):
        again.feedback([replace(more[0], answer="C")])


def test_a_hopeless_server_is_not_asked_a_whole_batch(server, tmp_path):
    server.always = completion(None)
    with pytest.raises(ConnectionError, match="gave no feedback on"):
        make_endpoint(server, tmp_path / "kept.jsonl").feedback(reviews(100))
    assert len(server.asked) <= (endpoint.MANY + 2 * endpoint.AT_ONCE) * (1 + endpoint.AGAIN)


def test_neutral_words_stand_in_for_missing_feedback_and_are_flagged(server, tmp_path, zoo_folder):
    model, questions = load_model(zoo_folder("llama")), make_questions(2)
    protocol = replace(
        SHORT, design=Design(rounds=1), feedback="endpoint", feedback_from=server.address, feedback_model="m"
    )
    play(model, questions, out=tmp_path / "first", protocol=protocol, progress=False)
    server.silent = {server.asked[0]["messages"][0]["content"]}
    run = play(model, questions, out=tmp_path / "run", protocol=protocol, progress=False)
    table = run.answers
    given = table[(table["feedback"] == "on") & (table["round"] > 0)]
    missing = given["feedback_missing"].astype(bool)
    assert 1 <= missing.sum() < len(given)
    assert set(given.loc[missing, "feedback_text"]) == {WORDING.choice.feedback_placebo[0]}
    assert given.loc[~missing, "feedback_text"].str.startswith("remark ").all()
    assert not table.loc[(table["feedback"] == "off") | (table["round"] == 0), "feedback_missing"].any()


# ------------------------------------------------------------------------------- what is sent and kept
def test_further_fields_are_sent_and_belong_to_the_request(server, tmp_path):
    plain = make_endpoint(server, tmp_path / "kept.jsonl")
    plain.feedback(reviews(1))
    assert "top_p" not in server.asked[0]
    fields = {"top_p": 0.5, "max_completion_tokens": 99}
    more = replace(plain.protocol, feedback_request=fields)
    Endpoint(protocol=more, wording=WORDING, cache=tmp_path / "kept.jsonl").feedback(reviews(1))
    assert len(server.asked) == 2, "another request is not answered from the cache"
    sent = server.asked[1]
    assert (sent["top_p"], sent["max_completion_tokens"], "max_tokens" in sent) == (0.5, 99, False)


def test_further_fields_are_part_of_the_run_and_of_its_file(server, tmp_path, zoo_folder):
    model, questions = load_model(zoo_folder("llama")), make_questions(2)
    plain = replace(
        SHORT, design=Design(rounds=1), feedback="endpoint", feedback_from=server.address, feedback_model="m"
    )
    run = play(model, questions, out=tmp_path / "plain", protocol=plain, progress=False)
    assert set(run.manifest["study"]["source"]) == {"from", "model", "exact", "placebo", "named"}
    more = replace(plain, feedback_request={"reasoning_effort": "low", "extra": {"top_k": 3}})
    with pytest.raises(ValueError, match=r"source\.request"):
        play(model, questions, out=tmp_path / "plain", protocol=more, progress=False)
    file = tmp_path / "study.toml"
    file.write_text(RunConfig(protocol=more).to_toml())
    assert load_study(file).protocol == more


@pytest.mark.parametrize(
    "address",
    [
        "https://me:hunter2@host/v1",
        "https://hunter2@host/v1",
        "me:hunter2@host/v1",
        "https://host/v1?api_key=hunter2",
        "https://host/v1?version=1&key=hunter2",
        "https://host/v1?X-Token=hunter2",
        "https://host/v1?api-key=hunter2",
        "https://host/v1#access_token=hunter2",
        "https://host/sk-hunter2hunter2/v1",
        "//me:hunter2@host/v1",
        "https://me:hunter2/x@host/v1",
        "https://host/v1?api%2Dkey=hunter2",
        "https://host/v1?accessToken=hunter2",
        "https://host/v1;token=hunter2",
        "https://host/hf_hunter2hunter2hunter2/v1",
    ],
)
def test_a_secret_in_the_address_is_refused_and_not_repeated(address):
    with pytest.raises(ValueError, match="OPENAI_API_KEY") as caught:
        Protocol(feedback="endpoint", feedback_from=address, feedback_model="m")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ValueError, match="OPENAI_API_KEY") as caught:
        RunConfig.model_validate(
            {"protocol": {"feedback": "endpoint", "feedback_from": address, "feedback_model": "m"}}
        )


def test_an_address_with_harmless_parts_is_taken_and_the_key_itself_is_not(tmp_path, monkeypatch):
    address = "https://host:8000/v1?api-version=2024&keyboard=us"
    protocol = Protocol(feedback="endpoint", feedback_from=address, feedback_model="m")
    monkeypatch.setenv(endpoint.KEY, "2024")
    with pytest.raises(ValueError, match="holds the key itself"):
        Endpoint(protocol=protocol, wording=WORDING, cache=tmp_path / "kept.jsonl")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"messages": []}, "messages have|got feedback='endpoint' and messages"),
        ({"api_key": "x"}, "OPENAI_API_KEY"),
        ({"headers": {"Authorization": "x"}}, "OPENAI_API_KEY"),
        ({"tools": [{"server": {"apiKey": "x"}}]}, "OPENAI_API_KEY"),
        ({"note": "Bearer hunter2"}, "OPENAI_API_KEY"),
    ],
)
def test_fields_that_are_not_the_users_are_refused(fields, match):
    with pytest.raises(ValueError, match=match):
        Protocol(feedback="endpoint", feedback_model="m", feedback_request=fields)
    with pytest.raises(ValueError, match="further fields"):
        Protocol(feedback_request={"top_p": 1})


KEY = "sk-abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(
    "said",
    [
        f"wrong key {KEY}",
        "x" * 190 + KEY,  # the cut of a long message falls into the key
        "Incorrect API key provided: sk-a****************wxyz.",
    ],
)
def test_a_key_that_a_server_repeats_is_scrubbed(monkeypatch, said):
    monkeypatch.setenv(endpoint.KEY, KEY)
    shown = server.plain(said)
    assert not any(part in shown for part in ("abcdef", "sk-a", "wxyz"))
    assert "(key)" in shown or len(said) > 200


def test_a_key_in_feedback_is_scrubbed_before_it_is_kept(monkeypatch):
    monkeypatch.setenv(endpoint.KEY, KEY)
    found = endpoint._visible(SimpleNamespace(content=f"Your key is {KEY}. Think again."), cut=False)
    assert isinstance(found, Said)
    assert found.text == "Your key is (key). Think again."
