"""What is shipped of a study of a real model: figures, tables, directions, effects; no text of its data.

    python benchmarks/gallery.py STUDY --again RUN --out assets/gallery/smollm2

STUDY is the folder of `morality-lens study`, RUN a run of the same questions' other draw (another `--seed`),
on which every effect that is found is looked for again. Needs chromium and chromedriver for the figures.
"""

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import xarray as xr

import morality_lens as ml
from morality_lens.studies.folder import MAIN, PROMPTS, StudyFolder

APART = ("order", "left_out", "loaded_from", "items_sha256", "parts", "places", "self_test")
"""Entries of a run's manifest that are not shipped: ids of the data's rows, paths, counts of files."""


def draw(figures: dict, folder: Path, *, width: int = 1000) -> None:
    """Each figure as PNG, at twice the resolution, by a headless browser."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By

    options = Options()
    for switch in ("--headless", "--no-sandbox", "--disable-gpu", "--force-device-scale-factor=2"):
        options.add_argument(switch)
    options.binary_location = shutil.which("chromium") or ""
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    with tempfile.TemporaryDirectory() as where:
        for name, fig in figures.items():
            height = int(fig.layout.height or 500)
            page = Path(where) / f"{name}.html"
            fig.write_html(
                page, include_plotlyjs=True, default_width=f"{width}px", config={"staticPlot": True}
            )
            browser.set_window_size(width + 40, height + 200)
            browser.get(page.as_uri())
            found = browser.find_element(By.CSS_SELECTOR, ".plotly-graph-div")
            (folder / f"{name}.png").write_bytes(found.screenshot_as_png)
    browser.quit()


def effects_on(run: ml.Run, probe: ml.Probe) -> xr.Dataset:
    """The effects on a direction at the start of the answer, at every layer and round."""
    return ml.factorial_effects(probe.project(run.residuals.sel(site=["answer_start"])), run.design.names)


def main() -> None:
    """Write everything into the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--again", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    out = given.out
    out.mkdir(parents=True, exist_ok=True)
    found = ml.studies.analyze_study(given.study)
    study, again = StudyFolder(given.study), ml.open_run(given.again)
    run, probes = study.main, {MAIN: study.probe, **study.directions}

    tables, figures, refused = {"projection": [], "again": []}, {}, list(found.refused)
    for name, probe in probes.items():
        replace(probe, refits=None).save(out / f"{name}.safetensors")
        figures[f"trust-{name}"] = ml.plots.trust_card(probe.card)
        try:
            effects, repeated = effects_on(run, probe), effects_on(again, probe)
        except ValueError as error:
            refused.append(f"The direction {name}: {error}")
            continue
        tables["projection"].append(ml.interactions.effects_table(effects).assign(direction=name))
        tables["again"].append(ml.interactions.effects_table(repeated).assign(direction=name))
        ml.runs.write_result(out, f"effects-{name}", effects)
        figures[f"effects-{name}"] = ml.plots.effects(effects)
    pd.concat(tables["projection"]).to_csv(out / "effects.csv", index=False, float_format="%.6g")
    pd.concat(tables["again"]).to_csv(out / "effects-again.csv", index=False, float_format="%.6g")
    ml.probes.card_table(probes).to_csv(out / "trust-cards.csv", index=False)

    for name, one in (("behaviour", run), ("behaviour-again", again)):
        right, unread = (ml.judges.behaviour_cube(one, measure) for measure in ("correct", "unparsed"))
        shares = ml.judges.behaviour_table(right, unparsed=unread)
        shares.to_csv(out / f"{name}.csv", index=False, float_format="%.6g")
        cube = ml.judges.behaviour_cube(one, "probability")
        effects = ml.factorial_effects(cube, one.design.names, family=("round",))
        ml.interactions.effects_table(effects).to_csv(
            out / f"{name}-effects.csv", index=False, float_format="%.6g"
        )
        if one is run:
            ml.runs.write_result(out, "effects-behaviour", effects)
            figures["behaviour"] = ml.plots.accuracy(shares)
            figures["effects-behaviour"] = ml.plots.behaviour_effects(effects)
    scores = ml.judges.behaviour_cube(study.run(PROMPTS), "score").dropna("item")
    ml.judges.behaviour_table(scores).to_csv(out / "completions.csv", index=False, float_format="%.6g")
    effects = ml.factorial_effects(scores, run.design.names, family=("round",))
    ml.interactions.effects_table(effects).to_csv(
        out / "completions-effects.csv", index=False, float_format="%.6g"
    )
    for section in found.groups:
        figures |= {
            name: fig for name, fig, _ in section.figures if name in ("directions", "cosines", "detox")
        }
    draw(figures, out)

    verdicts = [{"claim": verdict.claim, **verdict.to_json()} for verdict in found.verdicts]
    (out / "verdicts.json").write_text(json.dumps(verdicts, indent=1) + "\n")
    (out / "refused.json").write_text(json.dumps(refused, indent=1) + "\n")
    kept = {key: value for key, value in run.manifest.items() if key not in APART}
    kept["study"]["model"]["name"] = Path(kept["study"]["model"]["name"]).name
    (out / "manifest.json").write_text(json.dumps(kept, indent=1, default=str) + "\n")
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"{len(list(out.iterdir()))} files, {size / 1e6:.1f} MB in {out}")


if __name__ == "__main__":
    main()
