import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from synthetic import HOSTILE, make_view, make_views

from morality_lens.plots.transcripts import STEPS, TranscriptView, pieces, transcript_html
from morality_lens.runs.token_view import TokenView, token_view


class Reader(HTMLParser):
    """Elements with their attributes, and the text outside scripts and styles."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    return reader


def embedded(html: str) -> dict:
    (text,) = re.findall(r'class="mlt-data">(.*?)</script>', html, re.S)
    return json.loads(text)


def first(html: str) -> dict:
    """The first dialogue, its texts in place of their numbers."""
    data = embedded(html)
    (packed, *_), strings = data["dialogues"], data["strings"]
    tokens = [strings[i] for piece in packed["pieces"] for i in piece[3]]
    return {**packed, "tokens": tokens}


def values_of(packed: dict, direction: str = "") -> np.ndarray:
    packed = packed["colours"][direction]
    steps = np.frombuffer(base64.b64decode(packed["values"]), "<i2").reshape(len(packed["layers"]), -1)
    values = steps * np.array(packed["scale"])[:, None]
    return np.where(steps == -STEPS - 1, np.nan, values)


def small(tokens, spans, **more) -> TokenView:
    return TokenView(item="a", condition={"cot": "on"}, tokens=tokens, spans=spans, **more)


def test_embedded_values_are_the_given_ones_to_the_step():
    view = make_view()
    packed = first(transcript_html([view]))
    bound = np.abs(view.values).max(axis=1, keepdims=True) / STEPS
    assert (np.abs(values_of(packed) - view.values) <= 0.51 * bound + 1e-7).all()
    assert packed["tokens"] == list(view.tokens)
    assert packed["colours"][""]["layers"] == list(view.layers)


def test_a_missing_value_stays_missing_and_does_not_become_zero():
    values = np.array([[np.nan, 1.0, np.inf], [0.0, 0.0, 0.0]])
    view = small(["a", " b", " c"], [], layers=[0, 1], values=values)
    got = values_of(first(transcript_html([view])))
    np.testing.assert_array_equal(np.isnan(got), [[True, False, True], [False] * 3])
    assert got[0, 1] == pytest.approx(1.0, rel=1e-6)
    np.testing.assert_array_equal(got[1], 0.0)


def test_the_colour_scale_is_shared_by_the_views_and_not_owned_by_an_outlier():
    base = np.full((1, 200), 0.5)
    tame = small(["x "] * 200, [], layers=[3], values=base)
    wild = small(["x "] * 200, [], layers=[3], values=np.concatenate([[[900.0]], base[:, 1:]], axis=1))
    wild = replace(wild, item="b")
    assert embedded(transcript_html([tame, wild]))["scales"] == {"": {"3": [0.5, 0.0, 0.5]}}


def test_the_colour_scale_is_that_of_most_tokens_also_where_many_lie_far_away():
    rng = np.random.default_rng(0)
    near = rng.normal(2.0, 1.0, (1, 4000))
    far = np.where(rng.random((1, 4000)) < 0.1, -500.0, near)
    for values in (near, far):
        view = small(["x "] * 4000, [], layers=[0], values=values)
        middle, spread, reach = embedded(transcript_html([view]))["scales"][""]["0"]
        assert middle == pytest.approx(2.0, abs=0.2)
        assert spread == pytest.approx(4 * 0.6745, rel=0.2)
        assert reach == pytest.approx(middle + spread, abs=0.01)


def test_several_directions_are_one_dialogue_with_the_tokens_once():
    view = make_view()
    other = replace(view, direction="toxicity", values=-view.values, opening=3, refused=(5,), units="points")
    html = transcript_html([view, other])
    assert len(embedded(html)["dialogues"]) == 1
    assert read(html).text.count("Who took the purse?") == read(transcript_html([view])).text.count(
        "Who took the purse?"
    )
    packed = first(html)
    np.testing.assert_allclose(values_of(packed), -values_of(packed, "toxicity"))
    assert {k: packed["colours"]["toxicity"][k] for k in ("opening", "refused", "units")} == {
        "opening": 3, "refused": [5], "units": "points",
    }  # fmt: skip
    with pytest.raises(ValueError, match="same tokens"):
        transcript_html([view, replace(other, tokens=("x", *view.tokens[1:]))])


def test_of_a_rewritten_dialogue_each_round_is_shown_as_it_was_stored_for_it():
    early = small(
        ["Q", "think", "A"],
        [
            {"name": "question", "round": 0, "start": 0, "stop": 1},
            {"name": "thought", "round": 0, "start": 1, "stop": 2},
            {"name": "answer", "round": 0, "start": 2, "stop": 3},
        ],
        layers=[0], values=np.array([[1.0, 2.0, 3.0]]),
    )  # fmt: skip
    late = small(
        ["Q", "A", "R", "B"],
        [
            {"name": "question", "round": 0, "start": 0, "stop": 1},
            {"name": "answer", "round": 0, "start": 1, "stop": 2},
            {"name": "review", "round": 1, "start": 2, "stop": 3},
            {"name": "answer", "round": 1, "start": 3, "stop": 4},
        ],
        layers=[0], values=np.array([[-1.0, -2.0, 4.0, 5.0]]),
    )  # fmt: skip
    for views in ([early, late], [late, early]):
        packed = first(transcript_html(views))
        assert packed["tokens"] == ["Q", "think", "A", "R", "B"]
        assert [piece[1] for piece in packed["pieces"]] == [0, 0, 0, 1, 1]
        np.testing.assert_allclose(values_of(packed), [[1, 2, 3, 4, 5]], rtol=1e-4)


@pytest.mark.parametrize("token", HOSTILE)
def test_hostile_tokens_stay_text(token):
    view = make_view(extra=(token,))
    view = TokenView(
        **{**vars(view), "title": token, "notes": (token,), "item": token, "condition": {token: "on"}}
    )
    html = transcript_html([view])
    reader = read(html)
    assert [tag for tag, _ in reader.elements].count("script") == 2
    assert "img" not in {tag for tag, _ in reader.elements}
    assert not any(name.startswith("on") for _, attrs in reader.elements for name in attrs)
    assert token in reader.text
    assert first(html)["tokens"][-1] == token
    assert token not in html.split('class="mlt-data">')[1].split("</script>")[0] or token not in "</>\u2028"


def test_half_a_character_can_be_written_to_a_file():
    view = small(["\ud83d", "\udc69 b"], [])
    html = transcript_html([view])
    html.encode("utf-8")
    assert first(html)["tokens"][0] == "\ud83d"


def test_without_scripts_the_dialogue_can_be_read_in_order():
    view = make_view(condition={"instruction": "on", "cot": "on", "feedback": "on"})
    text = read(transcript_html([view])).text
    order = [
        "Round 0",
        "question:",
        "answer:",
        "Round 1",
        "feedback:",
        "review:",
        "instruction:",
        "rationale:",
    ]
    places = [text.index(word) for word in order]
    assert places == sorted(places)
    assert "The story names two people but shows neither" in text
    assert "<|user|>" not in text


def test_pieces_leave_out_no_token_and_share_none():
    spans = [
        {"name": "question", "round": 0, "start": 1, "stop": 4},
        {"name": "answer", "round": 0, "start": 3, "stop": 5},
        {"name": "review", "round": 1, "start": 6, "stop": 7},
    ]
    got = pieces(small([" a"] * 8, spans))
    assert [(p.name, p.round, p.start, p.stop) for p in got] == [
        ("template", 0, 0, 1),
        ("question", 0, 1, 4),
        ("answer", 0, 4, 5),
        ("template", 0, 5, 6),
        ("review", 1, 6, 7),
        ("template", 1, 7, 8),
    ]
    assert [p.speaker for p in got] == ["template", "user", "model", "template", "user", "template"]


def test_two_neighbouring_segments_of_one_name_stay_two():
    spans = [{"name": "review", "round": 1, "start": i, "stop": i + 1} for i in range(2)]
    assert len(pieces(small(["a", " b"], spans))) == 2


def test_views_that_cannot_be_right_are_refused():
    with pytest.raises(ValueError, match="lies outside"):
        small(["a"], [{"name": "answer", "round": 0, "start": 0, "stop": 2}])
    with pytest.raises(ValueError, match=r"\(1, 2\)"):
        small(["a", "b"], [], layers=[0], values=np.zeros((1, 3)))
    with pytest.raises(ValueError, match="1 token ids"):
        small(["a", "b"], [], token_ids=[3])
    with pytest.raises(ValueError, match="at least one view"):
        transcript_html([])


def test_views_without_values_have_no_scale():
    data = embedded(transcript_html([make_view(values=False)]))
    assert data["scales"] == {}
    assert data["dialogues"][0]["colours"] == {}


def test_bare_words_are_set_apart():
    words = small(["the", "nurse", "said"], [{"name": "answer", "round": 0, "start": 0, "stop": 3}])
    assert "the nurse said" in read(transcript_html([words])).text
    assert first(transcript_html([words]))["spaced"] is True
    assert first(transcript_html([make_view()]))["spaced"] is False


def test_a_row_of_a_run_becomes_a_view():
    row = pd.Series(
        {
            "item": "a",
            "instruction": "on",
            "cot": "off",
            "feedback": "off",
            "round": 1,
            "token_ids": np.array([5, 6]),
            "tokens": np.array(["Hi", " you"], dtype=object),
            "spans": np.array([{"name": "answer", "round": 1, "start": 0, "stop": 2}], dtype=object),
        }
    )
    view = token_view(row, layers=[0], values=np.array([[1.0, -1.0]]))
    assert view.condition_label == "instruction"
    assert view.tokens == ("Hi", " you")
    assert pieces(view)[0].name == "answer"
    assert first(transcript_html([view]))["ids"] == [5, 6]


def test_thirty_two_long_views_stay_below_three_megabytes():
    rng = np.random.default_rng(0)
    spans = [{"name": "answer", "round": 0, "start": 0, "stop": 500}]
    views = [
        replace(
            small([" token"] * 500, spans, layers=list(range(-1, 32)), values=rng.standard_normal((33, 500))),
            item=f"q{i}",
        )
        for i in range(32)
    ]
    assert len(embedded(transcript_html(views))["dialogues"]) == 32
    assert len(transcript_html(views).encode()) < 3e6


def test_the_fragment_names_no_address_and_no_global():
    html = transcript_html(make_views())
    assert not re.search(r"(src|href)=|url\(|fetch\(|import\(|XMLHttpRequest", html)
    script = html.split("<script>")[1]
    assert "window." not in script
    assert script.startswith("(function () {")
    assert " id=" not in html.split('class="mlt-data"')[0]


def test_a_notebook_shows_the_same_fragment():
    views = make_views(items=("a",))
    assert TranscriptView(views)._repr_html_() == transcript_html(views)
    assert repr(TranscriptView(views)) == "<TranscriptView: 8 dialogues of 1 items>"


def test_a_layer_without_values_cannot_be_opened():
    with pytest.raises(ValueError, match="cannot open at layer 9"):
        make_view_at(9)


def make_view_at(layer: int) -> TokenView:
    return replace(make_view(), opening=layer)
