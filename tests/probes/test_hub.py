"""A probe goes to a repository or a folder and comes back whole; nothing here touches the network."""

import shutil

import huggingface_hub
import pytest
import xarray as xr
from probes.test_probe import training

from morality_lens.probes.fitting import fit_directions
from morality_lens.probes.hub import from_hub, push_to_hub
from morality_lens.probes.trust_checks import trust_card


class FolderApi:
    """Stands for ``HfApi``: repositories are folders."""

    def __init__(self, root):
        self.root, self.made = root, []

    def create_repo(self, *, repo_id, private, exist_ok):
        self.made.append((repo_id, private, exist_ok))
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return f"https://hub.example/{repo_id}"

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        assert commit_message
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)


def test_a_pushed_probe_comes_back_whole_with_a_card_that_tells_its_quality(tmp_path):
    probe = fit_directions(training())
    probe = probe.with_card(trust_card(training(), ["a word"] * 120, draws=20))
    api = FolderApi(tmp_path)
    assert push_to_hub(probe, "someone/probe", private=True, api=api) == "https://hub.example/someone/probe"
    assert api.made == [("someone/probe", True, True)]
    back = from_hub(tmp_path / "someone" / "probe")
    xr.testing.assert_identical(back.direction, probe.direction)
    xr.testing.assert_identical(back.quality, probe.quality)
    assert (dict(back.training), back.trust) == (dict(probe.training), probe.trust)
    card = (tmp_path / "someone" / "probe" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: morality-lens")
    assert 'ml.probes.from_hub("someone/probe")' in card
    assert probe.trust
    assert probe.trust in card
    assert f"| 1 | {float(probe.quality['auroc'][2]):.3g} |" in card


def test_a_name_that_is_no_folder_is_asked_of_the_hub(tmp_path, monkeypatch):
    probe, asked = fit_directions(training()), []
    file = probe.save(tmp_path / "kept.safetensors")

    def download(**asked_for):
        asked.append(asked_for)
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    xr.testing.assert_identical(from_hub("someone/probe", revision="v1").direction, probe.direction)
    assert asked == [{"repo_id": "someone/probe", "filename": "probe.safetensors", "revision": "v1"}]


def test_a_folder_without_a_probe_is_said_to_be_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="no probe at"):
        from_hub(tmp_path)
