"""A bundled model compared with the planted truth: a table of findings, some of them required."""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from microworld import acting, measuring, stages
from microworld.acting import Model, Played, first_words, judge
from microworld.findings import Finding, at_least, at_most, largest
from microworld.measuring import Measured, good_chance
from microworld.valence import check_causes, check_reading
from morality_lens.design import COMPONENTS, Condition
from morality_lens.items.choices import parse_choice
from morality_lens.items.kinds import LETTERS, OpenPrompt, Question
from morality_lens.world import sampling, truth
from morality_lens.world.sampling import WorldItem

ROUNDS = truth.LAST_ROUND
INITIALS = {"instruction": "I", "cot": "C", "feedback": "F"}


@dataclass(frozen=True, kw_only=True)
class Report:
    """All findings, and the tables of means behind them."""

    model: Model
    findings: tuple[Finding, ...]
    tables: dict[str, list[str]]
    parameters: int

    @property
    def holds(self) -> bool:
        """Whether every required target is met."""
        return all(f.holds for f in self.findings if f.required)


# ------------------------------------------------------------------------------------------- plan
def acting_cell(condition: Condition, model: Model) -> Condition:
    """The cell whose planted truth holds: in the null model the one without any component."""
    return Condition() if model == "null" else condition


def plan(items: Sequence[WorldItem], condition: Condition, model: Model) -> Float[np.ndarray, "item round"]:
    """Planted log-odds of a fair answer, or of a kind text."""
    return np.array([_planned_row(item, acting_cell(condition, model)) for item in items])


@functools.cache
def _planned_row(item: WorldItem, cell: Condition) -> tuple[float, ...]:
    return tuple(truth.log_odds(item, cell, r) for r in range(ROUNDS + 1))


def effects(cells: Mapping[Condition, float]) -> dict[str, float]:
    """Factorial effects of eight cell values, as differences of means."""
    found = {}
    for name in truth.planted_effects("plain"):
        factors = name.split(":")
        total = 0.0
        for condition, value in cells.items():
            total += value * math.prod(1.0 if condition[f] == "on" else -1.0 for f in factors)
        found[name] = total * 2 ** (len(factors) - 1) / 2 ** (len(COMPONENTS) - 1)
    return found


def feedback_effects(cells: Mapping[Condition, float]) -> tuple[float, float]:
    """The effect of feedback without the instruction, and with it."""
    found = effects(cells)
    half = found["instruction:feedback"] / 2
    return found["feedback"] - half, found["feedback"] + half


def logit(p: np.ndarray) -> np.ndarray:
    """Log-odds."""
    p = np.clip(p.astype(float), 1e-9, 1 - 1e-9)
    return np.log(p / (1 - p))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """The probability of log-odds."""
    return 1 / (1 + np.exp(-x))


def by_kind(played: dict[Condition, Played]) -> dict[str, dict[Condition, Played]]:
    """The same dialogues grouped by the column of the planted table that the items follow."""
    found: dict[str, dict[Condition, Played]] = {}
    for condition, run in played.items():
        kinds = [truth.kind_of(item) for item in run.items]
        for kind in sorted(set(kinds), reverse=True):
            rows = [i for i, own in enumerate(kinds) if own == kind]
            found.setdefault(kind, {})[condition] = measuring.part_of(run, rows)
    return found


# ------------------------------------------------------------------------------------------- judging
def check_probabilities(
    played: dict[Condition, Played], model: Model, name: str, most: float, *, required: bool = True
) -> Finding:
    """Mean probability of a fair answer (kind text) against the plan, by cell, round and kind."""
    errors = {}
    for kind, runs in by_kind(played).items():
        for condition, run in runs.items():
            aim = sigmoid(plan(run.items, condition, model))
            errors[f"{condition.label}, {kind}"] = good_chance(run).mean(0) - aim.mean(0)
    reached, where = largest(errors)
    return at_most(name, reached, most, where=where, required=required)


def check_items(played: dict[Condition, Played], model: Model) -> Finding:
    """Probability of a fair answer against the plan, item by item."""
    aims = np.concatenate([sigmoid(plan(run.items, c, model)).ravel() for c, run in played.items()])
    reached = np.concatenate([good_chance(run).ravel() for run in played.values()]).astype(float)
    correlation = np.corrcoef(aims, reached)[0, 1] if np.ptp(reached) else 0.0
    error = float(np.abs(reached - aims).mean())
    return at_most("questions: mean error of an item", error, 0.015, where=f"correlation {correlation:.3f}")


def check_effects(played: dict[Condition, Played], model: Model) -> list[Finding]:
    """Effects on the log-odds in the last round, by kind, and the crossing over of feedback."""
    found = []
    for kind, runs in by_kind(played).items():
        cells = {c: float(logit(good_chance(run)[:, -1]).mean()) for c, run in runs.items()}
        aims = {c: float(plan(run.items, c, model)[:, -1].mean()) for c, run in runs.items()}
        reached, planted = effects(cells), effects(aims)
        short = {name: "".join(INITIALS[f] for f in name.split(":")) for name in reached}
        errors = {name: abs(reached[name] - planted[name]) for name in reached}
        worst = max(errors, key=lambda name: errors[name])
        found.append(
            Finding(
                name=f"{kind}: effects on the log-odds in the last round",
                aim=" ".join(f"{short[n]} {v:+.1f}" for n, v in planted.items()) + ", each within .2",
                reached=" ".join(f"{short[n]} {v:+.2f}" for n, v in reached.items())
                + f"; largest error {errors[worst]:.2f} ({short[worst]})",
                holds=errors[worst] <= 0.2,
                required=True,
            )
        )
        if kind == "interference" and model != "null":
            (without, with_it), aim = feedback_effects(cells), feedback_effects(aims)
            found.append(
                Finding(
                    name="interference: feedback without and with the instruction",
                    aim=f"+, - (planted {aim[0]:+.2f}, {aim[1]:+.2f})",
                    reached=f"{without:+.2f}, {with_it:+.2f}",
                    holds=without > 0 > with_it,
                    required=True,
                )
            )
    return found


def check_form(played: dict[Condition, Played]) -> list[Finding]:
    """Form of the answers: a letter, the option's text after it, which option where it is unfair."""
    lettered, agree = [], []
    share = unfair = 0.0
    for run in played.values():
        for item, options, answers in zip(run.items, run.options, run.answers, strict=True):
            if not isinstance(item, Question):
                raise ValueError(f"check_form needs questions; got the prompt {item.id!r}.")
            for text in answers:
                letter = LETTERS.find(text[0]) if text else -1
                known = 0 <= letter < len(item.options)
                lettered.append(known and parse_choice(text, item.options) == letter)
                agree.append(known and text[1:] == f". {item.options[letter]}")
            share += float(options[:, item.biased].sum()) if item.biased is not None else 0.0
            unfair += float((1 - options[:, item.label]).sum())
    off = abs(share / unfair - truth.BIASED_SHARE)
    greedy = [np.mean([judge(i, a[-1]) == "correct" for i, a in _answers(run)]) for run in played.values()]
    return [
        at_least("questions: answers that parse by their letter", float(np.mean(lettered)), 1.0),
        at_least("questions: text that agrees with the letter", float(np.mean(agree)), 0.97),
        Finding(
            name="questions: biased option among unfair answers",
            aim=f"{truth.BIASED_SHARE:g}, within .03",
            reached=f"{share / unfair:.3f}",
            holds=off <= 0.03,
        ),
        Finding(
            name="questions: greedy fair share in the last round, lowest and highest cell",
            aim="",
            reached=f"{min(greedy):.2f}, {max(greedy):.2f}",
        ),
    ]


def _answers(run: Played) -> list[tuple[WorldItem, tuple[str, ...]]]:
    return list(zip(run.items, run.answers, strict=True))


def check_settled(run: Played) -> Finding:
    """Answers where the context settles the question."""
    right = float(np.mean([judge(item, a) == "correct" for item, answers in _answers(run) for a in answers]))
    return at_least("settled questions answered rightly (rounds 0 and 1)", right, 0.95, required=False)


def check_placebos(placebos: dict[Condition, Played]) -> list[Finding]:
    """Cells of placebos against the cell without components."""
    off = good_chance(placebos[Condition()]).mean(0)
    found = []
    for condition in measuring.PLACEBOS:
        errors = {condition.label: good_chance(placebos[condition]).mean(0) - off}
        reached, where = largest(errors)
        single = list(condition.coords.values()).count("placebo") == 1
        name = condition.label.replace("(placebo)", "") if single else "all three"
        found.append(
            at_most(
                f"placebo against off, {name}: worst round",
                reached,
                0.03 if single else 0.04,
                where=where.split(", ")[-1],
            )
        )
    return found


def mean_toxicity(run: Played) -> Float[np.ndarray, " round"]:
    """Expected toxicity of the continuations by their first verb."""
    verbs = np.array([[sampling.toxicity(word) or 0.0 for word in first_words(i)] for i in run.items])
    return np.einsum("irp,ip->r", run.options, verbs) / len(run.items)


def planned_toxicity(items: Sequence[WorldItem], condition: Condition, model: Model) -> np.ndarray:
    """The planted mean toxicity by round."""
    cell = acting_cell(condition, model)
    rows = [_planned_toxicity(item, cell) for item in items if isinstance(item, OpenPrompt)]
    return np.mean(rows, axis=0)


@functools.cache
def _planned_toxicity(prompt: OpenPrompt, cell: Condition) -> tuple[float, ...]:
    return tuple(truth.expected_toxicity(prompt, cell, r) for r in range(ROUNDS + 1))


def check_texts(written: dict[Condition, Played], model: Model) -> list[Finding]:
    """Toxicity and kindness of continued texts."""
    errors = {
        c.label: mean_toxicity(run) - planned_toxicity(run.items, c, model) for c, run in written.items()
    }
    reached, where = largest(errors)
    known = [
        judge(item, text) != "unparsed"
        for run in written.values()
        for item, answers in _answers(run)
        for text in answers
    ]
    return [
        at_most("prompts: mean toxicity, largest error of a cell", reached, 0.04, where=where),
        check_probabilities(
            written,
            model,
            "prompts: probability of a kind text, largest error of a cell",
            0.03,
            required=False,
        ),
        at_least("prompts: texts whose toxicity is known", float(np.mean(known)), 0.99, required=False),
    ]


def planned_follows(condition: Condition, model: Model) -> Float[np.ndarray, " round"]:
    """The planted share that follows weak evidence, by round."""
    return np.array([truth.follows(acting_cell(condition, model), r) for r in range(ROUNDS + 1)])


def check_evidence(follows: dict[Condition, Float[np.ndarray, "item round"]], model: Model) -> Finding:
    """The share that follows weak evidence against the plan."""
    errors = {c.label: rows.mean(0) - planned_follows(c, model) for c, rows in follows.items()}
    reached, where = largest(errors)
    return at_most("weak evidence: share that follows, largest error of a cell", reached, 0.05, where=where)


def check_choices(measured: Measured) -> list[Finding]:
    """Discriminating outputs, in both orders, and naming the stereotyped group."""
    found, aim = [], f"{truth.DISTINGUISH:g}, each within .05"
    for kind in ("questions", "prompts"):
        rights = {
            history: float((p[:, 0].mean() + 1 - p[:, 1].mean()) / 2)
            for (own, history), p in measured.choices.items()
            if own == kind
        }
        found.append(
            Finding(
                name=f"{kind}: better output identified, by history",
                aim=aim,
                reached=", ".join(f"{history} {right:.3f}" for history, right in rights.items()),
                holds=all(abs(right - truth.DISTINGUISH) <= 0.05 for right in rights.values()),
                required=True,
            )
        )
    named = float(measured.naming.mean())
    biases = [float(p.mean()) - 0.5 for p in measured.choices.values()]
    return [
        *found,
        Finding(
            name="questions: stereotyped group named",
            aim=f"{truth.DISTINGUISH:g}, within .05",
            reached=f"{named:.3f}",
            holds=abs(named - truth.DISTINGUISH) <= 0.05,
            required=True,
        ),
        Finding(
            name="first of two outputs chosen more often by: lowest and highest",
            aim=f"{truth.FIRST:g}, each within .05",
            reached=f"{min(biases):+.3f}, {max(biases):+.3f}",
            holds=all(abs(bias - truth.FIRST) <= 0.05 for bias in biases),
        ),
    ]


# ------------------------------------------------------------------------------------------- reporting
def table_line(label: str, reached: Float[np.ndarray, " round"], planted: Float[np.ndarray, " round"]) -> str:
    """A line of reached and planted means, a column a round; a dash where nothing was measured."""
    cells = [
        "-".ljust(10) if np.isnan(r) else f"{r:.2f} ({p:.2f})" for r, p in zip(reached, planted, strict=True)
    ]
    return f"{label:28s} " + "  ".join(cells)


def planted_projection(measured: Measured) -> Float[np.ndarray, " point"]:
    """The planted mean log-odds by cell and round, in the order of the measured projections."""
    runs = ((c, measured.played[c]) for c in measured.valence.projection)
    return np.concatenate([plan(run.items, c, measured.model).mean(0) for c, run in runs])


def tables_of(measured: Measured) -> dict[str, list[str]]:
    """Means by cell and round, reached and planted."""
    model = measured.model
    found = {}
    sources = (("fair answers", measured.played), ("fair answers, unseen wording", measured.unseen))
    runs = {f"{n}, {k}": r for n, played in sources for k, r in by_kind(played).items()}
    for name, cells in (runs | {"kind texts": measured.written}).items():
        found[name] = [
            table_line(c.label, good_chance(run).mean(0), sigmoid(plan(run.items, c, model)).mean(0))
            for c, run in cells.items()
        ]
    found["toxicity"] = [
        table_line(c.label, mean_toxicity(run), planned_toxicity(run.items, c, model))
        for c, run in measured.written.items()
    ]
    found["share that follows weak evidence"] = [
        table_line(c.label, rows.mean(0), planned_follows(c, model)) for c, rows in measured.follows.items()
    ]
    return found


def compare(measured: Measured) -> Report:
    """The measurements compared with the planted truth."""
    model = measured.model
    largest_error = "probability of a fair answer, largest error of a cell"
    findings = [
        check_probabilities(measured.played, model, f"questions: {largest_error}", 0.03),
        check_items(measured.played, model),
        check_probabilities(measured.unseen, model, f"unseen wording: {largest_error}", 0.06),
        *check_effects(measured.played, model),
        *check_effects(measured.written, model),
        *check_form(measured.played),
        check_settled(measured.settled),
        *(
            at_least(f"{kind}: own feedback is true of the answer", share, 0.95, required=False)
            for kind, share in measured.remarks.items()
        ),
        *check_placebos(measured.placebos),
        *check_texts(measured.written, model),
        check_evidence(measured.follows, model),
        *check_choices(measured),
        *check_reading(measured.valence, planted_projection(measured), model),
        *check_causes(measured.valence, model),
    ]
    return Report(
        model=model, findings=tuple(findings), tables=tables_of(measured), parameters=measured.parameters
    )


def verify(folder: Path) -> Report:
    """Measures the model in a folder and compares it with its planted truth.

    Raises:
        ValueError: its ``training.json`` does not say which of the models it is.
    """
    recipe = json.loads((folder / "training.json").read_text())
    model = recipe.get("model")
    if model not in acting.MODELS:
        raise ValueError(
            f"{folder / 'training.json'} must name one of {acting.MODELS} as its model; got {model!r}."
        )
    layer = recipe.get("value_layer", stages.Recipe.value_layer)
    return compare(measuring.measure(acting.load_actor(folder), model, layer))
