"""What is shipped of the study of a real model: whole, small, consistent, without its data's texts."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import morality_lens as ml

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "assets" / "gallery" / "smollm2"
DATA = ROOT.parent / "shared" / "data"
DIRECTIONS = ("moral", "toxicity", "ratings", "composed")


def test_it_is_whole_and_small():
    names = {path.name for path in SHIPPED.iterdir()}
    tables = {"effects.csv", "effects-again.csv", "behaviour.csv", "behaviour-effects.csv", "trust-cards.csv"}
    assert tables | {"verdicts.json", "refused.json", "manifest.json", "README.md"} <= names
    assert {f"{name}.safetensors" for name in DIRECTIONS} <= names
    assert {f"trust-{name}.png" for name in DIRECTIONS} <= names
    arrays = [path for path in SHIPPED.iterdir() if path.suffix != ".png"]
    assert sum(path.stat().st_size for path in arrays) < 5e6
    verdicts = json.loads((SHIPPED / "verdicts.json").read_text())
    assert [row["number"] for row in verdicts] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ["moral", "toxicity", "ratings"])
def test_tables_and_arrays_say_the_same(name):
    effects = ml.runs.read_result(SHIPPED, f"effects-{name}")
    table = pd.read_csv(SHIPPED / "effects.csv").query("direction == @name")
    assert len(table) == effects["estimate"].size
    keys = ["effect", "round", "site", "layer"]
    stored = effects["estimate"].to_series().reorder_levels(keys)
    shown = table.set_index(keys)["estimate"].reindex(stored.index)
    np.testing.assert_allclose(stored, shown, rtol=1e-4, atol=1e-6)
    probe = ml.load_probe(SHIPPED / f"{name}.safetensors")
    assert probe.card is not None
    assert (
        probe.training["model_fingerprint"]
        == json.loads((SHIPPED / "manifest.json").read_text())["study"]["model"]["fingerprint"]
    )


def test_nothing_is_said_of_a_direction_that_is_none():
    assert not (SHIPPED / "effects-composed.zarr.zip").exists()
    assert "composed" not in set(pd.read_csv(SHIPPED / "effects.csv")["direction"])
    refused = json.loads((SHIPPED / "refused.json").read_text())
    assert any(line.startswith("The direction composed: ") for line in refused)


def test_it_holds_no_path_of_a_machine():
    for path in (*SHIPPED.glob("*.json"), *SHIPPED.glob("*.csv"), SHIPPED / "README.md"):
        text = path.read_text()
        assert not {"/work/", "/home/", "/tmp/"} & {
            one for one in ("/work/", "/home/", "/tmp/") if one in text
        }


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data are not at ../shared/data")
def test_it_holds_no_text_of_the_data():
    contexts = set()
    for file in (DATA / "bbq").glob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        contexts |= {row["context"] for row in rows} | {row["question"] for row in rows}
    for file in (DATA / "realtoxicityprompts").glob("*.jsonl"):
        contexts |= {json.loads(line)["prompt"]["text"].strip() for line in file.read_text().splitlines()}
    contexts = {text for text in contexts if len(text) > 25}
    assert len(contexts) > 3000
    for path in SHIPPED.iterdir():
        if path.suffix in (".json", ".csv", ".md", ".safetensors", ".zip"):
            held = path.read_bytes().decode("utf-8", errors="replace")
            assert not [text for text in contexts if text in held], path.name
