"""Directions in the forms of other tools: what is written is what those tools read, and comes back."""

from dataclasses import dataclass, replace

import gguf
import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.numpy import save_file
from synthetic import make_probe

from morality_lens.probes.interchange import (
    added_vectors,
    export_direction,
    import_direction,
    project_direction,
)

ROOM = np.random.default_rng(0)


@pytest.fixture
def probe():
    """A direction at the layers -1 to 3; nothing is claimed at layer 2."""
    base = make_probe(layers=5)
    layers = base.direction["layer"].values
    wide = xr.DataArray(ROOM.normal(size=(5, 6)), dims=("layer", "d_model"), coords={"layer": layers})
    gap = np.where(layers == 2, np.nan, 1.5)
    return replace(base, direction=wide, quality=base.quality.assign(gap=("layer", gap)))


@pytest.mark.parametrize(
    ("name", "layers"),
    [("v.gguf", [1, 3]), ("v.pt", [0, 1, 3]), ("v.safetensors", [0, 1, 3])],
)
def test_a_vector_added_once_moves_the_projection_by_one_gap_and_comes_back(probe, tmp_path, name, layers):
    file = export_direction(probe, tmp_path / name, model_type="llama")
    back = import_direction(file)
    assert back["layer"].values.tolist() == layers
    assert back.attrs["units"] == back.attrs["quality"] == "unknown"
    residual = ROOM.normal(size=6)
    for layer in layers:
        direction = probe.direction.sel(layer=layer).values
        moved = (residual + back.sel(layer=layer).values) @ direction - residual @ direction
        assert moved == pytest.approx(1.0, abs=1e-5)
        cosine = back.sel(layer=layer).values @ direction / np.linalg.norm(direction)
        assert cosine == pytest.approx(np.linalg.norm(back.sel(layer=layer)), rel=1e-5)  # same sign
        again = back.sel(layer=layer).values.astype(float)
        np.testing.assert_allclose(again / (again @ again), direction, rtol=1e-5)
    back_again = import_direction(export_direction(probe, tmp_path / name, gaps=-2.0, model_type="llama"))
    np.testing.assert_allclose(back_again, -2 * back, rtol=1e-6)


def test_the_gguf_file_is_laid_out_as_llama_cpp_and_repeng_read_it(probe, tmp_path):
    file = export_direction(probe, tmp_path / "v.gguf", model_type="llama")
    reader = gguf.GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "llama"
    assert fields["controlvector.layer_count"] == 2
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert sorted(tensors) == ["direction.1", "direction.3"]
    vectors = added_vectors(probe)
    for layer in (1, 3):
        tensor = tensors[f"direction.{layer}"]
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert tensor.shape.tolist() == [6]
        np.testing.assert_array_equal(tensor.data, vectors[layer].astype(np.float32))


def test_a_file_that_repeng_wrote_is_read(tmp_path):
    """As its ControlVector.export_gguf writes: no keys but its own, layers in any order."""
    writer = gguf.GGUFWriter(tmp_path / "repeng.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "mistral")
    writer.add_uint32("controlvector.layer_count", 2)
    for layer in (30, 2):
        writer.add_tensor(f"direction.{layer}", np.full(4, layer, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    back = import_direction(tmp_path / "repeng.gguf")
    assert back["layer"].values.tolist() == [2, 30]
    assert back.values.tolist() == [[2.0] * 4, [30.0] * 4]
    assert back.attrs["model_type"] == "mistral"
    assert "kind" not in back.attrs


@dataclass
class SteeringVector:
    """The fields of steering-vectors' class of that name."""

    layer_activations: dict[int, torch.Tensor]
    layer_type: str = "decoder_block"


def test_a_steering_vector_is_made_of_the_file_and_read_from_one(probe, tmp_path):
    file = export_direction(probe, tmp_path / "v.pt")
    vector = SteeringVector(**torch.load(file, weights_only=True))
    assert vector.layer_type == "decoder_block"
    assert sorted(vector.layer_activations) == [0, 1, 3]
    assert all(isinstance(layer, int) for layer in vector.layer_activations)
    assert vector.layer_activations[1].dtype == torch.float32
    theirs = SteeringVector({4: torch.ones(3, dtype=torch.bfloat16)})
    torch.save(vars(theirs), tmp_path / "theirs.pt")
    assert import_direction(tmp_path / "theirs.pt").sel(layer=4).values.tolist() == [1.0, 1.0, 1.0]


def test_a_pickle_that_would_run_something_is_refused(tmp_path):
    torch.save(SteeringVector({1: torch.ones(3)}), tmp_path / "object.pt")
    with pytest.raises(ValueError, match="holds objects other than tensors, which are not read"):
        import_direction(tmp_path / "object.pt")


def test_an_imported_direction_is_projected_on_as_it_is_and_says_that_nothing_is_known(probe, tmp_path):
    back = import_direction(export_direction(probe, tmp_path / "v.gguf"))
    residuals = xr.DataArray(
        ROOM.normal(size=(3, 2, 5, 6)),
        dims=("item", "cot", "layer", "d_model"),
        coords={"item": list("abc"), "cot": ["off", "on"], "layer": [-1, 0, 1, 2, 3]},
    )
    found = project_direction(back, residuals)
    assert found["layer"].values.tolist() == [1, 3]
    np.testing.assert_allclose(found.sel(layer=3), residuals.sel(layer=3) @ back.sel(layer=3), rtol=1e-6)
    assert found.attrs["oriented"] is False
    assert found.attrs["units"] == "units of the file"
    assert "unknown" in found.attrs["trust"]
    with pytest.raises(ValueError, match="a layer in common and one width"):
        project_direction(back, residuals.isel(d_model=slice(3)))
    with pytest.raises(ValueError, match="a layer in common and one width"):
        project_direction(back, residuals.sel(layer=[0]))


def test_what_cannot_be_written_or_read_is_refused(probe, tmp_path):
    with pytest.raises(
        ValueError, match=r"form must be one of gguf, steering-vectors, safetensors; got None"
    ):
        export_direction(probe, tmp_path / "v.bin")
    with pytest.raises(ValueError, match="gaps other than 0; got 0"):
        export_direction(probe, tmp_path / "v.gguf", gaps=0.0)
    with pytest.raises(ValueError, match="no layer of this probe can be written as gguf: it has none from 1"):
        export_direction(probe.at_layers([-1, 0, 2]), tmp_path / "v.gguf")
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="no file at"):
        import_direction(tmp_path / "none.gguf")
    save_file({"layer_activations.1": np.ones(3, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="made for the place ''"):
        import_direction(tmp_path / "a.safetensors")
    place = {"layer_type": "self_attn"}
    torch.save({"layer_activations": {1: torch.ones(3)}, **place}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match="made for the place 'self_attn'"):
        import_direction(tmp_path / "b.pt")
    torch.save([torch.ones(3)], tmp_path / "c.pt")
    with pytest.raises(ValueError, match="needs a dictionary with layer_activations"):
        import_direction(tmp_path / "c.pt")
    torch.save({"layer_activations": {1: torch.ones(3), 2: torch.ones(4)}}, tmp_path / "d.pt")
    with pytest.raises(ValueError, match="vectors of one width"):
        import_direction(tmp_path / "d.pt")
    torch.save({"layer_activations": {-1: torch.ones(3)}}, tmp_path / "e.pt")
    with pytest.raises(ValueError, match="names a layer '-1'; layers are numbers from 0 on"):
        import_direction(tmp_path / "e.pt")
    torch.save({"layer_activations": {1: torch.tensor([1.0, torch.nan])}}, tmp_path / "f.pt")
    with pytest.raises(ValueError, match="NaN or infinite"):
        import_direction(tmp_path / "f.pt")
    writer = gguf.GGUFWriter(tmp_path / "g.gguf", "llama")
    writer.add_tensor("direction.1", np.ones(3, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match="is no control vector: its architecture is 'llama'"):
        import_direction(tmp_path / "g.gguf")
