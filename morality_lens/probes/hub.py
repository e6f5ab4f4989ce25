"""Probes shared through the Hugging Face Hub, or through a folder."""

import tempfile
from pathlib import Path
from typing import Any

from morality_lens.probes.probe import Probe, load_probe

FILE = "probe.safetensors"


def push_to_hub(
    probe: Probe, repo_id: str, *, private: bool = False, message: str = "Add a probe", api: Any = None
) -> str:
    """Upload a probe with everything it knows about itself, and a card; the repository's address.

    Args:
        probe: a probe.
        repo_id: ``owner/name``; made if it is not there.
        private: whether a repository made here is seen by its owner alone.
        message: of the commit.
        api: what to upload with, an ``HfApi``; None makes one with the token that is logged in.

    Examples:
        >>> import shutil
        >>> class Folder:  # stands in for huggingface_hub.HfApi()
        ...     def create_repo(self, *, repo_id, private, exist_ok):
        ...         return f"https://hub.example/{repo_id}"
        ...     def upload_folder(self, *, repo_id, folder_path, commit_message):
        ...         shutil.copytree(folder_path, folder / repo_id)
        ...
        >>> ml.probes.push_to_hub(probe, "someone/probe", api=Folder())
        'https://hub.example/someone/probe'
        >>> ml.probes.from_hub(folder / "someone" / "probe").kind
        'mean_difference'
    """
    if api is None:
        from huggingface_hub import HfApi  # slow to import, and seldom used

        api = HfApi()
    address = api.create_repo(repo_id=repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        probe.save(Path(folder) / FILE)
        (Path(folder) / "README.md").write_text(_card(probe, repo_id), encoding="utf-8")
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
    return str(address)


def from_hub(repo_id_or_folder: str | Path, *, revision: str | None = None) -> Probe:
    """The probe in a repository of the Hub, or in a local folder if there is one of that name.

    Args:
        repo_id_or_folder: ``owner/name`` or a folder.
        revision: branch, tag or commit of the repository; None takes the newest.

    Raises:
        FileNotFoundError: the folder holds no probe.
        ValueError: the file is no probe.

    Examples:
        >>> shared = folder / "shared"
        >>> shared.mkdir()
        >>> probe.save(shared / "probe.safetensors").name
        'probe.safetensors'
        >>> ml.probes.from_hub(shared).kind
        'mean_difference'
    """
    folder = Path(repo_id_or_folder)
    if folder.is_dir():
        return load_probe(folder / FILE)
    from huggingface_hub import hf_hub_download

    return load_probe(hf_hub_download(repo_id=str(repo_id_or_folder), filename=FILE, revision=revision))


def _card(probe: Probe, repo_id: str) -> str:
    quality = probe.quality
    names = [str(name) for name in quality.data_vars]
    rows = [
        f"| {int(quality['layer'][i])} | " + " | ".join(f"{float(quality[n][i]):.3g}" for n in names) + " |"
        for i in range(quality.sizes["layer"])
    ]
    facts = [f"- {k.replace('_', ' ')}: {v}" for k, v in probe.training.items() if not isinstance(v, list)]
    lists = [f"- {k}: {len(v)}" for k, v in probe.training.items() if isinstance(v, list)]
    return "\n".join(
        [
            "---",
            "library_name: morality-lens",
            "tags: [probe, interpretability, morality-lens]",
            "---",
            "",
            "# A direction per layer",
            "",
            f"{repr(probe)[1:-1]}.",
            *([probe.trust] if probe.trust else []),
            "",
            "```python",
            "import morality_lens as ml",
            "",
            f'probe = ml.probes.from_hub("{repo_id}")',
            "```",
            "",
            "## Trained on",
            *facts,
            *lists,
            "",
            "## Held-out quality",
            "| layer | " + " | ".join(names) + " |",
            "|" + "---|" * (len(names) + 1),
            *rows,
            "",
        ]
    )
