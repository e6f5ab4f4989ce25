"""A run's residuals as safetensors: every row is what the table says it is, and memory does not grow."""

import json

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open
from synthetic import make_probe
from tiny import made_up_probe, tiny_run

from morality_lens.probes.interchange import export_direction, import_direction, project_direction
from morality_lens.runs import exporting
from morality_lens.runs.exporting import export_residuals
from morality_lens.runs.run import Run


@pytest.fixture(scope="module")
def played(zoo_folder, tmp_path_factory):
    from conftest import make_questions

    return tiny_run(zoo_folder("llama"), tmp_path_factory.mktemp("run") / "run", make_questions(4))


def rows_of(folder) -> tuple[pd.DataFrame, dict]:
    index = json.loads((folder / "index.json").read_text())
    return pd.read_parquet(folder / "rows.parquet"), index


@pytest.mark.slow(seconds=10)
def test_every_row_is_the_residual_that_the_table_names(played, tmp_path):
    _, run = played
    one_item = run.residuals.nbytes // run.residuals.sizes["item"]
    folder = export_residuals(run, tmp_path / "new" / "out", shard_bytes=2 * one_item)
    rows, index = rows_of(folder)
    assert [shard["file"] for shard in index["shards"]] == [
        "residuals-00001-of-00002.safetensors",
        "residuals-00002-of-00002.safetensors",
    ]
    assert index["layers"] == run.residuals["layer"].values.tolist()
    assert index["model_fingerprint"] == run.manifest["study"]["model"]["fingerprint"]
    assert len(rows) == sum(shard["rows"] for shard in index["shards"])
    factors = list(index["factors"])
    for shard, part in rows.groupby("shard"):
        with safe_open(folder / shard, framework="np") as opened:
            names = {"embedding" if layer < 0 else f"layers.{layer}": layer for layer in index["layers"]}
            assert sorted(opened.keys()) == sorted(names)
            held = {layer: opened.get_tensor(name) for name, layer in names.items()}
        for row in part.sample(12, random_state=0).itertuples():
            here = {name: getattr(row, name) for name in ("item", "round", "site", *factors)}
            for layer, values in held.items():
                want = run.residuals.sel(here).sel(layer=layer).values
                np.testing.assert_array_equal(values[row.row], want)
                assert values.dtype == run.residuals.dtype
            assert row.there == bool(np.isfinite(run.residuals.sel(here)).all())
    assert set(rows["cluster"]) == set(run.items["cluster"])
    assert pd.read_parquet(folder / "items.parquet")["id"].tolist() == run.items["id"].tolist()


@pytest.mark.slow(seconds=5)
def test_some_layers_and_sites_replace_an_earlier_export_and_nothing_else(played, tmp_path):
    _, run = played
    folder = export_residuals(run, tmp_path / "out", shard_bytes=1)
    assert len(list(folder.glob("*.safetensors"))) == 4  # an item each
    export_residuals(run, folder, layers=[1, -1], sites=["answer_start"])
    assert sorted(file.name for file in folder.iterdir()) == [
        "index.json",
        "items.parquet",
        "residuals-00001-of-00001.safetensors",
        "rows.parquet",
    ]
    rows, index = rows_of(folder)
    assert set(rows["site"]) == {"answer_start"}
    assert index["layers"] == [1, -1]
    with safe_open(folder / "residuals-00001-of-00001.safetensors", framework="np") as opened:
        assert sorted(opened.keys()) == ["embedding", "layers.1"]
    with pytest.raises(ValueError, match=r"the run has the layers .*; got \[99\]"):
        export_residuals(run, folder, layers=[99])
    with pytest.raises(ValueError, match="the run has the sites"):
        export_residuals(run, folder, sites=[])
    with pytest.raises(ValueError, match="a size for a shard; got 0"):
        export_residuals(run, folder, shard_bytes=0)
    assert rows_of(folder)[1] == index  # what is refused leaves the export as it was
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    with pytest.raises(FileExistsError, match="holds something else"):
        export_residuals(run, tmp_path / "mine")


@pytest.mark.slow(seconds=5)
def test_no_more_than_a_shard_is_read_at_a_time(played, tmp_path, monkeypatch):
    _, run = played
    seen = []
    write = exporting._write_shard
    monkeypatch.setattr(
        exporting,
        "_write_shard",
        lambda file, values, layers: seen.append(len(values)) or write(file, values, layers),
    )
    one_item = run.residuals.nbytes // run.residuals.sizes["item"]
    export_residuals(run, tmp_path / "out", shard_bytes=one_item)
    assert len(seen) == run.residuals.sizes["item"]
    assert len(set(seen)) == 1


@pytest.mark.slow(seconds=5)
def test_a_direction_of_another_model_is_not_projected_on_a_run(played, tmp_path):
    model, run = played
    mine = import_direction(export_direction(made_up_probe(model), tmp_path / "mine.gguf"))
    found = project_direction(mine, run)
    assert isinstance(run, Run)
    np.testing.assert_allclose(
        found.sel(layer=1), run.residuals.sel(layer=1) @ mine.sel(layer=1), rtol=1e-4, atol=1e-5
    )
    other = import_direction(export_direction(make_probe(), tmp_path / "other.gguf"))
    with pytest.raises(ValueError, match="exported from another model"):
        project_direction(other.assign_attrs(model_fingerprint="0" * 64), run)


@pytest.mark.slow(seconds=10)
def test_the_command_writes_what_the_functions_do(played, tmp_path, command):
    model, run = played
    made_up_probe(model).save(run.path / "probe.safetensors")
    code, _, _ = command("export", run.path, "--as", "gguf", "--out", tmp_path / "new" / "v.gguf")
    assert code == 0
    back = import_direction(tmp_path / "new" / "v.gguf")
    assert back.attrs["model_type"] == "llama"
    assert back.attrs["model_fingerprint"] == run.manifest["study"]["model"]["fingerprint"]
    code, _, _ = command("export", run.path, "--as", "residuals", "--out", tmp_path / "r", "--layers", "1")
    assert code == 0
    assert rows_of(tmp_path / "r")[1]["layers"] == [1]
    code, _, err = command("export", run.path, "--as", "gguf", "--out", tmp_path / "a.gguf", "--axis", "care")
    assert code == 2
    assert "no axes in" in err
    code, _, err = command("export", run.path, "--as", "residuals", "--out", tmp_path / "r", "--axis", "care")
    assert code == 2
    assert "leave --axis out" in err
