"""The matrix of model families: each is right in every number, or refused by one line that says why."""

import families
import pytest
from families import FAMILIES, measured

REFUSED = {
    "BLOOM without seq_length": r"states no context window .* write the length .* as max_position_embeddings",
    "Mamba": "MambaForCausalLM has no attention: it passes on a recurrent state",
    "Mamba-2": "Mamba2ForCausalLM has no attention: it passes on a recurrent state",
}
UNSPLIT = {"Jamba": "not split into heads and MLPs: block 0 has no"}
UNPATCHED = {"Jamba": "has more state than keys and values"}
REWRITTEN = {"Qwen3", "Qwen3-MoE", "GPT-OSS"}
"""Templates that drop thoughts or end the last reply in another way once a turn follows."""
SECONDS = {"Gemma-2": 12, "Gemma-3": 10, "Gemma-3 with images": 10, "GPT-OSS": 8, "Qwen3": 6, "Llama-3.1": 5}
FEW = {"SmolLM2", "Llama-2", "BLOOM without seq_length", "Mamba", "Mamba-2"}
"""Families that the quick tests keep."""


def cases():
    for name in FAMILIES:
        marks = [] if name in FEW else [pytest.mark.slow(seconds=SECONDS.get(name, 4))]
        yield pytest.param(name, marks=marks)


@pytest.fixture(scope="module", autouse=True)
def real_tokenizers():
    if not all((families.TOKENIZERS / name).is_dir() for name in ("llama2", "gemma3")):
        pytest.fail(f"the real tokenizers are not in {families.TOKENIZERS}: run make models")


@pytest.mark.filterwarnings("ignore:.*rewrites earlier turns", "ignore:.*rotary position embedding")
@pytest.mark.parametrize("name", cases())
def test_a_family_is_right_in_every_number_or_refused_by_one_line(name, tmp_path):
    found = measured(FAMILIES[name], tmp_path)
    if name in REFUSED:
        families.check_words(REFUSED[name], found.loaded)
        return
    assert found.loaded == "yes"
    assert found.faults == []
    assert found.replies >= 40
    assert found.residual < 1e-5
    assert found.probability < 1e-5
    assert found.reuse is (name not in REWRITTEN)
    if name in UNSPLIT:
        families.check_words(UNSPLIT[name], found.split)
    else:
        assert found.split == "adds up"
        assert found.completeness < 1e-5
    families.check_words(UNPATCHED.get(name, "^yes$"), found.patched)
