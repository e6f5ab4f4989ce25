"""Factors of one's own: from a TOML table to effects, patches and verdicts, beside the three or instead."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import zoo
from hypothesis import given, strategies as st
from tiny import made_up_probe

import morality_lens as ml
from morality_lens.cli.run_config import load_study
from morality_lens.components import READY
from morality_lens.design import (
    COMPONENTS,
    RESERVED,
    Condition,
    Design,
    Factor,
    Protocol,
    condition_of,
    design_from,
)
from morality_lens.dialogues.script import Script
from morality_lens.dialogues.turns import correction_turn, opening_turns
from morality_lens.dialogues.wording import load_wording
from morality_lens.experiments.masking import mask_words
from morality_lens.interactions.by_component import attribute_effects
from morality_lens.interactions.contrasts import compared_levels
from morality_lens.interactions.cube import conditions_of, factors_of
from morality_lens.interactions.effects import factorial_effects
from morality_lens.models.loading import load_model, record_of
from morality_lens.report.analysis import analyze
from morality_lens.report.writing import write_report
from morality_lens.rounds.playing import play
from morality_lens.rounds.selection import Execution
from morality_lens.runs.run import open_run
from morality_lens.studies.verdicts import Task, gains_over_instruction, no_best_method, robust_to_evidence

WORDING = load_wording()
PERSONA = Factor(name="persona", place="system", texts={"on": "A fair reader looks at the text."})
FOUR = """
limit = 10
[protocol]
feedback = "oracle"
[protocol.design]
rounds = 1
[[protocol.design.factors]]
name = "instruction"
[[protocol.design.factors]]
name = "cot"
[[protocol.design.factors]]
name = "feedback"
[[protocol.design.factors]]
name = "persona"
place = "system"
levels = ["off", "on"]
on = "A fair reader looks at the text."
"""


# ------------------------------------------------------------------------------------------- conditions
def test_a_condition_is_the_levels_of_its_factors_in_any_order():
    one, other = Condition(persona="on", cot="off"), Condition(persona="on")
    assert one == other
    assert hash(one) == hash(other)
    assert one["instruction"] == "off"
    assert one.coords == {"persona": "on", "cot": "off"}
    assert Condition(instruction="on", persona="judge").label == "instruction+persona(judge)"
    assert Condition() != Condition(cot="placebo")
    assert repr(other) == "Condition(persona='on')"


def test_a_condition_of_something_else_than_level_names_is_refused():
    with pytest.raises(TypeError, match=r"instruction(=|': )True"):
        ml.Condition(instruction=True)  # pyright: ignore[reportArgumentType]


LEVEL_NAMES = st.from_regex(r"[a-z][a-z0-9._-]{0,6}", fullmatch=True).filter(lambda x: x != "off")
NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True).filter(lambda x: x not in RESERVED)


@given(st.dictionaries(NAMES, LEVEL_NAMES, max_size=4))
def test_a_label_says_its_condition(levels):
    condition = Condition(**levels)
    assert condition_of(condition.label) == condition


@given(
    st.dictionaries(NAMES, st.lists(LEVEL_NAMES, min_size=1, max_size=3, unique=True), min_size=1, max_size=3)
)
def test_a_design_survives_its_manifest(levels):
    factors = tuple(
        Factor(
            name=name,
            levels=("off", *own),
            place="with_review",
            texts={level: (f"Say {level}.",) for level in own},
        )
        for name, own in levels.items()
    )
    design = Design(factors=factors, rounds=2)
    assert design_from(design.manifest()) == design
    assert [design.condition(c.label) for c in design.conditions] == list(design.conditions)
    places = [design.place(c) for c in design.conditions]
    assert places == list(itertools.product(*(range(len(f.levels)) for f in factors)))


def test_a_manifest_of_three_factors_is_what_it_always_was():
    assert Design(rounds=2).manifest()["factors"] == [
        {"name": name, "levels": ["off", "on"]} for name in COMPONENTS
    ]


def test_a_condition_that_the_design_lacks_is_refused_with_what_there_is():
    design = Design(factors=(Factor(name="instruction"), PERSONA))
    assert design.condition(Condition(persona="on")).coords == {"instruction": "off", "persona": "on"}
    with pytest.raises(ValueError, match=r"no condition 'feedback'.*instruction: off, on; persona: off, on"):
        design.condition("feedback")
    with pytest.raises(ValueError, match="persona=placebo"):
        design.condition(Condition(persona="placebo"))


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"name": "reader", "place": "system"}, "needs a text for on"),
        ({"name": "option", "place": "system", "texts": {"on": "x"}}, "means nothing else"),
        ({"name": "a b", "place": "system", "texts": {"on": "x"}}, "letters, digits"),
        (
            {"name": "persona", "place": "system", "texts": {"on": "x", "judge": "y"}},
            "each but off has a text",
        ),
        ({"name": "persona", "place": "system", "texts": {"on": " "}}, "empty ones"),
        ({"name": "persona", "place": "system", "levels": ("off",)}, "two or more"),
        ({"name": "persona", "place": "system", "levels": ("off", "a:b")}, "each a word"),
        ({"name": "cot", "texts": {"on": "x"}}, "no texts of its own"),
        ({"name": "cot", "levels": ("off", "much")}, "off, placebo and on"),
    ],
)
def test_a_factor_that_cannot_be_is_refused(wrong, match):
    with pytest.raises(ValueError, match=match):
        Factor(**wrong)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ('place = "system"', 'place = "somewhere"', "place"),
        (
            FOUR[FOUR.index('name = "persona"') :],
            'name = "reader"\nplace = "system"',
            "needs a text for on",
        ),
        ('on = "A fair', 'judge = "A fair', "judge"),
        ('name = "persona"', 'name = "cot"', "two or more|different factors|no texts"),
    ],
)
def test_a_faulty_table_is_told_with_its_place(old, new, match, tmp_path):
    assert old in FOUR
    (tmp_path / "study.toml").write_text(FOUR.replace(old, new))
    with pytest.raises(ValueError, match=rf"study.toml.*factors.*{match}"):
        load_study(tmp_path / "study.toml")


# ------------------------------------------------------------------------------------- components with words
@pytest.mark.parametrize("name", READY)
def test_a_component_with_words_has_five_and_a_placebo_for_each_of_the_same_form(name):
    factor = Factor(name=name, levels=("off", "placebo", "on"))
    assert factor.ready
    said, neutral = factor.variants("on"), factor.variants("placebo")
    assert len(set(said)) == len(set(neutral)) == len(said) >= 5
    for real, placebo in zip(said, neutral, strict=True):
        assert real != placebo
        assert abs(len(real.split()) - len(placebo.replace("one of the list.", "{option}").split())) <= 3
        assert "{option}" not in placebo
    assert design_from(Design(factors=(factor,)).manifest()).factors == (factor,)


def test_a_component_with_words_needs_its_name_alone_and_takes_the_words_of_the_levels_it_has():
    assert Factor(name="persona").place == "system"
    assert set(Factor(name="persona").texts) == {"on"}
    own = Factor(name="persona", texts={"on": "You are a clerk."}, place="after_question")
    assert (own.place, own.variants("on"), own.ready) == ("after_question", ("You are a clerk.",), False)
    with pytest.raises(ValueError, match="needs a text for on"):
        Factor(name="persona", place="after_question")
    with pytest.raises(ValueError, match="needs a text for student"):
        Factor(name="authorship", levels=("off", "student"))


def test_a_majority_names_the_biased_option_or_else_the_first_wrong_one(questions):
    factors = (Factor(name="majority", levels=("off", "placebo", "on")),)

    def told(question, level):
        turn = correction_turn(question, Condition(majority=level), WORDING, factors=factors)
        return next(s.text for s in turn.segments if s.name == "majority")

    biased = next(q for q in questions if q.biased is not None)
    shown = f"{biased.replies[biased.biased]}. {biased.options[biased.biased]}"
    assert told(biased, "on").endswith(shown)
    assert not any(option in told(biased, "placebo") for option in biased.options)
    plain = replace(biased, biased=None)
    wrong = min(n for n in range(len(plain.options)) if n not in (plain.label, plain.unknown))
    assert told(plain, "on").endswith(f"{plain.replies[wrong]}. {plain.options[wrong]}")
    with pytest.raises(ValueError, match="'majority' names a wrong option"):
        told(replace(plain, label=None), "on")
    with pytest.raises(ValueError, match="'majority' names a wrong option"):
        told(ml.OpenPrompt(id="p", cluster="p", text="The baker said"), "on")


def test_components_with_english_words_are_refused_beside_a_wording_in_another_language():
    design = Design(factors=(Factor(name="instruction"), Factor(name="pressure")), rounds=1)
    with pytest.raises(ValueError, match=r"pressure come with English words.*Spanish"):
        Script.of(Protocol(design=design, wording="es"), load_wording("es"))
    own = Factor(name="pressure", texts={"on": "¿De verdad?"})
    assert Script.of(Protocol(design=Design(factors=(own,)), wording="es"), load_wording("es"))


def test_every_component_with_words_is_played_and_has_an_effect_of_its_own(tmp_path):
    factors = tuple(Factor(name=name) for name in ("persona", "pressure", "majority"))
    model, items = load_model(), ml.load_items(limit=4)
    protocol = Protocol(design=Design(factors=factors, rounds=1))
    run = play(model, items, protocol=protocol, out=tmp_path / "run")
    table = run.transcripts
    told = {span["name"] for spans in table["spans"] for span in spans}
    assert {"persona", "pressure", "majority"} <= told
    effects = factorial_effects(run.option_probabilities.isel(option=0, drop=True), factors=run.design.names)
    assert {"persona", "pressure", "majority", "persona:pressure"} <= set(effects["effect"].values.tolist())
    early = effects["estimate"].sel(round=0)
    assert float(early.sel(effect="pressure")) == 0.0  # said after the first answer


# ------------------------------------------------------------------------------------------- what is said
@pytest.mark.parametrize("place", ["before_question", "after_question", "with_review"])
def test_a_text_is_said_at_its_place(place, questions):
    factor = Factor(
        name="stance", place=place, levels=("off", "on", "judge"), texts={"on": ("I", "II"), "judge": "III"}
    )
    opened = opening_turns(questions[0], Condition(stance="on"), WORDING, 1, factors=(factor,))
    reviewed = correction_turn(questions[0], Condition(stance="judge"), WORDING, factors=(factor,))
    names = [s.name for s in opened[-1].segments]
    later = [s.name for s in reviewed.segments]
    assert (
        names
        == {
            "before_question": ["stance", "question", "answer_request"],
            "after_question": ["question", "stance", "answer_request"],
            "with_review": ["question", "answer_request"],
        }[place]
    )
    assert later == (
        ["review", "stance", "answer_request"] if place == "with_review" else ["review", "answer_request"]
    )
    said = {s.text for turn in (*opened, reviewed) for s in turn.segments if s.name == "stance"}
    assert said == ({"III"} if place == "with_review" else {"II"})


def test_a_factor_may_take_the_place_of_the_three(questions):
    turn = correction_turn(questions[0], Condition(), WORDING, factors=(PERSONA,))
    assert [s.name for s in turn.segments] == ["review", "answer_request"]


# ------------------------------------------------------------------------------------------- played
@pytest.mark.parametrize("place", ["system", "before_question", "after_question"])
def test_residuals_with_a_factor_in_the_opening_equal_plain_transformers(
    place, zoo_folder, tmp_path, questions
):
    model = load_model(zoo_folder("llama"), device="cpu")
    stance = Factor(name="stance", place=place, texts={"on": "The letter is fair."})
    design = Design(
        factors=(stance, Factor(name="cot", levels=("off", "placebo", "on"))),
        rounds=1,
        sites=("answer_start", "answer_end", "stance", "rationale"),
    )
    protocol = Protocol(design=design, answer_tokens=4, rationale_tokens=5, temperature=1.5)
    run = play(model, questions, out=tmp_path / "run", protocol=protocol, progress=False)
    cube, record = run.residuals.load(), record_of(model)
    assert cube.dims[:4] == ("item", "stance", "cot", "round")
    seen = 0
    for row in run.transcripts.to_dict("records"):
        fresh = zoo.fresh_pass(record, row["token_ids"])[0]
        here = cube.sel(item=row["item"], stance=row["stance"], cot=row["cot"])
        for span in row["spans"]:
            number, start, stop = int(span["round"]), span["start"], span["stop"]
            if start == stop:  # an empty reply
                continue
            wanted = {
                "answer": {"answer_start": fresh[:, start - 1], "answer_end": fresh[:, stop - 1]},
                "stance": {"stance": fresh[:, start:stop].mean(1)},
                "rationale": {"rationale": fresh[:, start:stop].mean(1)},
            }.get(span["name"], {})
            for site, values in wanted.items():
                got = here.sel(round=number, site=site).values
                assert np.abs(got - values).max() < 1e-4 * np.abs(values).max(), (span, site)
                seen += 1
    assert seen > 40
    # What opens alike is one and the same in round 0; what does not is not.
    first = cube.sel(round=0, site="answer_start").values
    assert np.array_equal(first[:, :, 0], first[:, :, 1])
    assert np.abs(first[:, 0] - first[:, 1]).max() > 0.01
    assert np.isnan(cube.sel(stance="off", site="stance")).all()
    texts = run.answers.query("round == 0").groupby(["item", "stance"])["text"].nunique()
    assert (texts == 1).all()


def test_a_template_without_a_system_turn_is_told_before_anything_is_played(tmp_path, questions):
    turn, end = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n", "{% endfor %}"
    prompt = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    speaker = "{{ 'user' if m.role == 'user' else 'assistant' }}"
    forging = "{% for m in messages %}" + turn.replace("{{ m.role }}", speaker) + end + prompt
    dropping = "{% for m in messages if m.role != 'system' %}" + turn + end + prompt
    refusing = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + zoo.CHATML
    )
    for number, (template, why) in enumerate(
        ((forging, "another speaker"), (dropping, "leaves it out"), (refusing, "no system"))
    ):
        folder = zoo.save_model(tmp_path / f"m{number}", "llama", template=template)
        model = load_model(folder, device="cpu")
        protocol = Protocol(design=Design(factors=(PERSONA,), rounds=1), answer_tokens=2)
        with pytest.raises(ValueError, match=f"{why}.*before_question"):
            play(model, questions, out=tmp_path / f"r{number}", protocol=protocol, progress=False)
        assert not (tmp_path / f"r{number}").exists()


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """The bundled model, and a run of it over four factors that a TOML file names."""
    folder = tmp_path_factory.mktemp("four")
    (folder / "study.toml").write_text(FOUR)
    study = load_study(folder / "study.toml")
    (folder / "again.toml").write_text(study.to_toml())
    assert load_study(folder / "again.toml") == study
    assert study.protocol.design.factors[-1] == PERSONA
    torch.set_num_threads(1)
    model = ml.load_model()
    run = ml.play(
        model, ml.load_items(limit=study.limit), out=folder / "run", protocol=study.protocol, progress=False
    )
    return model, open_run(run.path), made_up_probe(model)


def test_four_factors_from_toml_are_played_stored_and_analysed(four, tmp_path):
    _, run, probe = four
    assert run.residuals.dims == (
        "item",
        "instruction",
        "cot",
        "feedback",
        "persona",
        "round",
        "site",
        "layer",
        "d_model",
    )
    assert run.residuals.sizes["persona"] == 2
    assert set(run.answers["persona"]) == {"off", "on"}
    assert len(run.answers) == 10 * 16 * 2
    assert len(run.transcripts) == 10 * 16
    names = [
        ":".join(names)
        for size in range(1, 5)
        for names in itertools.combinations(("instruction", "cot", "feedback", "persona"), size)
    ]
    effects = ml.factorial_effects(probe.project(run))
    assert effects["effect"].values.tolist() == names
    behaviour = ml.factorial_effects(ml.judges.behaviour_cube(run), family=("round",))
    # In round 0 nothing but the persona has been said.
    zero = effects["estimate"].sel(round=0, site="answer_start")
    quiet = [n for n in names if n != "persona"]
    assert np.abs(zero.sel(effect=quiet)).max() < 1e-6 * np.abs(zero.sel(effect="persona")).max()
    assert behaviour["effect"].values.tolist() == names
    analysis = analyze(run, probe=probe, draws=200)
    page = write_report(run, path=tmp_path / "report.html", probe=probe, analysis=analysis).read_text()
    assert "persona" in page
    assert "instruction+persona" in page
    assert "At round 0 every effect but those of persona alone is exactly zero" in page


def test_effects_of_four_factors_are_hand_arithmetic(four):
    _, run, probe = four
    moral = probe.project(run).sel(site="answer_end", layer=2, round=1).load()
    found = ml.factorial_effects(moral, method="pointwise", family=())
    signs = {"off": -1, "on": 1}
    wanted = 0.0
    for condition in run.design.conditions:
        sign = signs[condition["cot"]] * signs[condition["persona"]]
        wanted = wanted + sign * moral.sel(condition.coords).mean().item() / 4
    assert found["estimate"].sel(effect="cot:persona").item() == pytest.approx(wanted)


def test_four_factors_are_patched_steered_mediated_masked_and_attributed(four):
    model, run, probe = four
    none, both = Condition(), Condition(instruction="on", persona="on")
    ids = run.items.index.tolist()[:3]
    patched = ml.patch(
        model,
        run,
        source=both,
        target=ml.circuits.Moment(condition=none, items=ids),
        activations=ml.circuits.Activations(layers=[0, 5]),
        batching=ml.circuits.Batching(progress=False),
    )
    # The last block's residual decides: put in whole, the answer is the other condition's.
    np.testing.assert_allclose(
        patched["log_odds"].sel(layer=5).isel(place=0), patched["source_log_odds"], atol=1e-4
    )
    stored = run.option_probabilities.sel(run.design.condition(both).coords).sel(round=1, item=ids)
    np.testing.assert_allclose(patched["source_probability"], stored, atol=1e-5)
    steered = ml.steer(
        model,
        run,
        probe,
        condition=ml.circuits.Moment(condition=both, items=ids),
        doses=ml.circuits.Doses(layer=3),
        random=ml.circuits.RandomDirections(count=2),
        batching=ml.circuits.Batching(progress=False),
    )
    assert steered.attrs["condition"] == "instruction+persona"
    mediated = ml.mediate(
        model,
        run,
        probe,
        factors=("instruction", "persona"),
        at=ml.circuits.Moment(items=ids),
        batching=ml.circuits.Batching(progress=False),
    )
    assert mediated.attrs["effect"] == "instruction:persona"
    assert mediated.attrs["held_at"] == "cot=off,feedback=off"
    one = run.option_probabilities.sel(round=1, item=ids[0], cot="off", feedback="off").load()
    label = int(run.items.loc[ids[0], "label"])
    odds = {
        (i, p): float(np.log(v[label]) - np.log(np.delete(v, label)).mean())
        for i in ("off", "on")
        for p in ("off", "on")
        for v in [one.sel(instruction=i, persona=p).values]
    }
    tau = odds["on", "on"] - odds["on", "off"] - odds["off", "on"] + odds["off", "off"]
    assert mediated["tau"].sel(item=ids[0]).item() == pytest.approx(tau)
    with pytest.raises(ValueError, match="two different factors"):
        ml.mediate(
            model, run, probe, factors=("instruction", "mood"), batching=ml.circuits.Batching(progress=False)
        )
    masked = mask_words(model, run, probe, components=["persona"], execution=Execution(progress=False))
    plain = probe.project(run)
    # Nothing was said by an absent persona, so nothing is masked there.
    np.testing.assert_allclose(masked.sel(persona="off"), plain.sel(persona="off"), atol=1e-3)
    assert np.abs(masked.sel(persona="on") - plain.sel(persona="on")).max() > 1e-3


def test_a_projection_over_four_factors_is_split_exactly(four):
    model, run, probe = four
    ids = run.items.index.tolist()[:8]
    parts = ml.attribute(model, run, probe, layer=2, selection=ml.rounds.Selection(rounds=[1], items=ids))
    assert factors_of(parts["contribution"]) == ("instruction", "cot", "feedback", "persona")
    split = attribute_effects(parts, method="pointwise", family=())
    whole = factorial_effects(
        probe.project(run).sel(site=parts.attrs["site"], layer=2, round=[1], item=ids),
        method="pointwise",
        family=(),
    )
    np.testing.assert_allclose(
        split["estimate"].sum("component").sel(effect="persona"),
        whole["estimate"].sel(effect="persona"),
        rtol=1e-3,
        atol=1e-4,
    )


def test_a_study_of_two_factors_is_analysed_and_claims_about_three_stay_undecided(tmp_path):
    model = ml.load_model()
    design = Design(
        factors=(Factor(name="instruction"), Factor(name="feedback")), rounds=1, sites=("answer_start",)
    )
    protocol = Protocol(design=design, feedback="oracle")
    run = ml.play(model, ml.load_items(limit=10), out=tmp_path / "run", protocol=protocol, progress=False)
    assert run.residuals.dims[:4] == ("item", "instruction", "feedback", "round")
    assert len(run.design.conditions) == 4
    probe = made_up_probe(model)
    analysis = analyze(run, probe=probe, draws=200)
    assert analysis.effects is not None
    assert analysis.effects["effect"].values.tolist() == ["instruction", "feedback", "instruction:feedback"]
    page = write_report(run, path=tmp_path / "report.html", probe=probe, analysis=analysis).read_text()
    assert "instruction+feedback" in page
    cube = ml.judges.behaviour_cube(run, "probability")
    first = cube.isel(round=0, drop=True).mean(factors_of(cube))
    task = Task(name="one", last=cube.isel(round=-1, drop=True), first=first, unit="share")
    for verdict in (
        no_best_method([task, task]),
        gains_over_instruction([task]),
        robust_to_evidence(task.last),
    ):
        assert verdict.verdict == "undecided"
        assert "lacks cot" in verdict.why


def test_two_levels_of_other_names_are_compared_in_their_order():
    import xarray as xr

    rng = np.random.default_rng(0)
    values = rng.normal(size=(12, 2))
    cube = xr.DataArray(
        values,
        dims=("item", "voice"),
        coords={"item": [f"i{n}" for n in range(12)], "voice": ["student", "judge"]},
    )
    effects = factorial_effects(cube, method="pointwise", family=())
    assert effects["effect"].values.tolist() == ["voice[judge-student]"]
    assert effects["estimate"].item() == pytest.approx((values[:, 1] - values[:, 0]).mean())
    assert [c.label for c in conditions_of(cube)] == ["voice(student)", "voice(judge)"]
    assert compared_levels(["voice"], {"voice": ("judge", "student")}, cube) == {
        "voice": ("judge", "student")
    }
