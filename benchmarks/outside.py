"""A run recomputed from outside the package: plain transformers, pandas and statsmodels.

    python benchmarks/outside.py RUN --model FILE.gguf --probe PROBE.safetensors --layer 15 [--dialogues 24]

From the stored transcripts alone: the option that each answer gives (by a simpler reader, which knows the
first letter or the only option named, and no corrections), the share of right answers by condition, the
probability of the options (plain transformers over the whole dialogue, no cache, no padding), the projection
at one layer by a forward hook written anew, and the seven effects by statsmodels' AnovaRM, whose F is the
square of the package's t where every item is its own cluster. Prints the largest differences; exits 1 if one
is larger than it may be.
"""

import argparse
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load_file
from statsmodels.stats.anova import AnovaRM
from transformers import AutoModelForCausalLM, AutoTokenizer

import morality_lens as ml

ALLOWED = {"share of answers read otherwise": 0.02, "accuracy by the reader below": 0.05, "accuracy": 1e-12}
ALLOWED |= {"option probability": 1e-4, "projection": 1e-3}
ALLOWED |= {"F against t squared, behaviour": 1e-6, "F against t squared, projection": 1e-6}
LETTER = re.compile(
    r"^\W*(?:(?:the )?(?:correct )?answer(?: is)?|option)?\W*\b([A-C])\b(?! \w+ing)", re.IGNORECASE
)
ARTICLE = re.compile(r"^(?:the|a|an) ")


def choice(text: str, options: tuple[str, ...]) -> int:
    """The option that an answer gives: by its letter at the beginning, else the only one it names; or -1."""
    if said := LETTER.match(text):
        return "ABC".index(said.group(1).upper())
    plain = text.casefold()
    named = [k for k, option in enumerate(options) if ARTICLE.sub("", option.casefold()) in plain]
    return named[0] if len(named) == 1 else -1


def passes(model: torch.nn.Module, ids: list[int], layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the next token, and the residual stream after a layer, at every position."""
    seen: list[torch.Tensor] = []
    hook = model.model.layers[layer].register_forward_hook(
        lambda _module, _given, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    hook.remove()
    return torch.log_softmax(logits.double(), -1), seen[0].reshape(len(ids), -1)


def anova(values: pd.Series, factors: list[str]) -> dict[str, float]:
    """F of every effect of a balanced within-item design, by the effect's name."""
    table = AnovaRM(values.rename("y").reset_index(), "y", "item", within=factors).fit().anova_table
    return {str(name): float(f) for name, f in table["F Value"].items()}


def against(cube, factors: list[str]) -> float:
    """The largest relative difference between AnovaRM's F and the square of estimate / standard error."""
    alone = cube.assign_coords(cluster=("item", cube["item"].values))  # each item its own cluster
    effects = ml.factorial_effects(alone, factors, method="pointwise", family=())
    f = anova(cube.drop_vars([c for c in cube.coords if c not in cube.dims]).to_series(), factors)
    t = {
        str(e): float(effects["estimate"].sel(effect=e) / effects["se"].sel(effect=e))
        for e in effects["effect"].values
    }
    return max(abs(t[name] ** 2 - value) / max(1.0, value) for name, value in f.items())


def main() -> None:
    """Recompute, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--probe", type=Path, required=True)
    parser.add_argument("--layer", type=int, required=True)
    parser.add_argument("--dialogues", type=int, default=24)
    given = parser.parse_args()
    run = ml.open_run(given.run)
    factors, last, worst = run.design.names, run.design.rounds, dict.fromkeys(ALLOWED, 0.0)

    answers = run.answers.set_index(["item", *factors, "round"]).sort_index()
    options = {name: question.options for name, question in run.asked.items()}
    items = answers.index.get_level_values("item")
    read = [choice(text, options[item]) for text, item in zip(answers["text"], items, strict=True)]
    chosen = pd.Series(read, index=answers.index)
    stored = answers["choice"].fillna(-1).astype(int)
    worst["share of answers read otherwise"] = float((chosen != stored).mean())
    label = items.map(run.items["label"].astype(int))
    cells = [*factors, "round"]
    theirs = answers["correct"].astype(float).groupby(cells).mean()
    mine = (chosen == label).astype(float).groupby(cells).mean()
    worst["accuracy by the reader below"] = float((mine - theirs).abs().max())
    worst["accuracy"] = float(((stored == label).astype(float).groupby(cells).mean() - theirs).abs().max())

    folder, file = given.model.parent, given.model.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    plain = [tokenizer.decode([i]).strip() for i in range(len(tokenizer))]
    signs = [[i for i, text in enumerate(plain) if text == sign] for sign in "ABC"]
    kept = load_file(given.probe)
    at = kept["layer"].tolist().index(given.layer)
    direction, intercept = kept["direction"][at].astype(np.float64), float(kept["intercept"][at])
    probe = replace(ml.load_probe(given.probe), refits=None)  # effects on this one direction
    moral = probe.project(run.residuals.sel(site=["answer_start"], layer=[given.layer]))
    rows = run.transcripts.to_dict("records")
    some = rows[:: max(1, len(rows) // given.dialogues)]
    for row in some:
        spread, states = passes(model, list(row["token_ids"]), given.layer)
        for span in row["spans"]:
            if span["name"] == "answer":
                place = {name: row[name] for name in factors} | {"item": row["item"], "round": span["round"]}
                mass = np.array([float(spread[span["start"] - 1, s].exp().sum()) for s in signs])
                apart = np.abs(mass / mass.sum() - run.option_probabilities.sel(place).values).max()
                projection = states[span["start"] - 1].double().numpy() @ direction + intercept
                gap = abs(projection - float(moral.sel(place).squeeze()))
                worst["option probability"] = max(worst["option probability"], float(apart))
                worst["projection"] = max(worst["projection"], gap)

    behaviour = ml.judges.behaviour_cube(run, "probability").sel(round=last, drop=True)
    worst["F against t squared, behaviour"] = against(behaviour, factors)
    one = moral.sel(round=last, site="answer_start", layer=given.layer, drop=True)
    worst["F against t squared, projection"] = against(one, factors)

    print(f"{len(answers):,} answers, {len(some)} dialogues re-read")
    print(theirs.unstack("round").round(3).to_string())
    for name, value in worst.items():
        verdict = "ok" if value <= ALLOWED[name] else "TOO LARGE"
        print(f"{name}: {value:.2g} (allowed {ALLOWED[name]:.0e}) {verdict}")
    raise SystemExit(any(value > ALLOWED[name] for name, value in worst.items()))


if __name__ == "__main__":
    main()
