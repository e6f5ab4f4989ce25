"""A run on a server of this machine: what it answers, to whom, and what a browser makes of it."""

import itertools
import json
import threading
import time

import numpy as np
import pytest
import torch
import uvicorn
from chromium import BODY, COLORS, browser as browser, choose, count, in_browser, text_of, wait
from conftest import make_questions
from starlette.testclient import TestClient

from morality_lens.circuits.attending import attention_pattern, heads_of
from morality_lens.cli.view import Model, listening
from morality_lens.design import Design, Protocol
from morality_lens.items.kinds import Question, Statement
from morality_lens.models.loading import load_model, record_of
from morality_lens.plots.transcripts import color_scales
from morality_lens.probes.from_statements import fit_probe
from morality_lens.report.browser import browser_html
from morality_lens.report.serving import HEADERS, POLICY, browser_app
from morality_lens.rounds.playing import play
from morality_lens.rounds.preflight import Fitting
from morality_lens.rounds.rereading import read_transcripts
from morality_lens.runs.pages import Query, find, shelf
from morality_lens.runs.run import open_run

PROTOCOL = Protocol(design=Design(rounds=1), answer_tokens=3, rationale_tokens=4, feedback_tokens=4)
STATEMENTS = [
    Statement(id=f"{verb}{i}", cluster=verb, text=f"The Vel {verb} the Tor{' again' * i}.", label=label)
    for label, verbs in ((1, ("helped", "fed", "thanked")), (0, ("robbed", "mocked", "starved")))
    for verb in verbs
    for i in range(2)
]
PORT = 4321
HOSTILE = (
    "</script><script>window.pwned=1</script>",
    '<img src=x onerror="window.pwned=1">',
    "\u202eover\u2066",
    "\"'&\u2028",
)


@pytest.fixture(scope="module")
def llama(zoo_folder):
    return load_model(zoo_folder("llama"), device="cpu")


@pytest.fixture(scope="module")
def run(llama, tmp_path_factory):
    questions = [
        Question(
            **{
                **one.__dict__,
                "id": f"q/{i} {HOSTILE[i % 4]}",
                "cluster": f"t{i}",
                "context": f"{one.context} {HOSTILE[i % 4]}",
                "category": "Trades" if i % 3 else "Villages",
            }
        )
        for i, one in enumerate(make_questions(9))
    ]
    out = tmp_path_factory.mktemp("serving") / "run"
    play(llama, questions, out=out, protocol=PROTOCOL, progress=False, fitting=Fitting(batch_size=2))
    return open_run(out)


@pytest.fixture(scope="module")
def probes(llama):
    one = fit_probe(llama, STATEMENTS)
    return {"moral": one, "other": fit_probe(llama, STATEMENTS, kind="logistic")}


@pytest.fixture
def model(llama, run, probes):
    """A reader whose model need not be loaded from disk."""
    made = Model(played=run, probes=probes)
    made.loaded = llama
    return made


@pytest.fixture
def client(run, model):
    return TestClient(browser_app(run, model, port=PORT), base_url=f"http://127.0.0.1:{PORT}")


def listed(client, **asked):
    """All dialogues that match, page by page."""
    found, cursor = [], ""
    while cursor is not None:
        page = client.get("/api/list", params={**asked, "cursor": cursor}).json()
        found += page["rows"]
        cursor = page["cursor"]
    return found


def test_every_dialogue_is_listed_once(client, run):
    rows = listed(client)
    want = {(name, condition.label) for name in run.asked for condition in run.design.conditions}
    assert len(rows) == len(want) == 72
    assert {(row["item"], row["condition"]) for row in rows} == want


def test_filters_leave_what_the_tables_say(client, run):
    answers = run.answers
    for outcome, round in itertools.product("rwu", ("", "0", "1")):
        kind = {
            "r": answers["correct"],
            "w": answers["parsed"] & ~answers["correct"],
            "u": ~answers["parsed"],
        }
        own = answers.loc[kind[outcome]]
        own = own if round == "" else own.loc[own["round"] == int(round)]
        want = len(own[["item", *run.design.names]].drop_duplicates())
        assert len(listed(client, outcome=outcome, round=round)) == want, (outcome, round)
    assert len(listed(client, condition="cot", category="Villages")) == 3
    words = next(iter(run.asked.values())).id.casefold()
    assert len(listed(client, words=words)) >= 8
    assert listed(client, words="nowhere to be found") == []


def test_the_page_and_the_server_find_the_same(client, run):
    data = json.loads(browser_html(run).split('class="mlt-data">')[1].split("</script>")[0])
    by_outcome = {
        letter: {
            (one["item"], one["condition"])
            for one in data["dialogues"]
            if any(told["changed"] if letter == "c" else told["outcome"] == letter for told in one["rounds"])
        }
        for letter in "rwuc"
    }
    assert len(data["dialogues"]) == 72
    for letter, want in by_outcome.items():
        assert {(row["item"], row["condition"]) for row in listed(client, outcome=letter)} == want


def test_a_page_reads_the_parts_it_shows_and_no_other(run):
    read = []

    class Counting(type(run)):
        def part_table(self, part, name):
            read.append((part, name))
            return super().part_table(part, name)

    counted = Counting(path=run.path, manifest=run.manifest)
    held = shelf(counted)
    assert len(held.groups) >= 4
    first = find(held, Query(), size=5)
    assert len(first.told) == 5
    assert {part for part, _ in read} == set(held.groups[0].parts)
    assert {name for _, name in read} == {"answers"}
    second = find(held, Query(), cursor=first.cursor, size=5)
    assert not {t.condition for t in first.told[-1:]} & {t.condition for t in second.told[:1]}
    assert {part for part, _ in read} <= {p for group in held.groups[:2] for p in group.parts}
    assert not {"answers", "transcripts"} & set(vars(counted))  # the whole tables were never read


def test_a_search_that_takes_long_comes_back_and_goes_on(run):
    held = shelf(run)
    page, places = find(held, Query(words="nowhere"), seconds=0.0), []
    while page.cursor is not None:
        places.append(page.cursor)
        page = find(held, Query(words="nowhere"), cursor=page.cursor, seconds=0.0)
    assert places == [(n, 0) for n in range(1, len(held.groups))]


def test_a_dialogue_is_what_was_stored(client, run):
    name = list(run.asked)[4]
    found = client.get("/api/dialogue", params={"item": name, "condition": "cot"}).json()
    (row,) = run.select(run.transcripts, name, run.design.condition("cot")).to_dict("records")
    tokens = [found["strings"][i] for piece in found["pieces"] for i in piece[3]]
    assert tokens == list(row["tokens"])
    assert found["ids"] == list(row["token_ids"])
    assert found["colours"] == {}
    shares = run.option_probabilities.sel(item=name, instruction="off", cot="on", feedback="off")
    np.testing.assert_allclose([told["probabilities"] for told in found["rounds"]], shares, rtol=1e-3)
    assert [option["text"] for option in found["options"]] == list(run.asked[name].options)
    assert [bool(option.get("good")) for option in found["options"]] == [False, True, False]


def test_tokens_are_read_by_the_model_on_request_and_once(client, run, model, llama, probes, monkeypatch):
    name = list(run.asked)[2]
    asked = {"item": name, "condition": "feedback"}
    found = client.get("/api/tokens", params=asked).json()
    rows = run.select(run.transcripts, name, run.design.condition("feedback"))
    views = read_transcripts(llama, run, probes, rows=rows)
    assert list(found["colours"]) == ["moral", "other"]
    assert found["scales"] == color_scales(views)
    assert found["colours"]["moral"]["opening"] == views[0].opening
    monkeypatch.setattr(model, "_model", lambda: pytest.fail("it was read already"))
    assert client.get("/api/tokens", params=asked).json() == found


def test_kept_colours_need_no_model(run, llama, probes):
    name = next(iter(run.asked))
    rows = run.select(run.transcripts, name, run.design.condition("none"))
    views = read_transcripts(llama, run, probes["moral"], rows=rows)
    app = browser_app(run, Model(played=run, probes={}), port=PORT, views=views)
    client = TestClient(app, base_url=f"http://127.0.0.1:{PORT}")
    found = client.get("/api/dialogue", params={"item": name, "condition": "none"}).json()
    assert list(found["colours"]) == [""]
    assert found["own"] is False


def test_the_attention_of_a_head_is_what_transformers_computes(llama, run, client):
    record, name = record_of(llama), next(iter(run.asked))
    (row,) = run.select(run.transcripts, name, run.design.condition("none")).to_dict("records")
    ids = [int(t) for t in row["token_ids"]]
    module = record.lm.module
    before = module.config._attn_implementation
    module.set_attn_implementation("eager")
    with torch.no_grad():
        want = module(torch.tensor([ids]), output_attentions=True).attentions
    module.set_attn_implementation(before)
    for layer, head in ((0, 0), (1, 1), (2, heads_of(llama) - 1)):
        got = attention_pattern(llama, ids, layer=layer, head=head)
        np.testing.assert_allclose(got, want[layer][0, head], atol=1e-5)
        np.testing.assert_allclose(got.sum(1), 1, atol=1e-5)
    asked = {"item": name, "condition": "none", "layer": 2, "head": 1, "token": 11}
    answer = client.get("/api/attention", params=asked).json()
    assert answer["heads"] == heads_of(llama)
    np.testing.assert_allclose(answer["weights"][:12], want[2][0, 1, 11, :12], rtol=1e-3, atol=1e-5)
    assert answer["weights"][12:] == [None] * (len(ids) - 12)
    for wrong in ({"layer": 99}, {"head": 99}, {"token": 9999}, {"token": "x"}, {"layer": -1}):
        reply = client.get("/api/attention", params={**asked, **wrong})
        assert reply.status_code in (400, 404, 422)
        assert reply.json()["error"]


def test_answers_go_to_this_machines_own_page_alone(run, model, client):
    for host in (
        "evil.example",
        f"evil.example:{PORT}",
        "127.0.0.1",
        "127.0.0.1:80",
        f"127.0.0.1:{PORT}.evil.example",
        "",
    ):
        assert client.get("/api/list", headers={"host": host}).status_code == 403, host
    assert client.get("/", headers={"host": f"localhost:{PORT}"}).status_code == 200
    for site in ("cross-site", "same-site"):
        assert client.get("/api/list", headers={"sec-fetch-site": site}).status_code == 403
    assert client.get("/api/list", headers={"sec-fetch-site": "same-origin"}).status_code == 200
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"):
        reply = client.request(method, "/api/list")
        assert (reply.status_code, reply.headers["allow"]) == (405, "GET"), method


def test_every_response_has_the_policy(client):
    for path in ("/", "/browser.css", "/api/list", "/nothing", "/api/dialogue?item=x"):
        headers = client.get(path).headers
        for name, value in HEADERS.items():
            assert headers[name] == value
    assert "unsafe" not in POLICY
    assert "access-control-allow-origin" not in client.get("/api/list").headers


@pytest.mark.parametrize(
    "path",
    [
        "/../manifest.json",
        "/..%2fmanifest.json",
        "/manifest.json",
        "/api/../../etc/passwd",
        "/browser.css/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
    ],
)
def test_no_path_leads_to_a_file(client, path):
    reply = client.get(path)
    assert reply.status_code == 404
    assert "root:" not in reply.text


@pytest.mark.parametrize(
    ("path", "asked", "code"),
    [
        ("/api/list", {"round": "x"}, 400),
        ("/api/list", {"cursor": "1.x"}, 400),
        ("/api/list", {"cursor": "9" * 400}, 400),
        ("/api/list", {"condition": "magic"}, 422),
        ("/api/dialogue", {}, 404),
        ("/api/dialogue", {"item": "../../manifest.json", "condition": "none"}, 404),
        ("/api/dialogue", {"item": "q/0", "condition": "none"}, 404),
    ],
)
def test_what_is_not_there_is_one_sentence(client, path, asked, code):
    reply = client.get(path, params=asked)
    assert reply.status_code == code
    assert "Traceback" not in reply.text
    assert reply.json()["error"]


@pytest.fixture
def address(run, model):
    """The run, served."""
    with listening("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(browser_app(run, model, port=port), log_level="critical", lifespan="off")
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [held]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{port}/"
        server.should_exit = True
        thread.join()


class TestInChromium:
    pytestmark = in_browser

    def opened(self, browser, address):
        browser.get("about:blank")
        browser.get(address)
        wait(browser, "return document.querySelector('.mlt-token')")

    def test_the_server_s_page_filters_searches_colours_and_reads_attention(
        self, browser, address, run, client
    ):
        self.opened(browser, address)
        wait(browser, "return document.querySelector('.mlt-count').textContent.startsWith('40')")
        wanted = len(listed(client, outcome="u", round="1", condition="cot"))
        for kind, value in ((".mlt-f-outcome", "u"), (".mlt-f-round", "1"), (".mlt-f-condition", "cot")):
            choose(browser, kind, value)
        wait(browser, f"return document.querySelector('.mlt-count').textContent.startsWith('{wanted} ')")
        for kind in (".mlt-f-outcome", ".mlt-f-round", ".mlt-f-condition"):
            choose(browser, kind, "")
        wait(browser, "return document.querySelector('.mlt-count').textContent.startsWith('40')")
        browser.execute_script("document.querySelector('.mlt-more').click()")
        wait(browser, "return document.querySelector('.mlt-count').textContent.startsWith('72')")
        assert count(browser) == 72
        assert not any(browser.execute_script(COLORS))
        browser.execute_script("document.querySelector('.mlt-read').click()")
        wait(
            browser, "return [...document.querySelectorAll('.mlt-token')].some(t => t.style.backgroundColor)"
        )
        names = browser.execute_script(
            "return [...document.querySelectorAll('.mlt-direction option')].map(o => o.value)"
        )
        assert names == ["moral", "other", "attention of a head", "nothing"]
        choose(browser, ".mlt-direction", "attention of a head")
        choose(browser, ".mlt-layer", "1")
        browser.execute_script("document.querySelectorAll('.mlt-token')[9].click()")
        wait(
            browser,
            "return document.querySelector('.mlt-legend').textContent.includes('layer 1 from token 9')",
        )
        colors = browser.execute_script(COLORS)
        assert any(colors[:10])
        assert not any(colors[10:])
        hosts = browser.execute_script(
            "return [...new Set(performance.getEntriesByType('resource').map(e => new URL(e.name).host))]"
        )
        assert hosts == [address.split("/")[2]]
        assert browser.get_log("browser") == []

    def test_links_lead_back_on_the_server_too(self, browser, address, run):
        self.opened(browser, address)
        first = _shown(browser)
        browser.execute_script("document.querySelectorAll('.mlt-entry')[11].click()")
        wait(browser, "return location.hash !== ''")
        second = _when_shown(browser, first)
        link = browser.execute_script("return document.querySelector('.mlt-link').href")
        browser.back()
        assert _when_shown(browser, second) == first
        browser.get("about:blank")
        browser.get(link)
        wait(browser, "return document.querySelector('.mlt-item') && document.querySelector('.mlt-token')")
        assert _when_shown(browser, first) == second

    def test_hostile_items_run_nothing_on_the_server(self, browser, address, run):
        self.opened(browser, address)
        for place, entry in enumerate(range(0, 32, 8)):
            browser.execute_script(f"document.querySelectorAll('.mlt-entry')[{entry}].click()")
            time.sleep(0.3)
            assert browser.execute_script("return window.pwned") is None
            assert (
                browser.execute_script("return document.querySelectorAll('main img, main script').length")
                == 1
            ), place
        assert any(
            text[:8] in browser.execute_script("return document.body.textContent") for text in HOSTILE[:2]
        )
        assert browser.execute_script(BODY)

    def test_a_server_that_has_ended_is_told(self, browser, address):
        self.opened(browser, address)
        browser.execute_script("window.fetch = () => Promise.reject(new TypeError('gone'))")
        browser.execute_script("document.querySelectorAll('.mlt-entry')[3].click()")
        wait(browser, "return document.querySelector('.mlt-status').textContent.includes('start it again')")
        assert "morality-lens view" in text_of(browser, ".mlt-status")


def _shown(browser):
    return text_of(browser, ".mlt-item"), browser.execute_script(
        "return document.querySelector('.mlt-condition').value"
    )


def _when_shown(browser, before):
    until = time.monotonic() + 10
    while time.monotonic() < until and _shown(browser) == before:
        time.sleep(0.05)
    return _shown(browser)
