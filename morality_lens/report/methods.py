"""A methods paragraph and references, generated from what a run and its analysis record."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from morality_lens.design import Design
from morality_lens.interactions.numbers import interval_of
from morality_lens.probes.probe import Probe
from morality_lens.report.analysis import Analysis
from morality_lens.report.summary import shown_layer
from morality_lens.runs.run import Run

REFERENCES = {
    "morality_lens": """@software{morality_lens,
  title = {morality\\_lens: mechanistic interpretability of moral self-correction in language models},
  author = {{The morality\\_lens authors}},
  year = {2026},
  version = {%s}
}""",
    "liu2024": """@misc{liu2024,
  title = {Self-correction is not an innate capability in language models},
  author = {Guangliang Liu and Zimo Qi and Xitong Zhang and Lu Cheng and Kristen Marie Johnson},
  year = {2024},
  eprint = {2410.20513},
  archivePrefix = {arXiv}
}""",
    "transformer_lens": """@misc{transformer_lens,
  title = {TransformerLens},
  author = {Neel Nanda and Joseph Bloom},
  year = {2022},
  howpublished = {https://github.com/TransformerLensOrg/TransformerLens}
}""",
    "westfall1993": """@book{westfall1993,
  title = {Resampling-based multiple testing: examples and methods for p-value adjustment},
  author = {Peter H. Westfall and S. Stanley Young},
  publisher = {Wiley},
  year = {1993}
}""",
    "bell2002": """@article{bell2002,
  title = {Bias reduction in standard errors for linear regression with multi-stage samples},
  author = {Robert M. Bell and Daniel F. McCaffrey},
  journal = {Survey Methodology},
  volume = {28},
  number = {2},
  pages = {169--181},
  year = {2002}
}""",
    "hall1992": """@article{hall1992,
  title = {On the removal of skewness by transformation},
  author = {Peter Hall},
  journal = {Journal of the Royal Statistical Society, Series B},
  volume = {54},
  number = {1},
  pages = {221--228},
  year = {1992}
}""",
}
"""BibTeX entries of what a report rests on."""


def methods_paragraph(run: Run, found: Analysis, *, probe: Probe | None = None) -> str:
    """How the numbers of a report came about, in one paragraph for a paper's methods section.

    Only what the run, its probe and its analysis record is said: design, model, measures, statistics,
    versions, and how many estimates were refused. Names in square brackets are keys of :func:`bibtex`.

    Args:
        run: a run.
        found: its estimates.
        probe: whose projections they describe; None: behaviour only.
    """
    sentences = [
        *_played(run),
        *_behaviour(found),
        *([] if probe is None else _projected(found, probe)),
        *_tested(found),
        _versions(run.manifest.get("versions", {})),
    ]
    if found.refused:
        sentences.append(
            f"What was refused, and why, is listed in the report ({_count(len(found.refused), 'entry')})."
        )
    return " ".join(sentence for sentence in sentences if sentence)


def bibtex(run: Run, found: Analysis) -> str:
    """The BibTeX entries that the methods paragraph names."""
    keys = ["morality_lens", "liu2024", "transformer_lens"]
    if _first(found) is not None:
        keys += ["westfall1993", "bell2002", "hall1992"]
    version = str(run.manifest.get("versions", {}).get("morality-lens", "unknown"))
    return "\n\n".join(REFERENCES[k] % version if k == "morality_lens" else REFERENCES[k] for k in keys)


def _played(run: Run) -> list[str]:
    study = run.manifest["study"]
    model, limits = study.get("model", {}), study.get("limits", {})
    design, items = run.design, run.items
    named = ", ".join(f"{factor.name} ({', '.join(factor.levels)})" for factor in design.factors)
    rounds = design.n_rounds - 1
    shared = "combinations which open alike" if design.early else "all combinations"
    lines = [
        f"{_count(len(items), 'item')} in {_count(len(set(items['cluster'])), 'cluster')} "
        f"{_categories(items)}were played with {_described(model)} in all "
        f"{len(design.conditions)} combinations of the factors {named}, {_generated(design)}over "
        f"{_count(rounds, 'correction round')} after a first answer that {shared} "
        "share, as in studies of moral self-correction [liu2024]."
    ]
    if "temperature" in study:
        how = "greedily" if study["temperature"] == 0 else f"at temperature {study['temperature']:g}"
        most = limits.get("answer_tokens")
        lines.append(
            f"Text was generated {how}{f', with at most {most} tokens for an answer' if most else ''}."
        )
    left_out = study.get("left_out", run.manifest.get("left_out", []))
    if left_out:
        were = "was" if len(left_out) == 1 else "were"
        reasons = "for the reasons that the report gives"
        lines.append(f"{_count(len(left_out), 'item')} {were} left out, {reasons}.")
    return lines


def _generated(design: Design) -> str:
    """What further factors follow from those that are crossed."""
    told = [
        f"the sign of {one.factor.name} being the product of those of {', '.join(one.by)} (a fraction, in "
        f"which the effect of {one.factor.name} is aliased with their interaction)"
        for one in design.generated
    ]
    return f"with {'; '.join(told)}, " if told else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun if number == 1 else 'entries' if noun == 'entry' else f'{noun}s'}"


def shown_name(model: Mapping[str, Any]) -> str:
    """The model as a title shows it: a folder or file without the path that leads to it."""
    name = str(model.get("name", "a language model"))
    local = Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    shown = (Path(name).stem if name.endswith(".gguf") else Path(name).name) if local else name
    return "the bundled model" if name == "bundled" else shown


def _described(model: Mapping[str, Any]) -> str:
    name = shown_name(model)
    revision = f", revision {model['revision']}" if model.get("revision") else ""
    organism = ", a bundled model organism whose effects are planted" if model.get("organism") else ""
    if "n_layers" not in model:
        return f"{name}{revision}{organism}"
    return (
        f"{name} ({model['n_layers']} layers, residual width {model.get('d_model', '?')}, "
        f"{model.get('dtype', 'unknown precision')}{revision}{organism})"
    )


def _categories(items: pd.DataFrame) -> str:
    if "category" not in items.columns:
        return ""
    counts = items["category"].value_counts(sort=False)
    named = [f"{name} {n}" for name, n in counts.items() if name]
    return f"({', '.join(named)}) " if 0 < len(named) <= 12 else ""


def _behaviour(found: Analysis) -> list[str]:
    effects = found.behaviour_effects
    return [] if effects is None else [f"Behaviour was measured as {effects.attrs['outcome']}."]


def _projected(found: Analysis, probe: Probe) -> list[str]:
    training, kind = probe.training, probe.kind.replace("_", " ")
    unit = training.get("units", "gap")
    lines = [
        "Residual streams were read with TransformerLens [transformer_lens] and projected on a direction "
        f"({kind}) fitted at each layer to {training.get('n', 'unknown')} examples in "
        f"{training.get('n_clusters', 'unknown')} clusters, in units of the {unit}."
    ]
    layer = shown_layer(found.effects, probe)
    if layer is not None and layer in probe.quality["layer"].values:
        best = interval_of(probe.quality.sel(layer=layer), "auroc", "auroc_low", "auroc_high")
        measured = f", {best}" if probe.card is None else ""
        lines.append(
            f"Where one layer is shown it is layer {layer}, chosen by held-out AUROC alone{measured}."
        )
    if probe.card is not None:
        lines.append(f"{probe.card.sentence[:1].upper()}{probe.card.sentence[1:]}.")
    return lines


def _tested(found: Analysis) -> list[str]:
    effects = _first(found)
    if effects is None:
        return []
    attrs = effects.attrs
    lines = [
        f"Effects are factorial contrasts on the {attrs['scale']} with standard errors by clusters "
        "[bell2002] and a correction for skewness [hall1992]; their p-values and "
        f"{100 * (1 - attrs['alpha']):g} % intervals are pointwise."
    ]
    for name, one in (("behaviour", found.behaviour_effects), ("the projection", found.effects)):
        if one is None:
            continue
        a = one.attrs
        if not one["p_adj"].notnull().any():
            lines.append(f"On {name} nothing is corrected for the number of tests ({a['method_reason']}).")
            continue
        drawn = f"{a['method']}, {a['method_reason']}; {a['draws_used']} draws, seed {a['seed']}"
        lines.append(
            f"On {name} adjusted p-values and simultaneous bands are corrected by the largest |t| "
            f"[westfall1993] ({drawn}) over {a['family']}; places without variance or without a "
            "stable direction are left out."
        )
    if found.effects is not None and found.effects.attrs.get("question") == "direction":
        lines.append(
            "Intervals on the projection include the sampling error of the direction, from refits on drawn "
            "clusters of its examples."
        )
    return lines


def _first(found: Analysis) -> Any:
    return found.behaviour_effects if found.behaviour_effects is not None else found.effects


def _versions(versions: Mapping[str, Any]) -> str:
    named = [
        f"{name} {versions[name]}"
        for name in ("morality-lens", "transformer-lens", "torch")
        if name in versions
    ]
    return f"Software: {', '.join(named)} [morality_lens]." if named else ""
