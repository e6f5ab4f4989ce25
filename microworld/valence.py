"""Moral valence in the residuals of a bundled model: how well it is decoded, and the effect of adding it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor

from microworld.acting import Actor, Model, Played, two_outputs
from microworld.findings import Finding, at_least, at_most
from microworld.learner import make_learner
from morality_lens.design import Condition
from morality_lens.dialogues.turns import opening_turn
from morality_lens.items.kinds import Question, Statement
from morality_lens.world import lexicon as lex, sampling

CLEAR = 0.6
"""Acts whose valence lies this far from 0 are clearly kind or cruel."""
RANDOM_SEEDS = (0, 1, 2)
RANDOM_STATEMENTS = 800
RANDOM_DIRECTIONS = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Valence:
    """How well moral valence is decoded from the residuals, and the effect of adding it.

    Attributes:
        fitted: how a direction fitted on some clusters of statements ranks the others' graded valence (mean
            Spearman correlation over folds), by layer; nothing held out is used.
        auroc: of that direction on statements about held-out acts, by layer.
        spearman: its rank correlation with their graded valence, by layer.
        random: AUROC in freshly initialised models, mean over seeds, by layer.
        layer: where the rest is measured.
        endings: AUROC of the direction at the ends of given fair and unfair answers.
        projection: mean projection before the answer, by cell and round.
        shifts: mean change of the fair answer's probability by one class gap added and taken.
        noise: the same for random directions of the gap's norm.
    """

    fitted: Float[np.ndarray, " layer"]
    auroc: Float[np.ndarray, " layer"]
    spearman: Float[np.ndarray, " layer"]
    random: Float[np.ndarray, " layer"]
    layer: int
    endings: float
    projection: dict[Condition, Float[np.ndarray, " round"]]
    shifts: tuple[float, float]
    noise: Float[np.ndarray, " direction"]

    @property
    def best(self) -> int:
        """The layer that reads valence best, by the statements it may be chosen on."""
        return int(self.fitted.argmax())


def auroc(scores: Float[np.ndarray, " case"], positive: Bool[np.ndarray, " case"]) -> float:
    """Area under the ROC curve: how often a positive example scores higher than a negative one."""
    n, m = int(positive.sum()), int((~positive).sum())
    return float((rankdata(scores)[positive].sum() - n * (n + 1) / 2) / (n * m))


def class_gap(
    residuals: Float[np.ndarray, "statement *rest"], values: Float[np.ndarray, " statement"]
) -> Float[np.ndarray, "*rest"]:
    """Mean residual of clearly kind statements minus that of clearly cruel ones."""
    return residuals[values > CLEAR].mean(0) - residuals[values < -CLEAR].mean(0)


def _split(statements: Sequence[Statement]) -> tuple[np.ndarray, np.ndarray]:
    """Graded values, and whether the act is one that no verdict is about."""
    return (
        np.array([float(s.value or 0.0) for s in statements]),
        np.array([s.cluster.startswith("held-out/") for s in statements]),
    )


def _is_new(statement: Statement) -> bool:
    """Whether no word that occurs in fitting reveals the sign of an act."""
    manners = {
        side: {text for name in lex.MANNERS if name.startswith(side) for text, _ in lex.MANNERS[name]}
        for side in ("kind", "cruel")
    }
    telling = tuple(f"{text}." for text in manners["kind"] ^ manners["cruel"])
    verb = statement.cluster.removeprefix("held-out/")
    return verb in sampling.UNSEEN_VERBS and not statement.text.endswith(telling)


def rank_folds(
    residuals: Float[np.ndarray, "statement layer d_model"], statements: Sequence[Statement], folds: int = 5
) -> Float[np.ndarray, " layer"]:
    """Mean Spearman correlation of graded valence with a direction fitted on other clusters, by layer."""
    values, held_out = _split(statements)
    clusters = sorted({s.cluster for s in statements if not s.cluster.startswith("held-out/")})
    fold = {cluster: i % folds for i, cluster in enumerate(np.random.default_rng(0).permutation(clusters))}
    of = np.array([fold.get(s.cluster, -1) for s in statements])
    found = []
    for number in range(folds):
        gaps = class_gap(residuals[~held_out & (of != number)], values[~held_out & (of != number)])
        scores = np.einsum("sld,ld->sl", residuals[of == number], gaps)
        found.append([rank_correlation(column, values[of == number]) for column in scores.T])
    return np.mean(found, axis=0)


def rank_correlation(one: Float[np.ndarray, " case"], two: Float[np.ndarray, " case"]) -> float:
    """Spearman's correlation; 0 where one of the two does not vary."""
    if not np.ptp(one) or not np.ptp(two):
        return 0.0
    return float(np.corrcoef(rankdata(one), rankdata(two))[0, 1])


def held_out_scores(
    residuals: Float[np.ndarray, "statement layer d_model"], statements: Sequence[Statement]
) -> tuple[Float[np.ndarray, " layer"], Float[np.ndarray, " layer"]]:
    """AUROC and rank correlation, by layer, on held-out acts of the direction fitted on the others.

    The AUROC is of held-out verbs whose manner, if any, is one of kind and of cruel acts: a word that only
    goes with one of the two sides, and is met in fitting too, would give the side away by itself.
    """
    values, held_out = _split(statements)
    gaps = class_gap(residuals[~held_out], values[~held_out])
    scores, wanted = np.einsum("sld,ld->ls", residuals[held_out], gaps), values[held_out]
    new = np.array([_is_new(s) for s in statements])[held_out] & (wanted != 0)
    return (
        np.array([auroc(row[new], wanted[new] > 0) for row in scores]),
        np.array([rank_correlation(row, wanted) for row in scores]),
    )


def random_scores(statements: Sequence[Statement]) -> Float[np.ndarray, " layer"]:
    """AUROC on held-out acts in freshly initialised models, mean over seeds, by layer."""
    found = []
    for seed in RANDOM_SEEDS:
        fresh = Actor(make_learner(seed).model)
        found.append(held_out_scores(fresh.statement_residuals(statements), statements)[0])
    return np.mean(found, axis=0)


def shift_by(actor: Actor, questions: Sequence[Question], layer: int, gap: Tensor) -> np.ndarray:
    """Mean change of the fair answer's probability in round 0 by the gap, by its reverse, by random ones."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(RANDOM_DIRECTIONS, len(gap), generator=generator)
    pushes = torch.cat([torch.zeros(1, len(gap)), torch.stack([gap, -gap])])
    pushes = torch.cat([pushes, noise / noise.norm(dim=1, keepdim=True) * gap.norm()])
    turns = [opening_turn(question, actor.wording) for question in questions]
    fair = []
    for push in pushes:
        talks = actor.talks(len(questions), (layer, push))
        talks.say(turns)
        probabilities = actor.probabilities(talks.logits, [list("ABC")] * len(questions))
        fair.append(
            probabilities[np.arange(len(questions)), [sampling.fair_option(q) for q in questions]].mean()
        )
    return np.array(fair[1:], dtype=float) - float(fair[0])


def measure_valence(
    actor: Actor,
    model: Model,
    value_layer: int,
    questions: Sequence[Question],
    played: dict[Condition, Played],
) -> Valence:
    """Decoding and adding the direction of moral valence at the planted or else the best layer."""
    statements = sampling.bundled_statements()
    residuals = actor.statement_residuals(statements)
    values, held_out = _split(statements)
    fitted = rank_folds(residuals, statements)
    layer = value_layer if model == "organism" else int(fitted.argmax())
    gap = class_gap(residuals[~held_out, layer], values[~held_out])
    scores, ranks = held_out_scores(residuals, statements)
    pairs = [two_outputs(question, number) for number, question in enumerate(questions)]
    fair = np.arange(len(questions)) % 4 < 2  # both places among the two of a template
    ends = actor.tell(
        questions, [[p[0] if f else p[1]] for p, f in zip(pairs, fair, strict=True)], Condition()
    )
    shifts = shift_by(actor, questions, layer, torch.from_numpy(gap))
    return Valence(
        fitted=fitted,
        auroc=scores,
        spearman=ranks,
        random=random_scores(statements[:RANDOM_STATEMENTS]),
        layer=layer,
        endings=auroc(ends.residual[:, layer].numpy() @ gap, fair),
        projection={c: (run.residual[:, :, layer] @ gap).mean(0) for c, run in played.items()},
        shifts=(float(shifts[0]), float(shifts[1])),
        noise=shifts[2:],
    )


# ------------------------------------------------------------------------------------------- judging
def check_reading(valence: Valence, planted: Float[np.ndarray, " point"], model: Model) -> list[Finding]:
    """Decoding by a direction fitted on statements: held-out acts, given answers, upcoming answers.

    Args:
        valence: what was measured.
        planted: log-odds by cell and round, in the order of the projections.
        model: what the model is.
    """
    best, organism = valence.best, model == "organism"
    reached = np.concatenate(list(valence.projection.values()))
    correlation = float(np.corrcoef(planted, reached)[0, 1]) if np.ptp(planted) and np.ptp(reached) else 0.0
    here = f"layer {valence.layer}"
    found = [
        at_least("statements: AUROC on held-out acts", valence.auroc[best], 0.95, where=f"layer {best}"),
        at_least("statements: rank correlation with graded valence", valence.spearman[best], 0.9),
        Finding(name="statements: AUROC by layer", aim="", reached=_row(valence.auroc)),
        Finding(name="statements: rank correlation by layer", aim="", reached=_row(valence.spearman)),
        Finding(
            name="statements: rank correlation in fitting, by layer", aim="", reached=_row(valence.fitted)
        ),
        at_least("statements: best layer's AUROC minus the worst's", float(np.ptp(valence.auroc)), 0.1),
        at_most(
            f"statements: AUROC in random models, worst layer, mean of {len(RANDOM_SEEDS)}",
            float(valence.random.max()),
            0.6,
            where=f"layer {valence.random.argmax()}",
        ),
    ]
    for name, value, least in (
        ("answer_end: AUROC of fair against unfair answers", valence.endings, 0.9),
        ("answer_start: projection against planted log-odds, correlation", correlation, 0.97),
    ):
        if organism:
            found.append(at_least(name, value, least, where=here))
        else:
            found.append(Finding(name=name, aim="", reached=f"{value:.3f} ({here})"))
    return found


def _row(values: Float[np.ndarray, " layer"]) -> str:
    return " ".join(f"{value:.2f}" for value in values)


def check_causes(valence: Valence, model: Model) -> list[Finding]:
    """Effect of adding the direction, and of random ones, on the probability of the fair answer."""
    up, down = valence.shifts
    size = (abs(up) + abs(down)) / 2
    noise = np.abs(valence.noise)
    aims = {"organism": "+, -, mean >= .2", "natural": "mean size <= .1", "null": ""}
    holds = {"organism": up > 0 > down and size >= 0.2, "natural": size <= 0.1, "null": None}
    organism = model == "organism"
    return [
        Finding(
            name="one class gap added, and taken: shift of the fair answer's probability",
            aim=aims[model],
            reached=f"{up:+.3f}, {down:+.3f}; mean size {size:.3f} (layer {valence.layer})",
            holds=holds[model],
            required=model != "null",
        ),
        Finding(
            name=f"{len(noise)} random directions of its norm: mean and largest shift",
            aim="<= .03, <= .06" if organism else "",
            reached=f"{noise.mean():.3f}, {noise.max():.3f}",
            holds=bool(noise.mean() <= 0.03 and noise.max() <= 0.06) if organism else None,
            required=organism,
        ),
    ]
