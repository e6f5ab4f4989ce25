"""Configurations of runs and studies survive their TOML files, whatever they hold; faults are one line."""

import re
from dataclasses import fields

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from morality_lens.cli import study
from morality_lens.cli.run_config import RunConfig, load_study
from morality_lens.cli.study import settings_of
from morality_lens.cli.study_config import StudyConfig, load_study_config
from morality_lens.design import Design, Protocol
from morality_lens.studies.plan import AT_LEAST_ONE, Plan

MANY = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
AWKWARD = ['a "b"\nc', "x = [1]", "'''", "\\", "# no comment", "\t.", "[protocol]"]
TEXTS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12) | st.sampled_from(
    AWKWARD
)
SEEDS = st.integers(0, 2**32 - 1)
JSON = st.recursive(
    st.booleans() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
PROTOCOLS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 9),
        "feedback": st.sampled_from(["self", "oracle"]),
        "wording_index": st.integers(0, 4),
        "feedback_placebo": st.sampled_from(["neutral", "yoked"]),
        "feedback_named": st.sampled_from(["kept", "withheld"]),
        "answer_tokens": st.none() | st.integers(1, 99),
        "answer_prefix": st.just("") | TEXTS,
        "temperature": st.floats(0, 4),
        "system_prompt": st.none() | TEXTS,
    }
)
COMMON = {
    "model": st.none() | TEXTS,
    "data": st.none() | TEXTS,
    "limit": st.none() | st.integers(1, 10**6),
    "seed": SEEDS,
    "drop_long": st.booleans(),
    "out": TEXTS,
    "template_keywords": st.dictionaries(TEXTS, JSON, max_size=3),
    "quantization": st.sampled_from([None, "4bit", "8bit"]),
    "protocol": PROTOCOLS,
}
LAYERS = st.lists(st.integers(-1, 9), unique=True).map(tuple)
NUMBERS = [one.name for one in fields(Plan) if one.name != "evidence_rounds"]


def numbers(names: list[str]) -> st.SearchStrategy:
    return st.fixed_dictionaries({}, optional={n: st.integers(int(n in AT_LEAST_ONE), 99) for n in names})


OF_STUDIES = {
    **COMMON,
    "prompts": st.none() | TEXTS,
    "directions": st.dictionaries(TEXTS, TEXTS, max_size=2),
    "judges": st.lists(TEXTS, max_size=2).map(tuple),
    "profile": st.sampled_from(["full", "quick"]),
    "rounds": st.none() | st.integers(1, 9),
    "plan": numbers(NUMBERS),
}


def protocol(drawn: dict) -> Protocol:
    return Protocol(design=Design(seed=drawn["seed"]), **{k: v for k, v in drawn.items() if k != "seed"})


@MANY
@given(drawn=st.fixed_dictionaries(OF_STUDIES))
def test_a_study_read_back_has_identical_settings(tmp_path, drawn):
    config = StudyConfig(**{**drawn, "protocol": protocol(drawn["protocol"])})
    file = tmp_path / "study.toml"
    file.write_text(config.to_toml(), encoding="utf-8")
    back = load_study_config(file)
    assert back == config
    assert settings_of(back) == settings_of(config)
    assert back.to_toml() == config.to_toml()


@MANY
@given(drawn=st.fixed_dictionaries({**COMMON, "layers": st.none() | LAYERS}))
def test_a_run_read_back_is_the_same(tmp_path, drawn):
    config = RunConfig(**{**drawn, "protocol": protocol(drawn["protocol"])})
    file = tmp_path / "run.toml"
    file.write_text(config.to_toml(), encoding="utf-8")
    assert load_study(file) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('profil = "quick"', "profil: Extra inputs are not permitted"),
        ('profile = "fast"', "profile: Input should be 'full' or 'quick'"),
        ("[protocol]\ntemprature = 1", "protocol.temprature"),
        ("[protocol.design]\nrounds = 3", "write rounds = N at the top"),
        ("[plan]\nprompts = -1", "plan.prompts"),
        ("[plan]\nitms = 3", "--plan needs KEY=NUMBER, .* got 'itms=3'"),
        ("limit = ", "not valid TOML"),
    ],
)
def test_a_fault_in_a_study_file_is_one_clear_line(command, tmp_path, text, message):
    (tmp_path / "s.toml").write_text(text)
    code, _, err = command("study", "--config", tmp_path / "s.toml", "--out", tmp_path / "out")
    assert code == 2
    (line,) = err.splitlines()
    assert re.search(message, line), line


def test_null_cannot_be_kept_and_is_not_lost():
    with pytest.raises(ValueError, match="template_keywords holds null"):
        RunConfig(template_keywords={"a": {"b": [None]}}).to_toml()


def test_options_replace_the_entries_of_a_file(command, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(study, "load_and_show", lambda options: seen.append(options))
    monkeypatch.setattr(study, "_estimate", lambda loaded, material, chosen: seen.append(chosen))
    (tmp_path / "s.toml").write_text(
        'profile = "quick"\nlimit = 7\ndtype = "float64"\n'
        '[protocol]\nfeedback = "oracle"\nanswer_tokens = 9\n'
    )
    more = ("--limit", 5, "--answer-tokens", 4, "--plan", "samples=0", "--dry-run")
    code, _, err = command("study", "--config", tmp_path / "s.toml", *more)
    assert code == 0, err
    options, chosen = seen
    assert options.dtype == "float64"
    assert (chosen.plan.items, chosen.plan.samples, chosen.plan.wordings) == (5, 0, 3)
    assert (chosen.protocol.feedback, chosen.protocol.answer_tokens) == ("oracle", 4)
