"""The trust card of a direction as a value: its lines, their rules and verdicts, one sentence, JSON."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

VERDICTS = ("not checked", "pass", "warn", "fail")
"""From the least to the most severe."""

_PAIRED = "paired interval of the difference above 0: pass; over 0: warn; below 0: fail"


RULES = {
    "held-out AUROC": "interval above .7: pass; above .5: warn; else fail. Whole clusters are held out, and "
    "the layer is chosen anew inside the training folds",
    "beats words": f"AUROC less that of the best text-only classifier on the same folds; {_PAIRED}",
    "beats random models": f"AUROC less the mean of random-initialised controls treated alike; {_PAIRED}",
    "shuffled labels": "mean AUROC of the same steps on shuffled labels: pass when its interval touches "
    ".45 to .55, else warn; fail when a shuffle reaches the true AUROC",
    "selectivity": "accuracy on true labels less that on random labels of last words, single statements held "
    f"out; {_PAIRED}",
    "transfer": "lowest AUROC from this set to another or back: above .7 with an interval above .5: pass; "
    "interval above .5: warn; else fail",
    "split halves": "mean cosine of the mean differences of two halves of the clusters: .8 or more: pass; .5 "
    "or more: warn; else fail",
    "kinds agree": "lowest rank correlation of held-out scores between mean difference, logistic and LDA: .8 "
    "or more: pass; .5 or more: warn; else fail",
    "calibration": "expected calibration error of Platt's probabilities on held-out clusters: .1 or less: "
    "pass; .2 or less: warn; else fail",
    "nuisance": "largest |cosine| to a nuisance direction: .5 (a quarter of the squared length) or less: "
    "pass; .7 (half of it) or less: warn; else fail",
    "steer": "log-odds of the correct option for one gap added: interval above 0, and the slope above all "
    "random directions' of equal length (p below .05): pass; interval above 0: warn; else fail",
    "ablation": "share of the components' effect that is gone when the projection is held at its mean: "
    "interval above 0 and beyond all random directions: pass from .5 on, below it warn; else fail",
    "beats prompting": "gain in log-odds of the dose that gains most (interval over all doses) less that "
    f"of the instruction in the prompt, over the same items; {_PAIRED}",
    "steering cost": "rise of the perplexity of everyday text at that dose, as a share: upper end at most .1 "
    "and accuracy on settled questions shown to fall by .05 at most (end of its interval): pass; at most .5 "
    "and an estimated loss of .15 at most: warn; else fail",
}
"""Every line of a card and the rule of its verdict."""
CAUSAL = ("steer", "ablation", "beats prompting", "steering cost")
"""Lines about what the direction causes, beside whether it detects."""

_PHRASES = {
    "held-out AUROC": "held-out AUROC {value}",
    "beats words": "AUROC above words alone {value}",
    "beats random models": "AUROC above random models {value}",
    "shuffled labels": "shuffled labels give {value}",
    "selectivity": "selectivity {value}",
    "transfer": "worst transfer {value}",
    "split halves": "halves have cosine {value}",
    "kinds agree": "kinds agree at {value}",
    "calibration": "calibration error {value}",
    "nuisance": "cosine {value} to a nuisance",
    "steer": "one gap added moves the log-odds by {value}",
    "ablation": "held at its mean, a share of {value} of the effect is gone",
    "beats prompting": "steering gains {value} log-odds beside an instruction in the prompt",
    "steering cost": "steering raises perplexity by a share of {value}",
}

COSINES = {"layer": int, "first": str, "second": str, "cosine": float, "within_class": float, "rank": float}
"""Columns of ``cosines`` and their types."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrustCard:
    """The controls that a direction was compared with, beside its own held-out quality.

    Attributes:
        kind: how the direction was fitted.
        layer: the layer with the highest held-out AUROC, at which the lines stand.
        lines: one row per check: ``line, layer, value, low, high, rule, verdict, detail``. The first two
            comparisons and the AUROC itself concern a layer chosen inside the training folds.
        by_layer: ``auroc, low, high`` (pointwise), ``random_auroc`` (mean over random-initialised controls),
            ``shuffled``, ``selectivity``, ``split_half``, ``calibration_error``.
        lexical: ``baseline, auroc, low, high``, best first.
        transfer: AUROC by ``train`` set, ``test`` set and ``layer``; ``own`` is the card's set, and the
            diagonal is held out.
        cosines: ``layer, first, second, cosine, within_class, rank``: the plain cosine; the cosine in the
            metric of the scatter within classes, which is the correlation of scores there; the rank
            correlation of held-out scores. Logistic and LDA directions divide by that scatter, so that two
            kinds may rank statements alike at a low plain cosine.
        training: kind of reading, counts, and prints of the model and the statements.

    Examples:
        >>> card = ml.fit_probe(model, statements, card=True, random_models=0).card
        >>> card.layer, card.lines["line"].tolist()[:3]
        (3, ['held-out AUROC', 'beats words', 'beats random models'])
    """

    kind: str
    layer: int
    lines: pd.DataFrame
    by_layer: xr.Dataset
    lexical: pd.DataFrame
    transfer: xr.DataArray
    cosines: pd.DataFrame
    training: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """The worst verdict of a line that was checked; whether it is a cause is reported separately."""
        detects = ~self.lines["line"].isin(CAUSAL)
        return max(self.lines.loc[detects, "verdict"], key=VERDICTS.index)

    @property
    def causes(self) -> str:
        """Whether the direction detects and steers, and its ablation removes effects; empty if not tried."""
        found = dict(zip(self.lines["line"], self.lines["verdict"], strict=True))
        if not set(CAUSAL) & set(found):
            return ""
        named = {"detects": "held-out AUROC", "steers": "steer", "ablates": "ablation"}
        return ", ".join(f"{said}: {found.get(name, 'not checked')}" for said, name in named.items())

    def with_lines(self, lines: pd.DataFrame) -> "TrustCard":
        """The card with further lines; those of the same name are replaced.

        Raises:
            ValueError: a line that no card has.
        """
        unknown = set(lines["line"]) - set(RULES)
        if unknown:
            raise ValueError(f"a trust card has no line {sorted(unknown)}; it has {', '.join(RULES)}.")
        kept = self.lines[~self.lines["line"].isin(lines["line"])]
        return replace(self, lines=pd.concat([kept, lines[self.lines.columns]], ignore_index=True))

    @property
    def conclusion(self) -> str:
        """The result of the two controls on the same statements: words alone, and untrained models."""
        verdicts = dict(zip(self.lines["line"], self.lines["verdict"], strict=True))
        if "fail" in (verdicts["held-out AUROC"], verdicts["shuffled labels"]):
            return "no direction: held-out statements of the two labels are not distinguished"
        rivals = {"beats words": "words alone", "beats random models": "random-initialised models"}
        equal = [said for name, said in rivals.items() if verdicts[name] in ("warn", "fail")]
        if equal:
            return f"mostly lexical: {' and '.join(equal)} do as well or better"
        untried = verdicts["beats random models"] == "not checked"
        return "more than words" + (
            "; random-initialised models not tried" if untried else " and architecture"
        )

    @property
    def headline(self) -> str:
        """Verdict, conclusion and AUROC in one short line, for a figure."""
        first = self.rows()[0]
        value, ends = short(first["value"]), interval_text(first)
        return f"trust card: {self.verdict}; {self.conclusion}; held-out AUROC {value} {ends}".strip()

    @property
    def sentence(self) -> str:
        """The headline and every line that did not pass."""
        parts = [f"{self.headline}, best at layer {self.layer}"]
        for verdict, name in (("fail", "fails"), ("warn", "warns")):
            rows = [row for row in self.rows() if row["verdict"] == verdict]
            said = [_PHRASES[row["line"]].format(value=short(row["value"])) for row in rows]
            parts += [f"{name}: {', '.join(said)}"] if said else []
        parts += [self.causes] if self.causes else []
        absent = self.lines.loc[self.lines["verdict"] == "not checked", "line"].tolist()
        if absent:
            parts.append(f"not checked: {', '.join(absent)}")
        if "drawn_from" in self.training:
            parts.append(
                f"on {self.training['n']} of {self.training['drawn_from']} statements, drawn by cluster"
            )
        return "; ".join(parts)

    def rows(self) -> list[dict[str, Any]]:
        """The lines as plain values."""
        return [{str(k): v for k, v in row.items()} for row in self.lines.to_dict("records")]

    def to_json(self) -> str:
        """The card as JSON, which :func:`card_from_json` reads back; missing numbers are null."""
        quality = {str(name): array.values.tolist() for name, array in self.by_layer.items()}
        content = {
            "format": 1,
            "kind": self.kind,
            "layer": self.layer,
            "layers": self.by_layer["layer"].values.tolist(),
            "lines": self.lines.to_dict("list"),
            "by_layer": quality,
            "lexical": self.lexical.to_dict("list"),
            "sets": self.transfer["train"].values.tolist(),
            "transfer": self.transfer.values.tolist(),
            "cosines": self.cosines.to_dict("list"),
            "training": dict(self.training),
        }
        return json.dumps(_null(content), ensure_ascii=False, allow_nan=False)

    def __repr__(self) -> str:
        return f"<TrustCard {self.kind}, {self.training['n']} statements: {self.sentence}>"

    def _repr_html_(self) -> str:
        cells = [
            (
                row["verdict"],
                row["line"],
                f"{short(row['value'])} {interval_text(row)}".strip(),
                row["detail"],
                row["rule"],
            )
            for row in self.rows()
        ]
        head = "".join(f"<th>{h}</th>" for h in ("verdict", "check", "value", "detail", "rule"))
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>" for row in cells
        )
        return f"<p>{html.escape(self.sentence)}</p><table><tr>{head}</tr>{body}</table>"


def card_from_json(text: str) -> TrustCard:
    """The card that :meth:`TrustCard.to_json` wrote.

    Raises:
        ValueError: the text is no card.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"this is no trust card: it is not JSON ({error}).") from error
    if not isinstance(content, dict) or content.get("format") != 1 or "cosines" not in content:
        raise ValueError("this is no trust card of this package; make one with trust_card(...).to_json().")
    layer = {"layer": np.array(content["layers"])}
    numbers = {"layer": int, "value": float, "low": float, "high": float}
    cosines = pd.DataFrame(content["cosines"], columns=list(COSINES))
    lines = pd.DataFrame(content["lines"]).astype(numbers)
    return TrustCard(
        kind=content["kind"],
        layer=content["layer"],
        lines=lines.assign(line=lines["line"].replace("silence", "ablation")),  # its earlier name
        by_layer=xr.Dataset(
            {name: ("layer", np.array(values, float)) for name, values in content["by_layer"].items()},
            coords=layer,
        ),
        lexical=pd.DataFrame(content["lexical"]).astype(dict.fromkeys(("auroc", "low", "high"), float)),
        transfer=transfer_array(np.array(content["transfer"], float), content["sets"], content["layers"]),
        cosines=cosines.astype(COSINES),
        training=content["training"],
    )


def transfer_array(values: np.ndarray, sets: Sequence[str], layers: Sequence[int]) -> xr.DataArray:
    """AUROC by training set, test set and layer, labelled."""
    return xr.DataArray(
        values,
        dims=("train", "test", "layer"),
        coords={"train": list(sets), "test": list(sets), "layer": list(layers)},
        name="transfer",
    )


def short(value: float) -> str:
    """Two digits as a card prints them: .93, -.04, 1.00."""
    if not np.isfinite(value):
        return "none"
    text = f"{value:.2f}"
    return text.replace("0.", ".", 1) if abs(value) < 0.995 else text


def interval_text(row: Mapping[str, Any]) -> str:
    """The interval of a line in brackets, or nothing where it has none."""
    return f"[{short(row['low'])}, {short(row['high'])}]" if np.isfinite(row["low"]) else ""


def _null(value: Any) -> Any:
    """Plain JSON values, NaN as null."""
    if isinstance(value, dict):
        return {key: _null(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_null(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
