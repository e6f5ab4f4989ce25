"""The parts of a study as sentences, figures and tables, each from stored results."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from morality_lens import plots
from morality_lens.experiments.detection import describe_detection
from morality_lens.experiments.dynamics import expected_maximum, half_life, round_dynamics
from morality_lens.experiments.robustness import describe_evidence, dose_response
from morality_lens.experiments.shifts import describe_shifts
from morality_lens.interactions.cube import factors_of
from morality_lens.interactions.numbers import bounds, decimals, interval_of, signed
from morality_lens.interactions.wordings import describe_wordings
from morality_lens.judges.outcomes import behaviour_cube, behaviour_table, judges_agree
from morality_lens.judges.questions import bias_scores, join_questions, unparsed
from morality_lens.plots.study import ForestRow, cell_labels
from morality_lens.probes.comparing import card_table, direction_cosines
from morality_lens.probes.probe import Probe
from morality_lens.report import tables
from morality_lens.report.sections import Section
from morality_lens.runs.run import Run
from morality_lens.studies.rules import FOLLOWED, GAIN, RELIABLE, RULES, Verdict
from morality_lens.studies.verdicts import GAINS, Task, gains, method_means

POINTWISE = "95 % intervals by clusters, pointwise"


def table_of(rows: Sequence[Mapping[str, Any]] | pd.DataFrame, caption: str) -> dict[str, Any]:
    """A table in the form of the report's template."""
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    return {
        "caption": caption,
        "columns": [str(name).replace("_", " ") for name in frame.columns],
        "rows": [[tables.as_text(v) for v in row] for row in frame.itertuples(index=False)],
    }


def need(cube: xr.DataArray | None) -> xr.DataArray:
    """The cube.

    Raises:
        ValueError: there is none.
    """
    if cube is None:
        raise ValueError("too many answers could not be parsed.")
    return cube


def rows_of(effects: xr.Dataset, group: str, *, plain: bool = False) -> list[ForestRow]:
    """A row for every effect at one place; ``plain`` names omit the compared levels."""
    return [
        ForestRow(
            label=re.sub(r"\[[^]]*\]", "", str(name)) if plain else str(name),
            group=group,
            **_ends(at),
        )
        for name in effects["effect"].values
        for at in [effects.sel(effect=name)]
    ]


def _ends(one: xr.Dataset) -> dict[str, float]:
    """Estimate and interval of one place, as a row of a forest plot takes them."""
    return {
        to: float(one[name])
        for to, name in (("estimate", "estimate"), ("low", "ci_low"), ("high", "ci_high"))
    }


def tasks_part(tasks: Sequence[Task]) -> Section:
    """Every method on every task, and gains over the instruction (claims 1 and 2)."""
    means = [
        ForestRow(label=name, group=task.name, estimate=one.estimate, low=one.low, high=one.high)
        for task in tasks
        for name, one in method_means(task).items()
    ]
    added = [
        ForestRow(
            label=f"{more} minus {less}",
            group=task,
            estimate=one.estimate,
            low=one.low,
            high=one.high,
        )
        for (name, task), one in gains(tasks).items()
        for more, less in [GAINS[name]]
    ]
    units = ", ".join(dict.fromkeys(task.unit for task in tasks))
    figures = (
        (
            "claim-1",
            plots.forest(
                means,
                title="Every method on every task, in the last round",
                subtitle=f"{POINTWISE}; higher is better",
                unit=units,
                references=(),
            ),
            "",
        ),
        (
            "claim-2",
            plots.forest(
                added,
                title="Gain of feedback and chain of thought over the instruction",
                subtitle=f"last round; {POINTWISE}",
                unit=units,
                references=((0.0, ""), (GAIN, "smallest relevant")),
            ),
            "",
        ),
    )
    lines = tuple(f"{t.name}: {t.last.sizes['item']} items, measured as {t.unit}." for t in tasks)
    return Section(title="Methods and tasks", lines=lines, figures=figures)


def interactions_part(effects: xr.Dataset, layers: Sequence[int]) -> Section:
    """Effects on the projection in the last round, at the layers with the best held-out quality (claim 3)."""
    here = effects.sel(site="answer_start").isel(round=-1)
    rows = [row for layer in layers for row in rows_of(here.sel(layer=layer), f"layer {layer}")]
    fig = plots.forest(
        rows,
        title="Effects on the moral projection at answer_start, last round",
        subtitle="95 % intervals, pointwise, including the probe's sampling error"
        if effects.attrs.get("question") == "direction"
        else POINTWISE,
        unit=str(effects.attrs.get("units", "")),
        trust=str(effects.attrs.get("trust", "")),
    )
    line = (
        f"The layers {', '.join(map(str, layers))} are those whose held-out AUROC is not distinguishable "
        "from the highest one; they are selected without reference to any effect."
    )
    return Section(title="Interactions inside the model", lines=(line,), figures=(("claim-3", fig, ""),))


def directions_part(probes: Mapping[str, Probe], effects: Mapping[str, xr.Dataset]) -> Section:
    """What the claims' direction has in common with others, and the effects on each.

    Args:
        probes: every direction by its name, the claims' first.
        effects: by direction, those in the last round at ``answer_start`` and its best layer; a direction
            about which nothing can be said is absent.
    """
    names = list(probes)
    cosines = direction_cosines(probes)
    largest = abs(cosines.sel(first=names[0])).max("layer")
    lines = [
        f"{name}: {int(probe.training['n']):,} statements; effects at layer "
        f"{int(effects[name]['layer'])}, the stable one that reads its own held-out statements best."
        if name in effects
        else f"{name}: {int(probe.training['n']):,} statements; nothing is said of the effects on it."
        for name, probe in probes.items()
    ]
    lines += [
        f"|Cosine| of {names[0]} and {other}: at most {float(largest.sel(second=other)):.2f} over layers."
        for other in names[1:]
    ]
    figures: list[tuple[str, go.Figure, str]] = []
    if effects:
        rows = [row for name, one in effects.items() for row in rows_of(one, name)]
        refitted = all(one.attrs.get("question") == "direction" for one in effects.values())
        fig = plots.forest(
            rows,
            title="Effects on the projections on several directions, last round",
            subtitle="answer_start, each at its best layer; 95 % pointwise"
            + ", with the probe's sampling error" * refitted,
            unit="gaps of the direction's own statements",
        )
        figures.append(("directions", fig, "Each in the unit of its own statements' gap."))
    figures.append(("cosines", plots.direction_cosines(cosines), ""))
    carded = {name: probe for name, probe in probes.items() if probe.card is not None}
    figures += [
        (f"trust-{name}", plots.trust_card(probe.card), f"The direction {name}.")
        for name, probe in carded.items()
        if probe.card is not None and name != names[0]
    ]
    shown = (table_of(card_table(carded), "Trust cards side by side"),) if carded else ()
    return Section(title="Several directions", lines=tuple(lines), figures=tuple(figures), tables=shown)


def distinguish_part(
    found: Mapping[tuple[str, str], xr.Dataset],
    left: Mapping[str, str],
    greedy: Mapping[tuple[str, str], str],
) -> Section:
    """Self-distinguish and naming groups, by task and history (claim 4).

    Args:
        found: signal detection by task and history.
        left: by task, the number of items without a pair.
        greedy: by task and history, a summary of the greedy replies.
    """
    groups = {
        "accuracy": "model's reply, by probability",
        "choice_accuracy": "model's greedy choice",
        "probe_accuracy": "probe",
    }
    rows = [
        ForestRow(
            label=f"{task}, history: {history}",
            group=group,
            estimate=float(one["estimate"].sel(measure=measure)),
            low=float(one["ci_low"].sel(measure=measure)),
            high=float(one["ci_high"].sel(measure=measure)),
        )
        for measure, group in groups.items()
        for (task, history), one in found.items()
        if measure in one["measure"].values and (history == "none" or measure != "probe_accuracy")
    ]
    fig = plots.forest(
        rows,
        title="Discriminating good from bad outputs",
        subtitle="by exact probabilities and by the greedy choice, in both orders; intervals by clusters",
        unit="accuracy (two alternatives)",
        references=((0.5, "chance"), (RELIABLE, "reliable")),
    )
    lines = [f"{task}, history {h}: {describe_detection(one)}" for (task, h), one in found.items()]
    lines += [f"{task}: {line}" for task, line in left.items()]
    table = table_of(
        [{"task": task, "history": h, "greedy replies": line} for (task, h), line in greedy.items()],
        "Greedy replies",
    )
    return Section(
        title="Self-distinguish", lines=tuple(lines), figures=(("claim-4", fig, ""),), tables=(table,)
    )


def evidence_part(shares: xr.Dataset, answers: xr.Dataset, layer: int | None) -> Section:
    """Weak evidence by condition and round (claim 5), with the projections."""
    rounds = shares["round"].values.tolist()
    names = ["claim-5" if n == rounds[-1] else f"evidence-{n}" for n in rounds]
    figures = [
        (name, plots.evidence(shares, round=n), "")
        for name, n in reversed(list(zip(names, rounds, strict=True)))
    ]
    lines = [
        f"Self-correction counts as robust if in every method the evidence moves fewer than {FOLLOWED:.0%} "
        "of the answers with it, and fewer than that against it.",
        *describe_evidence(shares).splitlines(),
    ]
    if answers.sizes["strength"] > 1:
        slope = dose_response(answers).isel(round=-1)
        rows = [
            ForestRow(label=name, group="", **_ends(slope.sel(cell))) for name, cell in cell_labels(slope)
        ]
        drawn = plots.forest(
            rows,
            title="Dose response of weak evidence",
            subtitle=f"last round; {POINTWISE}",
            unit="share that follows, per unit of strength",
        )
        figures.append(("dose-response", drawn, ""))
    frame = shares[["estimate", "ci_low", "ci_high"]].isel(strength=-1).to_dataframe().reset_index()
    kept = frame.loc[:, ["part", *factors_of(shares), "round", "estimate", "ci_low", "ci_high"]]
    shown = [table_of(kept, "Shares of the answer patterns in every condition and round")]
    if layer is not None and "projection" in answers:
        moved = answers["projection"].sel(layer=layer).isel(strength=-1).mean(("item", "version"))
        frame = moved.to_dataframe().reset_index().loc[:, [*factors_of(moved), "round", "projection"]]
        shown.append(
            table_of(frame, f"Projection at the start of the answer to weak evidence, layer {layer}")
        )
    return Section(title="Weak evidence", lines=tuple(lines), figures=tuple(figures), tables=tuple(shown))


def detox_part(run: Run, samples: Sequence[Run]) -> Section:
    """Toxicity of completions over rounds, and of several samples."""
    cube = behaviour_cube(run, "score")
    table = behaviour_table(cube, unparsed=behaviour_cube(run, "unparsed"))
    figures = [("detox", plots.accuracy(table, measure="toxicity"), "By the first judge; lower is better.")]
    missing = run.scores["score"].isna().to_numpy()
    lines = [f"{int(missing.sum())} of {len(missing)} scores failed; they are missing, not zero."]
    for (a, b), one in judges_agree(run).items():
        lines.append(
            f"{a} and {b} scored {one.n} completions: rank correlation {one.spearman:.2f}, kappa "
            f"{one.kappa:.2f}, mean difference {signed(one.mean_difference)} (limits of agreement "
            f"{one.limits[0]:+.2f} to {one.limits[1]:+.2f})."
        )
    shown = []
    if len(samples) > 1:
        several = xr.concat([behaviour_cube(s, "score").isel(round=-1) for s in samples], "sample")
        several = several.dropna("item")
        worst = expected_maximum(several)
        rows = [
            ForestRow(
                label=name,
                group=str(measure),
                estimate=float(worst["estimate"].sel({**cell, "measure": measure})),
                low=float(worst["ci_low"].sel({**cell, "measure": measure})),
                high=float(worst["ci_high"].sel({**cell, "measure": measure})),
            )
            for measure in worst["measure"].values
            for name, cell in cell_labels(worst)
        ]
        fig = plots.forest(
            rows,
            title=f"Toxicity of {len(samples)} samples of every completion, last round",
            subtitle=f"{several.sizes['item']} prompts; {POINTWISE}",
            unit="toxicity, or share of prompts",
        )
        figures.append(("samples", fig, "any toxic: the share of prompts with a toxic sample."))
    return Section(title="Detoxification", lines=tuple(lines), figures=tuple(figures), tables=tuple(shown))


def dynamics_part(title: str, values: xr.DataArray, half: xr.DataArray) -> Section:
    """Flips, convergence and half-life of a task.

    Args:
        title: of the task.
        values: right or wrong, or scores.
        half: the values whose half-life is estimated.
    """
    found, life = round_dynamics(values), half_life(half)
    rows = [
        {
            "condition": name,
            **{
                str(m): interval_of(one)
                for m in found["measure"].values
                for one in [found.sel({**cell, "measure": m})]
            },
            "half-life": _half_life(life.sel(cell)),
        }
        for name, cell in cell_labels(found)
    ]
    settled = float(found["estimate"].sel(measure="settled").mean())
    flops = float(found["estimate"].sel(measure="flip-flops").mean())
    line = (
        f"{settled:.0%} of the dialogues do not change in the last two rounds; per dialogue, {flops:.2f} "
        "changes reverse an earlier one."
    )
    return Section(
        title=f"From round to round: {title}",
        lines=(line,),
        tables=(table_of(rows, "Changes per dialogue, share settled, half-life in rounds"),),
    )


def _half_life(one: xr.Dataset) -> str:
    if not np.isfinite(float(one["rounds"])):
        return "change not distinguishable from zero"
    return interval_of(one, "rounds", "low", "high")


def wordings_part(found: Mapping[str, xr.Dataset]) -> Section:
    """Effects over wordings, by outcome."""
    lines, figures = [], []
    for index, (outcome, one) in enumerate(found.items()):
        lines += [f"{outcome}: {line}" for line in describe_wordings(one).splitlines()]
        own = {"by_wording": "estimate", "by_wording_low": "ci_low", "by_wording_high": "ci_high"}
        rows = rows_of(one, "over wordings")
        for w in one["wording"].values:
            rows += rows_of(one[list(own)].rename(own).sel(wording=w), f"wording {w}")
        fig = plots.forest(
            rows,
            title=f"Effects over {one.attrs['n_wordings']} wordings: {outcome}",
            subtitle="95 % intervals, pointwise; over wordings: items and wordings both sampled",
            unit=str(one.attrs.get("units", "")),
            trust=str(one.attrs.get("trust", "")),
        )
        figures.append((f"wordings-{index}", fig, ""))
    return Section(title="Several wordings", lines=tuple(lines), figures=tuple(figures))


def placebo_part(found: Mapping[str, Mapping[str, xr.Dataset]]) -> Section:
    """Effects of the components' content (on - placebo) and of their format (placebo - off)."""
    figures = []
    for index, (outcome, by) in enumerate(found.items()):
        contrasts = {"total": "on - off", "content": "on - placebo", "format": "placebo - off"}
        rows = [
            row
            for which, levels in contrasts.items()
            for row in rows_of(by[which], f"{which} ({levels})", plain=True)
        ]
        fig = plots.forest(
            rows,
            title=f"Content and format of the components: {outcome}",
            subtitle=f"last round of the run with placebos; {POINTWISE}",
            unit=str(by["total"].attrs.get("units", "")),
            trust=str(by["total"].attrs.get("trust", "")),
        )
        figures.append((f"placebo-{index}", fig, ""))
    line = (
        "Where the total effect of a component equals its content effect, its meaning matters; where it "
        "equals its format effect, any text in its place has the same effect."
    )
    return Section(title="Placebos", lines=(line,), figures=tuple(figures))


def masked_part(found: Mapping[str, xr.Dataset]) -> Section:
    """Effects on the projection: original, with the components' words masked, and by a probe without them."""
    rows = [row for which, one in found.items() for row in rows_of(one, which)]
    first = next(iter(found.values()))
    fig = plots.forest(
        rows,
        title="Masked words: effects on the projection",
        subtitle=f"last round, at answer_start; {POINTWISE}",
        unit=str(first.attrs.get("units", "")),
        trust=str(first.attrs.get("trust", "")),
    )
    line = (
        "Words masked: the stored dialogues are re-read while no token attends to the components' own words; "
        "the remaining effects are mediated by the answers. "
        "Probe without the words: fitted on statements that contain none of them."
    )
    return Section(title="Mask the words", lines=(line,), figures=(("masked", fig, ""),))


def shifts_part(found: xr.Dataset) -> Section:
    """Alignment of the between-round shift with the moral direction."""
    return Section(
        title="Shift from round to round",
        lines=tuple(describe_shifts(found).splitlines()),
        figures=(("shifts", plots.shifts(found), ""),),
    )


def judged_part(run: Run, questions: Sequence[Any]) -> Section:
    """Bias scores by category and condition in the last round, and unparsed answers."""
    answers = join_questions(run.answers, questions)
    last = answers.loc[answers["round"] == run.design.rounds]
    factors = run.design.names
    scores = bias_scores(last, [*factors, "category"])
    columns = [*factors, "category", "s_amb", "s_dis", "accuracy_amb", "n_amb", "n_dis", "n_unparsed"]
    given = run.answers["feedback_text"].ne("").to_numpy()
    named, withheld, cut = (
        int(run.answers[f"feedback_{what}"].to_numpy(bool)[given].sum())
        for what in ("named", "withheld", "cut")
    )
    lines = [
        f"Feedback named an option in {named} of {int(given.sum())} answers; "
        f"it was withheld in {withheld} and truncated in {cut}."
    ]
    return Section(
        title="Judges of questions",
        lines=tuple(lines),
        tables=(
            table_of(scores.loc[:, columns], "Bias scores in the last round, by category and condition"),
            table_of(
                unparsed(answers, [*factors, "round"]),
                "Unparsed answers, by condition and round",
            ),
        ),
    )


def greedy_line(found: xr.Dataset) -> dict[str, str]:
    """A summary of the greedy replies, by history."""
    replies, better = found["said"], xr.DataArray([1, 2], dims="better")
    lines = {}
    for history in found["history"].values:
        one = replies.sel(history=history)
        read = int((one > 0).sum())
        right = int((one == better).sum())
        lines[str(history)] = f"{right} of {one.size} right, {one.size - read} unparsed"
    return lines


def verdict_entry(verdict: Verdict, parts: Sequence[Section]) -> dict[str, Any]:
    """A claim with its verdict; its figure is linked where the report contains it."""
    known = bool(np.isfinite(verdict.estimate))
    there = {name for group in parts for name, _, _ in group.figures}
    return {
        "number": verdict.number,
        "claim": verdict.claim,
        "verdict": verdict.verdict,
        "measure": verdict.measure,
        "estimate": signed(verdict.estimate, decimals(verdict.low, verdict.high)) if known else "none",
        "interval": bounds(verdict.low, verdict.high, signed=True) if known else "none",
        "unit": verdict.unit,
        "error_rate": verdict.error_rate or "nothing is claimed",
        "why": verdict.why,
        "rule": RULES[verdict.number],
        "figure": f"part-{verdict.figure}" if verdict.figure in there else "",
    }
