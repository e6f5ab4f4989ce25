"""Weak evidence: what is asked of whom, the partition by hand, and a second start."""

import inspect
import json

import numpy as np
import pytest
import xarray as xr
from conftest import make_questions
from tiny import made_up_probe, tiny_run

from morality_lens.design import COMPONENTS, Condition
from morality_lens.dialogues.turns import evidence_turn
from morality_lens.dialogues.wording import load_wording
from morality_lens.experiments import evidence
from morality_lens.experiments.evidence import Evidence, load_evidence, weak_evidence
from morality_lens.experiments.robustness import (
    MOVES,
    PARTS,
    describe_evidence,
    dose_response,
    evidence_shares,
    follow_cube,
    moved_cube,
)
from morality_lens.models.loading import record_of
from morality_lens.rounds import side_questions
from morality_lens.rounds.replay import dialogue_after
from morality_lens.rounds.selection import Execution, Selection
from morality_lens.rounds.side_questions import SideQuestion, ask

QUIET = Execution(progress=False)

WORDING = load_wording()


def hearsay(items, strengths=(0.0,)):
    return [
        Evidence(
            item=q.id, texts=(f"Some say {s} the Vel.", f"Some say {s} the Tor."), named=(0, 2), strength=s
        )
        for q in items
        for s in strengths
    ]


@pytest.fixture(scope="module")
def small(zoo_folder, tmp_path_factory):
    items = make_questions(5)
    model, run = tiny_run(zoo_folder("llama"), tmp_path_factory.mktemp("evidence") / "run", items)
    return model, run, items


def test_every_place_holds_what_asking_there_alone_gives(small):
    model, run, items = small
    probe = made_up_probe(model)
    found = weak_evidence(
        model,
        run,
        hearsay(items, (1.0, 2.0)),
        probe=probe,
        selection=Selection(rounds=[0, 1]),
        execution=QUIET,
    )
    assert found.sizes["strength"] == 2
    assert found["cluster"].values.tolist() == [q.cluster for q in items]
    for item in (items[1], items[4]):
        for levels in (("off", "off", "on"), ("on", "on", "off")):
            cell = dict(zip(COMPONENTS, levels, strict=True))
            said = dialogue_after(record_of(model), run, item, Condition(**cell), WORDING)
            for number in (0, 1):
                for version, group in enumerate(("Vel", "Tor")):
                    text = f"Some say 2.0 the {group}."
                    turn = evidence_turn(item, text, WORDING)
                    one = SideQuestion(history=said[number], turn=turn, replies=("A", "B", "C"))
                    reply = ask(record_of(model), [one], probe=probe, limit=8)[0]
                    here = found.sel(item=item.id, round=number, strength=2.0, **cell).isel(version=version)
                    np.testing.assert_allclose(here["probability"].values, reply.probabilities, atol=1e-5)
                    np.testing.assert_allclose(here["projection"].values, reply.projection, atol=1e-3)
                    assert int(here["named"]) == 2 * version


def test_a_second_start_goes_on_and_asks_nothing_twice(small, tmp_path, monkeypatch):
    model, run, items = small
    whole = weak_evidence(model, run, hearsay(items), execution=QUIET)
    real, asked = side_questions.ask, []

    def stopping(record, asides, **kwargs):
        asked.append(len(asides))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(record, asides, **kwargs)

    monkeypatch.setattr(evidence, "ask", stopping)
    with pytest.raises(KeyboardInterrupt):
        weak_evidence(model, run, hearsay(items), execution=Execution(out=tmp_path / "parts", progress=False))
    again = weak_evidence(
        model, run, hearsay(items), execution=Execution(out=tmp_path / "parts", progress=False)
    )
    xr.testing.assert_allclose(again, whole)
    assert len(asked) == 3
    with pytest.raises(ValueError, match="another weak evidence"):
        weak_evidence(
            model,
            run,
            hearsay(items),
            selection=Selection(rounds=[1]),
            execution=Execution(out=tmp_path / "parts", progress=False),
        )


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda e: e[:0], "no item of the run has evidence"),
        (lambda e: [Evidence(item=e[0].item, texts=e[0].texts, named=(0, 1)), *e[1:]], "not the unknown one"),
        (
            lambda e: [Evidence(item=e[0].item, texts=e[0].texts, named=(2, 2)), *e[1:]],
            "favour two options",
        ),
        (
            lambda e: [Evidence(item=e[0].item, texts=e[0].texts, named=(0, 2), strength=1.0), *e[1:]],
            "same strengths",
        ),
    ],
)
def test_evidence_that_says_nothing_clear_is_refused(small, change, match):
    model, run, items = small
    with pytest.raises(ValueError, match=match):
        weak_evidence(model, run, change(hearsay(items)), execution=QUIET)
    with pytest.raises(ValueError, match="rounds 0 to 1"):
        weak_evidence(model, run, hearsay(items), selection=Selection(rounds=[7]), execution=QUIET)


def test_evidence_comes_from_a_file(tmp_path):
    file = tmp_path / "evidence.jsonl"
    row = {"item": "q0", "texts": ["a", "b"], "named": [0, 2], "strength": 2}
    file.write_text(json.dumps(row) + "\n")
    assert load_evidence(file) == (Evidence(item="q0", texts=("a", "b"), named=(0, 2), strength=2.0),)
    file.write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=r"line 2: item 'q0' has evidence of strength 2\.0 twice"):
        load_evidence(file)
    file.write_text(json.dumps({**row, "texts": ["a"]}))
    with pytest.raises(ValueError, match="line 1: not weak evidence"):
        load_evidence(file)
    file.write_text(json.dumps({**row, "force": 1}))
    with pytest.raises(ValueError, match="line 1: not weak evidence"):
        load_evidence(file)


# ------------------------------------------------------------------------------------------- shares
def made(probability, choice=None, strengths=(0.0,)):
    """Answers of some items in one cell: [item, strength, version, option]; option 0 is unknown."""
    p = np.asarray(probability, float).reshape(-1, 1, 1, 1, 1, len(strengths), 2, 3)
    c = p.argmax(-1) if choice is None else np.asarray(choice).reshape(p.shape[:-1])
    cube = ("item", *COMPONENTS, "round", "strength", "version")
    n = p.shape[0]
    return xr.Dataset(
        {
            "probability": ((*cube, "option"), p),
            "choice": (cube, c),
            "named": (("item", "strength", "version"), np.tile([1, 2], (n, len(strengths), 1))),
            "unknown": ("item", np.zeros(n, int)),
        },
        coords={
            "item": [f"i{k}" for k in range(n)],
            "cluster": ("item", [f"i{k}" for k in range(n)]),
            **{name: ["off"] for name in COMPONENTS},
            "round": [0],
            "strength": list(strengths),
            "version": ["one", "swapped"],
        },
    )


def test_the_partition_of_choices_by_hand():
    chosen = [(0, 0), (0, 1), (2, 0), (1, 1), (2, 2), (1, 2), (2, 1), (-1, 0)]
    answers = made(np.full((8, 2, 3), 1 / 3), chosen)
    shares = evidence_shares(answers, measure="choice")
    found = shares["estimate"].squeeze().to_series()
    expected = dict(zip(PARTS, (1 / 8, 2 / 8, 2 / 8, 1 / 8, 1 / 8, 1 / 8), strict=True))
    assert found.to_dict() == pytest.approx(expected)
    # followed: of the options named, item 1->(0: no, 1 names 2 answered 1)... worked out item by item below
    follow = [0, -0.5, -0.5, 0, 0, 1, -1, 0]
    np.testing.assert_allclose(follow_cube(answers, "choice").values.ravel(), follow)
    assert float(shares["follow_estimate"].squeeze()) == pytest.approx(np.mean(follow))
    moved = moved_cube(answers, "choice")
    assert moved.dims == ("item", *COMPONENTS, "round", "strength", "part")
    np.testing.assert_allclose(moved.sel(part=MOVES[0]).values.ravel(), np.maximum(follow, 0))
    np.testing.assert_allclose(moved.sel(part=MOVES[1]).values.ravel(), np.maximum([-f for f in follow], 0))
    assert "12%" in describe_evidence(shares)


def test_moves_with_the_evidence_and_against_it_cancel_only_in_the_share_that_follows():
    given = np.tile([1.0, 0.0, 0.0], (2, 2, 1))
    given[0] = [[0.4, 0.6, 0.0], [0.4, 0.0, 0.6]]  # each version's group gains .6
    given[1] = [[0.4, 0.0, 0.6], [0.4, 0.6, 0.0]]  # and loses as much
    answers = made(given)
    assert float(follow_cube(answers).mean()) == pytest.approx(0)
    for part, expected in zip(MOVES, ([0.6, 0.0], [0.0, 0.6]), strict=True):
        np.testing.assert_allclose(moved_cube(answers).sel(part=part).values.ravel(), expected)
    one_sided = np.array([[[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]]])  # the first version raises both groups
    both = moved_cube(made(one_sided)).values.ravel().tolist()
    assert both == pytest.approx([0.25, 0.15])
    assert float(follow_cube(made(one_sided)).squeeze()) == pytest.approx(0.1)
    noted = moved_cube(answers.assign_attrs(option_note="Letters hold 1%."))
    assert noted.attrs["option_note"] == "Letters hold 1%."


def test_exact_chances_give_the_planted_share_that_follows():
    rng = np.random.default_rng(0)
    without = rng.dirichlet([1, 1, 1], 40)
    share = 0.37
    given = np.stack([(1 - share) * without + share * np.eye(3)[k] for k in (1, 2)], axis=1)
    answers = made(given)
    np.testing.assert_allclose(follow_cube(answers).values.ravel(), share)
    shares = evidence_shares(answers)
    assert float(shares["estimate"].sum("part").squeeze()) == pytest.approx(1)
    both = (given[:, 0, 0] * given[:, 1, 0]).mean()
    assert float(shares["estimate"].sel(part="both unknown").squeeze()) == pytest.approx(both)
    follows = (given[:, 0, 1] * given[:, 1, 2]).mean()
    assert float(shares["estimate"].sel(part="follows the evidence").squeeze()) == pytest.approx(follows)


def test_the_dose_is_the_slope_over_strengths():
    rng = np.random.default_rng(1)
    without = rng.dirichlet([1, 1, 1], 30)
    doses = (0.0, 1.0, 3.0)
    given = np.stack(
        [np.stack([(1 - 0.1 * d) * without + 0.1 * d * np.eye(3)[k] for k in (1, 2)], axis=1) for d in doses],
        axis=1,
    )
    slope = dose_response(made(given, strengths=doses))
    assert float(slope["estimate"].squeeze()) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="two or more strengths"):
        dose_response(made(given[:, :1]))


def test_answers_that_nothing_moves_leave_room_for_others():
    answers = made(np.tile([1.0, 0.0, 0.0], (12, 2, 2, 1)), strengths=(1.0, 3.0))
    room = 1 - 0.025 ** (1 / 12)
    shares = evidence_shares(answers, measure="choice").isel(strength=0)
    ends = [float(shares[f"follow_ci_{end}"].squeeze()) for end in ("low", "high")]
    assert ends == pytest.approx([-room, room])
    slope = dose_response(answers, measure="choice")
    assert float(slope["p"].squeeze()) == 1
    # the steepest line goes from -1 to 1 over the two units between the strengths
    assert [float(slope[f"ci_{end}"].squeeze()) for end in ("low", "high")] == pytest.approx([-room, room])
    follows = made(np.tile([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], (12, 1, 1)))
    found = evidence_shares(follows, measure="choice")
    assert float(found["follow_ci_high"].squeeze()) == 1
    assert float(found["follow_ci_low"].squeeze()) == pytest.approx(1 - 2 * room)


def test_cells_asked_of_some_items_only_are_refused():
    answers = made(np.full((4, 2, 3), 1 / 3))
    answers["probability"][0] = np.nan
    with pytest.raises(ValueError, match="some items only"):
        evidence_shares(answers)
    with pytest.raises(ValueError, match="measure must be"):
        inspect.unwrap(evidence_shares)(answers, measure="belief")
