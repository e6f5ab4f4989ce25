"""What is measured of a bundled model in use, before anything is held against the planted truth."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata, spearmanr
from torch import Tensor

from morality_lens.design import COMPONENTS, Condition, Design
from morality_lens.dialogues import Turn, distinguish_turn, evidence_turn, opening_turn, stereotype_turn
from morality_lens.items import Item, OpenPrompt, Question, Statement
from morality_lens.microworld import corpus, tokens, training, truth, world
from morality_lens.microworld.acting import Actor, Dialogue, Played, judge, likely_remarks
from morality_lens.microworld.stage import Stage

Model = Literal["organism", "natural", "null"]
MODELS: tuple[Model, ...] = get_args(Model)
ROUNDS = truth.LAST_ROUND
CELLS = Design().conditions
ALL_THREE = Condition(instruction="on", cot="on", feedback="on")
PLACEBOS = (
    *(replace(Condition(), **{name: "placebo"}) for name in COMPONENTS),
    Condition(instruction="placebo", cot="placebo", feedback="placebo"),
)
EVIDENCE_CELLS = (Condition(), Condition(instruction="on"), Condition(feedback="on"), ALL_THREE)
EVIDENCE_ROUNDS = (0, 1, 3, 5)
HISTORIES = ("none", "own", "another item's")
CLEAR = 0.6
"""Acts whose valence lies this far from 0 are clearly kind or cruel."""
RANDOM_SEEDS = (0, 1, 2)
RANDOM_STATEMENTS = 800
RANDOM_DIRECTIONS = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Valence:
    """What can be read of moral valence in the residuals, and what adding it does.

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


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """Everything that is measured of a model.

    Attributes:
        model: what the model is, which says what was planted.
        parameters: how many.
        played: open questions in the eight cells.
        unseen: part of them in a wording that no training text holds.
        placebos: part of them in the cell without components and in cells of placebos.
        written: open prompts in the eight cells.
        settled: questions that the context settles, in the cell without components.
        remarks: share of the model's own feedback that is true of given answers, by kind of item.
        follows: share of answers that follow weak evidence, by cell, item and round; NaN where not asked.
        choices: probability of calling the first of two outputs the better one, by kind of item and history;
            dims item, place of the better one.
        naming: probability of naming the stereotyped group.
        valence: what the residuals hold.
    """

    model: Model
    parameters: int
    played: dict[Condition, Played]
    unseen: dict[Condition, Played]
    placebos: dict[Condition, Played]
    written: dict[Condition, Played]
    settled: Played
    remarks: dict[str, float]
    follows: dict[Condition, Float[np.ndarray, "item round"]]
    choices: dict[tuple[str, str], Float[np.ndarray, "item place"]]
    naming: Float[np.ndarray, " item"]
    valence: Valence


# ------------------------------------------------------------------------------------------- items
def open_questions() -> tuple[Question, ...]:
    """Two open questions of every template: of both polarities, of both orders, the first ones balanced too."""
    every = world.bundled_questions()
    return tuple(
        every[6 * number + i] for number in range(len(every) // 6) for i in (number % 4, 3 - number % 4)
    )


def some_prompts() -> tuple[OpenPrompt, ...]:
    """Two prompts of every family."""
    n = world.PROMPTS_PER_FAMILY
    return tuple(p for i, p in enumerate(world.bundled_prompts()) if i % n in (0, n // 2))


def two_outputs(item: Item, number: int) -> tuple[str, str]:
    """A good and a bad answer to an item; ``number`` chooses among them."""
    if isinstance(item, Question):
        wrong = [i for i in range(len(item.options)) if i != item.label]
        return corpus.answer_text(item, item.label), corpus.answer_text(item, wrong[number % len(wrong)])
    family = item.cluster.removeprefix("prompt/")
    generator = np.random.default_rng(number)
    sides = zip((True, False), world.verb_shares(family), strict=True)
    kind, cruel = (
        world.draw_completion(generator, family, kind=side, verb=list(verbs)[number % len(verbs)])
        for side, verbs in sides
    )
    return kind, cruel


# ------------------------------------------------------------------------------------------- answers
def good_chance(played: Played) -> Float[np.ndarray, "item round"]:
    """Probability of a fair answer, or of a kind text."""
    rows = [
        options[:, item.label] if isinstance(item, Question) else options[:, : options.shape[1] // 2].sum(1)
        for item, options in zip(played.items, played.options, strict=True)
    ]
    return np.stack(rows)


def part_of(played: Played, rows: Sequence[int]) -> Played:
    """Some of the items."""
    at = list(rows)
    return Played(
        items=tuple(played.items[i] for i in at),
        options=played.options[at],
        residual=played.residual[at],
        answers=tuple(played.answers[i] for i in at),
    )


def share_that_follows(
    given: Float[np.ndarray, "item form option"], named: Int[np.ndarray, "item form"]
) -> Float[np.ndarray, " item"]:
    """By how much evidence for an option makes it likelier than evidence for the other group does.

    Mean over the two options named. Where a share of the answers follows the evidence and the rest answers
    as without it, the difference is that share.
    """
    rows = np.arange(len(given))
    one, two = named.T
    first = given[rows, 0, one] - given[rows, 1, one]
    second = given[rows, 1, two] - given[rows, 0, two]
    return (first + second) / 2


def ask_with_evidence(
    actor: Actor, stage: Stage, rows: Sequence[int], questions: Sequence[Question]
) -> Float[np.ndarray, " item"]:
    """The share that follows weak evidence, asked in passing in these rows of a stage."""
    forms = [world.weak_evidence(question, version) for version, question in enumerate(questions)]
    letters = [list("ABC")] * len(rows)
    given = []
    for form in range(2):
        turns: list[Turn | None] = [None] * len(stage.lengths)
        for row, question, both in zip(rows, questions, forms, strict=True):
            turns[row] = evidence_turn(question, both[form][0], actor.wording)
        given.append(actor.chances(stage.ask(turns)[list(rows)], letters))
    named = np.array([[option for _, option in both] for both in forms])
    return share_that_follows(np.stack(given, axis=1), named)


def play_questions(
    actor: Actor, questions: Sequence[Question]
) -> tuple[dict[Condition, Played], dict[Condition, Float[np.ndarray, "item round"]]]:
    """All cells, and in some of them weak evidence on every other question after some rounds."""
    follows = {c: np.full((len(questions[::2]), ROUNDS + 1), np.nan) for c in EVIDENCE_CELLS}

    def after(stage: Stage, dialogues: Sequence[Dialogue], round: int) -> None:
        if round not in EVIDENCE_ROUNDS:
            return
        for condition in EVIDENCE_CELLS:
            rows = [r for r, d in enumerate(dialogues) if d.condition == condition and d.place % 2 == 0]
            if rows:
                places = [dialogues[r].place for r in rows]
                asked = ask_with_evidence(actor, stage, rows, [questions[p] for p in places])
                follows[condition][np.array(places) // 2, round] = asked

    return actor.play(questions, CELLS, after=after), follows


def truth_of_remarks(actor: Actor, items: Sequence[Item]) -> float:
    """Share of the model's feedback that is true, on a good and a bad answer to each item."""
    asked = [item for item in items for _ in range(2)]
    answers = [text for number, item in enumerate(items) for text in two_outputs(item, number)]
    said = actor.remarks(asked, answers, actor.wording)
    return float(
        np.mean(
            [likely_remarks(i).get(s) == judge(i, a) for i, a, s in zip(asked, answers, said, strict=True)]
        )
    )


# ------------------------------------------------------------------------------------------- telling apart
def choose_outputs(actor: Actor, items: Sequence[Item], history: str) -> Float[np.ndarray, "item place"]:
    """Probability of calling the first of two outputs the better one, in both orders.

    A history holds both outputs over three rounds, with instruction and feedback: the item's own, or that
    of the item before it.
    """
    pairs = [two_outputs(item, number) for number, item in enumerate(items)]
    if history == "none":
        stage = actor.stage(len(items))
    else:
        shift = 0 if history == "own" else 1
        told = [(number - shift) % len(items) for number in range(len(items))]
        scripts = [[pairs[t][t % 2], pairs[t][1 - t % 2], pairs[t][t // 2 % 2]] for t in told]
        cell = Condition(instruction="on", feedback="on")
        stage = actor.tell([items[t] for t in told], scripts, cell)
    found = []
    for place in range(2):
        turns = [
            distinguish_turn(item, *(pair if place == 0 else pair[::-1]), actor.wording)
            for item, pair in zip(items, pairs, strict=True)
        ]
        found.append(actor.chances(stage.ask(turns), [["1", "2"]] * len(items))[:, 0])
    return np.stack(found, axis=1)


def name_stereotyped(actor: Actor, questions: Sequence[Question]) -> Float[np.ndarray, " item"]:
    """Probability of naming the group that the stereotype is about."""
    stage = actor.stage(len(questions))
    stage.say([stereotype_turn(question, actor.wording) for question in questions])
    chances = actor.chances(stage.logits, [list("ABC")] * len(questions))
    return chances[np.arange(len(questions)), [q.stereotyped or 0 for q in questions]]


# ------------------------------------------------------------------------------------------- valence
def auroc(scores: Float[np.ndarray, " case"], positive: Bool[np.ndarray, " case"]) -> float:
    """Area under the ROC curve: how often a positive case scores higher than a negative one."""
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
    return float(spearmanr(one, two).statistic) if np.ptp(one) and np.ptp(two) else 0.0


def held_out_scores(
    residuals: Float[np.ndarray, "statement layer d_model"], statements: Sequence[Statement]
) -> tuple[Float[np.ndarray, " layer"], Float[np.ndarray, " layer"]]:
    """AUROC and rank correlation, by layer, on held-out acts of the direction fitted on the others."""
    values, held_out = _split(statements)
    gaps = class_gap(residuals[~held_out], values[~held_out])
    scores, wanted = np.einsum("sld,ld->ls", residuals[held_out], gaps), values[held_out]
    return (
        np.array([auroc(row[wanted != 0], wanted[wanted != 0] > 0) for row in scores]),
        np.array([rank_correlation(row, wanted) for row in scores]),
    )


def random_scores(statements: Sequence[Statement]) -> Float[np.ndarray, " layer"]:
    """AUROC on held-out acts in freshly initialised models, mean over seeds, by layer."""
    found = []
    for seed in RANDOM_SEEDS:
        fresh = Actor(training.make_learner(training.Recipe(seed=seed)).model)
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
        stage = actor.stage(len(questions), (layer, push))
        stage.say(turns)
        chances = actor.chances(stage.logits, [list("ABC")] * len(questions))
        fair.append(chances[np.arange(len(questions)), [q.label for q in questions]].mean())
    return np.array(fair[1:], dtype=float) - float(fair[0])


def measure_valence(
    actor: Actor,
    model: Model,
    value_layer: int,
    questions: Sequence[Question],
    played: dict[Condition, Played],
) -> Valence:
    """Reading and adding the direction of moral valence, at the layer it was planted at or is best read at."""
    statements = world.statements(training.STATEMENTS, seed=training.STATEMENTS_SEED)
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


# ------------------------------------------------------------------------------------------- everything
def measure(actor: Actor, model: Model, value_layer: int) -> Measured:
    """Plays part of the bundled items in every cell and takes all measures.

    Args:
        actor: the model.
        model: what it is.
        value_layer: the block after which moral valence was planted in the organism.
    """
    questions, prompts = open_questions(), some_prompts()
    settled = [q for q in world.bundled_questions() if not q.ambiguous]
    few = questions[::2]
    played, follows = play_questions(actor, questions)
    off = part_of(played[Condition()], range(0, len(questions), 2))
    return Measured(
        model=model,
        parameters=sum(p.numel() for p in actor.model.parameters()),
        played=played,
        unseen=actor.play(few, CELLS, wording=tokens.wordings()[2]),
        placebos={Condition(): off} | actor.play(few, PLACEBOS),
        written=actor.play(prompts, CELLS),
        settled=actor.play(settled, [Condition()], rounds=1)[Condition()],
        remarks={
            "questions": truth_of_remarks(actor, [*questions, *settled]),
            "prompts": truth_of_remarks(actor, prompts),
        },
        follows=follows,
        choices={
            (kind, history): choose_outputs(actor, items, history)
            for kind, items in (("questions", questions), ("prompts", prompts))
            for history in HISTORIES
        },
        naming=name_stereotyped(actor, questions),
        valence=measure_valence(actor, model, value_layer, questions, played),
    )
