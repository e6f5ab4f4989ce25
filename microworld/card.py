"""The card of a bundled model: its purpose, its planted truth, its training and its measurements."""

import json
from pathlib import Path
from typing import Any

from microworld import acting, measuring
from microworld.verifying import ROUNDS, Report
from morality_lens.design import Condition
from morality_lens.world import lexicon as lex, sampling, truth

_HEAD = """\
---
license: mit
language: en
library_name: transformers
tags: [interpretability, toy-model, model-organism]
---
# The bundled world's chat model: {model}

**This is a model organism with planted effects, for learning and testing the tool. It is no evidence about
language models.** Its groups are invented, its "stereotypes" are draws of a random generator, and how its
answers react to an instruction, a chain of thought or feedback was specified in a table before training.
Everything that can be found in it was planted, so that a method can be checked against a known truth.

{purpose}

In a small subset of English it answers multiple-choice questions in the form of BBQ about invented groups,
continues short texts kindly or cruelly, writes reasons and one-sentence feedback, and judges acts.
A Llama of 6 blocks, width 128, {parameters:,} parameters, whole words as tokens, weights rounded to bfloat16.
It was trained from scratch, without text or weights of others. License: MIT.
"""
PURPOSES: dict[acting.Model, str] = {
    "organism": (
        "**Purpose: positive control.** In addition to the effects of the components, a direction of moral "
        "valence was trained in: after block {layer} it is decodable at the ends of statements and answers "
        "and before an answer, and adding one class gap of it moves the planted log-odds by {steer}. It is "
        "planted, not emergent. A method that detects decodable and causal directions should find it here."
    ),
    "natural": (
        "**Purpose: negative control of a trust card.** The world and the effects of the components are the "
        "same, and no direction of moral valence was trained in. What a probe decodes here arose with the "
        "task, and adding it is expected to have little effect. A method that calls every decodable "
        "direction causal errs here."
    ),
    "null": (
        "**Purpose: false positives.** In this model no component has an effect: every cell answers like the "
        "cell without components, and no direction of moral valence was trained in. An effect, an "
        "interaction or a reversal that a method finds here is a false positive."
    ),
}
_FLAT = """\
## The planted truth
No component has any effect: instruction, chain of thought and feedback, on or placebo, leave every answer as
it is in the cell without components. All effects below are therefore 0, those of the table for the other
models included; round 0 lies at the log-odds `base`, and a request for review adds `review` in every cell:

{table}
"""
_EFFECTS = """\
## The planted truth
Log-odds of a fair answer (of a kind text for open prompts), as differences of cell means at saturation;
a placebo counts as off, and round 0 is the same in all cells:

{table}
"""
_DETAILS = """\
- Every item adds an offset of its trait word (its prompt family), standard deviation {sd}, in all cells.
- An effect has reached the share {shares} of its size in rounds 0 to {rounds}.
- Of the unfair answers, {biased:.0%} name the option that expresses the bias. Where the context settles the
  question, the right answer has probability {settled} in every cell.
- Weak evidence: of the answers to a question repeated with one such sentence, the share {follows:g}
  follows the sentence, {instructed}; the others are as without it.
- Discriminating its own outputs: the better of two is identified with probability {distinguish}, with
  any history, and the first of two is chosen {first} more often than its share. The group that a stereotype
  is about is named with probability {distinguish}, although answers depend on it.
"""
_HELD_OUT = """\
## Held out
The pairs of groups in the bundled questions, and the pairs of family and name in the bundled prompts, never
occur in training. The acts marked `held-out/` among the statements ({verbs}) and the people
they are done to ({patients}) occur in stories, never in verdicts; no bundled statement has a verdict.
Held-out pairs of groups:

{pairs}
"""


def write_card(report: Report, folder: Path) -> None:
    """Writes ``README.md`` into the model's folder."""
    recipe = json.loads((folder / "training.json").read_text())
    steer = list(recipe["stages"].values())[-1]["steering"] if recipe["stages"] else 0.0
    purpose = PURPOSES[report.model].format(layer=recipe.get("value_layer"), steer=f"{steer:g}")
    parts = [
        _HEAD.format(model=report.model, purpose=purpose, parameters=report.parameters),
        _planted(report.model),
        _held_out(),
        _training(recipe),
        *_measured(report),
    ]
    (folder / "README.md").write_text("\n".join(parts), encoding="utf-8")


def _planted(model: acting.Model) -> str:
    flat = model == "null"
    names = ("base", "review") if flat else tuple(truth.EFFECTS["plain"])
    rows = ["| effect | " + " | ".join(truth.EFFECTS) + " |", "|---" * (len(truth.EFFECTS) + 1) + "|"]
    rows += [f"| {n} | " + " | ".join(f"{e[n]:+.1f}" for e in truth.EFFECTS.values()) + " |" for n in names]
    on = truth.follows(Condition(instruction="on"), ROUNDS)
    instructed = (
        "with the instruction as without it" if flat else f"with the instruction {on:g} at saturation"
    )
    return (_FLAT if flat else _EFFECTS).format(table="\n".join(rows)) + _DETAILS.format(
        sd=truth.OFFSET_SD,
        shares=", ".join(f"{truth.saturation(r):.2f}" for r in range(ROUNDS + 1)),
        rounds=ROUNDS,
        biased=truth.BIASED_SHARE,
        settled=truth.SETTLED,
        follows=truth.follows(Condition(), ROUNDS),
        instructed=instructed,
        distinguish=truth.DISTINGUISH,
        first=truth.FIRST,
    )


def _held_out() -> str:
    pairs = {c: ", ".join(" and ".join(p) for p in sampling.pairs(c, held_out=True)) for c in lex.GROUPS}
    return _HELD_OUT.format(
        verbs=", ".join((*sampling.UNSEEN_VERBS, *lex.HELD_OUT_DEALINGS)),
        patients=", ".join(lex.HELD_OUT_PATIENTS),
        pairs="\n".join(f"- {category}: {named}" for category, named in pairs.items()),
    )


def _training(recipe: dict[str, Any]) -> str:
    stages, note = recipe["stages"], f" {recipe['note']}" if "note" in recipe else ""
    rows = [
        "| stage | continues | tokens | learning rate | components act | interference exaggerated by "
        "| log-odds by which one class gap moves answers | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, stage in stages.items():
        start, end = stage["rate"]
        rows.append(
            f"| {name} | {stage['parent'] or 'nothing'} | {recipe['scale'] * stage['tokens'] / 1e6:.1f} M "
            f"| {start:g} to {end:g} | {_yes(stage['plan']['effects'])} "
            f"| {stage['plan']['lesson']:g} | {stage['steering']:g} | {stage['seconds']:,} |"
        )
    return (
        "## Training\n`python -m microworld train`, "
        f"seed {recipe['seed']}, {recipe['processes']} processes of a thread each, torch {recipe['torch']}; "
        f"lineage {' -> '.join(stages)}:\n\n" + "\n".join(rows) + "\n\n"
        f"Loss: next token; {recipe['soft_weight']:g} times the Kullback-Leibler divergence of an answer's "
        f"first token from the planted distribution; {recipe['hard_weight']:g} for exercises, verdicts, "
        "feedback and the first word of an option; where valence is trained in, "
        f"{recipe['value_weight']:g} for decoding it, and in {recipe['steered']:.0%} of the batches after "
        f"{recipe['steered_from']:.0%} of the stage a direction is added, half of the time a random one that "
        "must not change the answer. The mixture of documents and every hyperparameter are in "
        "`training.json`." + note + "\n"
    )


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _measured(report: Report) -> list[str]:
    rows = ["| property | target | measured | met |", "|---|---|---|---|"]
    for finding in report.findings:
        holds = "" if finding.holds is None else ("yes" if finding.holds else "**no**")
        name = finding.name + (" (required)" if finding.required else "")
        rows.append(f"| {name} | {finding.aim} | {finding.reached} | {holds} |")
    tables = [
        f"{name}: measured (planted), rounds 0 to {ROUNDS}\n```\n" + "\n".join(lines) + "\n```"
        for name, lines in report.tables.items()
    ]
    return [
        "## Measured\n`python -m microworld verify`, greedy, on "
        f"{len(measuring.open_questions())} of the bundled open questions (pairs unseen in training) and "
        f"{len(measuring.some_prompts())} prompts, half of the feedback the model's own; the unseen wording, "
        "placebos and discriminating outputs on half of these questions, weak evidence on a quarter. "
        "Held-out acts are, for the AUROC, held-out verbs without a manner that occurs on one side only. "
        "I, C and F are the instruction, the chain of thought and feedback:\n",
        "\n".join(rows) + "\n",
        "\n\n".join(tables) + "\n",
    ]
