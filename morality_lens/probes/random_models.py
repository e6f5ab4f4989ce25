"""Random-initialised controls: what a model's architecture and tokenizer alone make of the statements."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
import xarray as xr
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM

from morality_lens.items.kinds import Statement
from morality_lens.models.loading import fingerprint, record_of
from morality_lens.probes.statements import Read, read_statements


def random_model_residuals(
    model: TransformerBridge,
    statements: Sequence[Statement],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    read: Read = "end",
) -> xr.DataArray:
    """Residuals of the statements in random-initialised copies of the model.

    A control has the model's architecture, tokenizer and chat template; its weights are drawn as the
    architecture initialises them before training. A direction that a control reads as well reflects words and
    positions (Zhang and Bowman 2018, arXiv 1809.10040). One control is in memory at a time, beside the model,
    whose own weights are not changed.

    Args:
        model: from ``load_model``.
        statements: labelled statements.
        seeds: one control for each.
        read: as in :func:`morality_lens.probes.read_statements`.

    Returns:
        seed x statement x layer x d_model, with the coordinates of ``read_statements``.

    Raises:
        ValueError: no seed or one twice, or what ``read_statements`` refuses.

    Examples:
        >>> random = ml.probes.random_model_residuals(model, statements[:8], seeds=(0, 1))
        >>> dict(random.sizes)
        {'seed': 2, 'statement': 8, 'layer': 7, 'd_model': 128}
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"random_model_residuals needs one seed or more, each once; got {tuple(seeds)}.")
    parts = [read_statements(_control(model, seed), statements, read=read) for seed in seeds]
    joined = xr.concat(parts, dim="seed", coords="minimal", compat="override", combine_attrs="drop")
    attrs = {k: v for k, v in parts[0].attrs.items() if k != "model_fingerprint"}
    attrs["random_model_of"] = record_of(model).fingerprint
    return joined.assign_coords(seed=list(seeds)).assign_attrs(attrs).rename("residuals")


def _control(model: TransformerBridge, seed: int) -> TransformerBridge:
    """A bridge that holds only the control's record, which is all that reading statements needs.

    A bridge that has run holds activations and cannot be copied; with nothing in it, it cannot be taken for
    the trained one either.
    """
    record = record_of(model)
    lm = copy.deepcopy(record.lm)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # Drawn in float32 on the CPU whatever the model runs in: a seed gives the same control everywhere.
        fresh = AutoModelForCausalLM.from_config(
            copy.deepcopy(lm.module.config), dtype=torch.float32, trust_remote_code=False
        )
    lm.module.load_state_dict(fresh.state_dict())
    control = TransformerBridge.__new__(TransformerBridge)
    renewed = replace(record, lm=lm, fingerprint=fingerprint(lm.module), checks=())
    object.__setattr__(control, "morality_lens_record", renewed)
    return control
