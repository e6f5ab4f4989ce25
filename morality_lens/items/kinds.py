"""Questions, ratings, open prompts and labelled statements: what they hold, ask for and are stored as.

A kind of item is a value: it says which words of the wording it is asked in (``task``), how it is put to the
model (``format_prompt``), which signs a reply may begin with (``replies``), what a reply chose (``read``) and
what can be measured of it (``measures``). Whatever plays, stores and analyses asks no more than that.
"""

import hashlib
import json
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from morality_lens.items.choices import names_option, names_rating, parse_choice, parse_rating
from morality_lens.items.files import data_files, read_jsonl, refuse_duplicates, spread, write_text

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SCORINGS = {"sum": "", "per_byte": " per byte", "per_token": " per token", "pmi": " PMI"}
"""How the full text of an option is scored, and how measures by it are called: the sum of the tokens'
log-probabilities, the same over the text's bytes or tokens, or less its sum after a neutral prompt."""


@dataclass(frozen=True, kw_only=True)
class BehaviourMeasure:
    """A number that an answer gives: a weight for each reply, summed over what was replied.

    Attributes:
        name: as :func:`morality_lens.judges.behaviour_cube` takes it.
        source: ``answer`` (the weight of the reply that was read from the text), ``probabilities`` (the sum
            of the weights times the exact probabilities of the replies), ``texts`` (the same with the
            softmax over the scores of the options' full texts), ``text scores`` (the sum of the weights
            times these scores) or ``judge`` (its score of the text).
        weights: of each reply.
        unreadable: what an answer counts as from which no reply could be read; None leaves it out.
        title: what the number is, for axes and tables.
        units: of the number.
        oriented: whether more is better.
        scoring: how options' texts are scored, one of :data:`SCORINGS`; empty for other sources.
    """

    name: str
    source: Literal["answer", "probabilities", "texts", "text scores", "judge"]
    weights: tuple[float, ...] = ()
    unreadable: float | None = 0.0
    title: str
    units: str
    oriented: bool = False
    scoring: str = ""

    @property
    def binary(self) -> bool:
        """Whether it is 0 or 1 for each answer, so that cell means have log-odds."""
        return self.source == "answer" and set(self.weights) <= {0.0, 1.0}


@dataclass(frozen=True, kw_only=True)
class Question:
    """A multiple-choice question: of BBQ (Parrish et al. 2022, arXiv 2110.08193), or without "unknown".

    Where a good option is named (``label``) its share and probability are measured; where none is, as in
    dilemmas, those of each option. BBQ's bias scores and weak evidence need ``unknown``.

    Attributes:
        id: unique over all files of a run.
        cluster: the template (items of one template are not independent).
        context: the text before the question.
        question: the question itself.
        options: the answers to choose from.
        unknown: index of the option that says the answer cannot be known, or None where there is none.
        label: index of the good option (in BBQ the correct one: the unknown one in ambiguous contexts), or
            None where no option is better than the others.
        biased: index of the option that expresses the bias, or None where that is not known.
        stereotyped: index of the option that names the stereotyped group, or None.
        polarity: ``neg`` or ``nonneg``.
        ambiguous: whether the context leaves the answer open.
        category: for example ``Religion``.
        order: where the options were permuted, the index that each had before; None where they were not.

    Examples:
        >>> question = ml.Question(
        ...     id="q1",
        ...     cluster="market",
        ...     context="Two people met at the market.",
        ...     question="Who was late?",
        ...     options=("The baker", "The smith", "Not known"),
        ...     unknown=2,
        ...     label=2,
        ... )
        >>> question.options[question.label]
        'Not known'
    """

    id: str
    cluster: str
    context: str
    question: str
    options: tuple[str, ...]
    unknown: int | None = None
    label: int | None = None
    biased: int | None = None
    stereotyped: int | None = None
    polarity: Literal["neg", "nonneg"] = "neg"
    ambiguous: bool = True
    category: str = ""
    order: tuple[int, ...] | None = None
    task: ClassVar[str] = "choice"

    def __post_init__(self) -> None:
        _refuse_blank(self, "id", "cluster", "question")
        if len(self.options) < 2 or not all(option.strip() for option in self.options):
            raise ValueError(f"a question needs two or more options with text; got {self.options}.")
        for name in ("unknown", "label", "biased", "stereotyped"):
            index = getattr(self, name)
            if index is not None and not 0 <= index < len(self.options):
                raise ValueError(f"{name} must be an index from 0 to {len(self.options) - 1}; got {index}.")
        if self.unknown is not None and self.unknown in (self.biased, self.stereotyped):
            raise ValueError(f"option {self.unknown} is the unknown one: it is neither biased nor a group.")
        if self.order is not None and sorted(self.order) != list(range(len(self.options))):
            raise ValueError(
                f"order holds the index that each of the {len(self.options)} options had before, each index "
                f"from 0 on once; got {self.order}."
            )

    @property
    def replies(self) -> tuple[str, ...]:
        """The letters of the options."""
        if len(self.options) > len(LETTERS):
            raise ValueError(
                f"item {self.id!r} has {len(self.options)} options; at most {len(LETTERS)} can be lettered."
            )
        return tuple(LETTERS[: len(self.options)])

    @property
    def good(self) -> int | None:
        """Index of the reply that is better than the others; None where none is."""
        return self.label

    @property
    def measures(self) -> tuple[BehaviourMeasure, ...]:
        """Share and probability of the good option; where none is named, of each option."""
        if self.label is not None:
            one = _one_hot(self.label, len(self.options))
            return (
                BehaviourMeasure(
                    name="correct",
                    source="answer",
                    weights=one,
                    title="share correct",
                    units="share",
                    oriented=True,
                ),
                BehaviourMeasure(
                    name="probability",
                    source="probabilities",
                    weights=one,
                    title="probability of the right option",
                    units="probability",
                    oriented=True,
                ),
            )
        sources: tuple[tuple[Literal["answer", "probabilities"], str], ...] = (
            ("answer", "share"),
            ("probabilities", "probability"),
        )
        return tuple(
            BehaviourMeasure(
                name=f"{word} of option {letter}",
                source=source,
                weights=_one_hot(index, len(self.options)),
                title=f"{word} of option {letter}",
                units=word,
            )
            for source, word in sources
            for index, letter in enumerate(self.replies)
        )

    @property
    def text_measures(self) -> tuple[BehaviourMeasure, ...]:
        """What the scores of the options' full texts give, once a run's options are scored by them.

        The share of the good option's text in the softmax over all options' scores, and its score less the
        mean of the others'; where no option is the good one, the share of each option's text.
        """
        size = len(self.options)
        found = []
        for scoring, suffix in SCORINGS.items():
            found += [
                BehaviourMeasure(
                    name=f"option text{suffix}{of}",
                    source="texts",
                    weights=_one_hot(index, size),
                    title=f"share of {which} text{suffix}",
                    units="share",
                    oriented=self.label is not None,
                    scoring=scoring,
                )
                for index, of, which in self._shown
            ]
            if self.label is not None:
                one = _one_hot(self.label, size)
                found.append(
                    BehaviourMeasure(
                        name=f"option text{suffix} log-odds",
                        source="text scores",
                        weights=tuple(w - (1 - w) / (size - 1) for w in one),
                        title=f"score of the right option's text{suffix} less the others'",
                        units="log-odds" if scoring == "sum" else "nats",
                        oriented=True,
                        scoring=scoring,
                    )
                )
        return tuple(found)

    @property
    def _shown(self) -> list[tuple[int, str, str]]:
        """The options that have measures: index, what follows the measure's name, and the option in words."""
        if self.label is not None:
            return [(self.label, "", "the right option's")]
        return [(i, f" of option {letter}", f"option {letter}'s") for i, letter in enumerate(self.replies)]

    def format_prompt(self, template: str) -> str:
        """Context, question and lettered options, in the wording's template with its ``{text}``."""
        options = (f"{letter}. {option}" for letter, option in zip(self.replies, self.options, strict=True))
        text = "\n".join([self.context.strip(), self.question.strip(), *options]).strip()
        return template.format(text=text)

    def read(self, text: str) -> int | None:
        """Index of the option that a reply chose; None where it cannot be read."""
        return parse_choice(text, self.options)

    def role(self, choice: int | None) -> str | None:
        """``unknown``, ``biased`` or ``other``; None without a choice or a known biased option."""
        if choice is None:
            return None
        if choice == self.unknown:
            return "unknown"
        if self.biased is None:
            return None
        return "biased" if choice == self.biased else "other"

    def named_in(self, text: str) -> bool:
        """Whether a text names any of the options, by its letter or by its words."""
        return names_option(text, self.options)


@dataclass(frozen=True, kw_only=True)
class Rating:
    """A question that is answered with a digit of a scale; no digit is the right one.

    Attributes:
        id: unique over all files of a run.
        cluster: the template or scenario (items of one are not independent).
        context: the text before the question.
        question: the question itself.
        low: the lowest digit.
        high: the highest digit, at most 9: a reply is one digit.
        low_label: what the lowest digit means.
        high_label: what the highest digit means.
        category: for example ``Harm``.

    Examples:
        >>> rating = ml.items.Rating(
        ...     id="r1",
        ...     cluster="market",
        ...     context="A baker kept a found purse.",
        ...     question="How wrong is this?",
        ...     low_label="not at all",
        ...     high_label="very",
        ... )
        >>> rating.low, rating.high
        (1, 7)
    """

    id: str
    cluster: str
    context: str
    question: str
    low: int = 1
    high: int = 7
    low_label: str
    high_label: str
    category: str = ""
    task: ClassVar[str] = "rating"
    good: ClassVar[int | None] = None
    text_measures: ClassVar[tuple[BehaviourMeasure, ...]] = ()

    def __post_init__(self) -> None:
        _refuse_blank(self, "id", "cluster", "question", "low_label", "high_label")
        if not 0 <= self.low < self.high <= 9:
            raise ValueError(
                f"a rating's scale runs from a digit to a higher one, within 0 to 9; got {self.low} to "
                f"{self.high}."
            )

    @property
    def replies(self) -> tuple[str, ...]:
        """The digits of the scale."""
        return tuple(str(digit) for digit in range(self.low, self.high + 1))

    @property
    def measures(self) -> tuple[BehaviourMeasure, ...]:
        """The expected value from the digits' probabilities, and the digit that was written."""
        digits = tuple(float(digit) for digit in range(self.low, self.high + 1))
        scale = f"{self.low} to {self.high}"
        return (
            BehaviourMeasure(
                name="rating",
                source="probabilities",
                weights=digits,
                title=f"expected rating ({scale})",
                units="points of the scale",
            ),
            BehaviourMeasure(
                name="stated rating",
                source="answer",
                weights=digits,
                unreadable=None,
                title=f"stated rating ({scale})",
                units="points of the scale",
            ),
        )

    def format_prompt(self, template: str) -> str:
        """Context, question and the two ends of the scale, in the wording's template with its ``{text}``."""
        ends = (f"{self.low} = {self.low_label.strip()}", f"{self.high} = {self.high_label.strip()}")
        return template.format(text="\n".join([self.context.strip(), self.question.strip(), *ends]).strip())

    def read(self, text: str) -> int | None:
        """Index of the digit that a reply gave; None where it cannot be read."""
        digit = parse_rating(text, low=self.low, high=self.high)
        return None if digit is None else digit - self.low

    def role(self, choice: int | None) -> None:
        """None: roles are those of a question's options."""

    def named_in(self, text: str) -> bool:
        """Whether a text names a digit of the scale."""
        return names_rating(text, low=self.low, high=self.high)


@dataclass(frozen=True, kw_only=True)
class OpenPrompt:
    """The beginning of a text that a model continues.

    Attributes:
        id: unique over all files of a run.
        cluster: the family the prompt was drawn from; its own id where prompts are independent.
        text: what the model is to continue.
        toxicity: the prompt's own toxicity in [0, 1], or None.
        category: for example ``challenging``.

    Examples:
        >>> prompt = ml.OpenPrompt(id="p1", cluster="p1", text="The baker looked up and")
        >>> prompt.text
        'The baker looked up and'
    """

    id: str
    cluster: str
    text: str
    toxicity: float | None = None
    category: str = ""
    task: ClassVar[str] = "continuation"
    replies: ClassVar[tuple[str, ...]] = ()
    good: ClassVar[int | None] = None
    text_measures: ClassVar[tuple[BehaviourMeasure, ...]] = ()
    measures: ClassVar[tuple[BehaviourMeasure, ...]] = (
        # A score may run either way (toxicity: more is worse), so it is not oriented.
        BehaviourMeasure(name="score", source="judge", title="judge's score", units="share"),
    )

    def __post_init__(self) -> None:
        _refuse_blank(self, "id", "cluster", "text")
        if self.toxicity is not None and not 0 <= self.toxicity <= 1:
            raise ValueError(f"toxicity must lie in [0, 1]; got {self.toxicity}.")

    def format_prompt(self, template: str) -> str:
        """The text in the wording's template with its ``{text}``."""
        return template.format(text=self.text.strip())

    def read(self, text: str) -> None:
        """None: free text chooses nothing; a judge scores it."""

    def role(self, choice: int | None) -> None:
        """None: roles are those of a question's options."""

    def named_in(self, text: str) -> bool:
        """False: there is no option to name."""
        return False


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A labelled statement that a probe is trained on.

    Attributes:
        id: unique over the set.
        cluster: the family (statements of one family are held out together).
        text: the statement.
        label: 1 for moral (kind, fair, neutral in tone), 0 for immoral (cruel, unfair, toxic).
        value: graded valence where the source has one (+ is more moral), else None.

    Examples:
        >>> kind = ml.Statement(id="s1", cluster="help", text="She carried the bag for him.", label=1)
        >>> kind.label
        1
    """

    id: str
    cluster: str
    text: str
    label: int
    value: float | None = None

    def __post_init__(self) -> None:
        _refuse_blank(self, "id", "cluster", "text")
        if self.label not in (0, 1):
            raise ValueError(f"label must be 1 (moral) or 0 (immoral); got {self.label}.")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"value must be a finite number; got {self.value}.")


Item = Question | Rating | OpenPrompt
AnyItem = Item | Statement
KINDS: dict[str, type[AnyItem]] = {
    "question": Question,
    "rating": Rating,
    "prompt": OpenPrompt,
    "statement": Statement,
}
"""What a stored row's ``kind`` says."""
DECLARED: dict[type[AnyItem], tuple[str, ...]] = {Question: ("unknown", "label")}
"""Keys that a row must hold although null is a value of them: what is forgotten is not taken for none."""


def refuse_unplayable(items: Sequence[Item], *, oracle: bool = False, judged: bool = False) -> None:
    """Refuses items that cannot be played in one run; known before a model is loaded.

    Args:
        items: one or more.
        oracle: whether feedback comes from a reader who knows which reply is right.
        judged: whether there is a judge of texts.

    Raises:
        ValueError: items of several kinds or with different outcomes, or an oracle that cannot know.
    """
    first = items[0]
    kinds = list(dict.fromkeys(type(item).__name__ for item in items))
    if len(kinds) > 1:
        raise ValueError(
            f"items of different kinds need a run each; got both {' and '.join(kinds)}. Split them by kind."
        )
    outcomes = {outcome_of(item): item.id for item in items}
    if len(outcomes) > 1:
        listed = "; ".join(
            f"item {name!r} has {' and '.join(names)}" for (names, _), name in outcomes.items()
        )
        raise ValueError(
            "items of a run need one outcome: questions all with a good option or all without (then as many "
            f"options each), ratings all on one scale. Here {listed}. Split them into a run each."
        )
    if oracle and first.replies and first.good is None:
        raise ValueError(
            "oracle feedback comes from a reader who knows the right answer, and these items name none "
            f"(for example {first.id!r}); take another source of feedback, such as self."
        )
    if oracle and not first.replies and not judged:
        raise ValueError("oracle feedback on open prompts needs a judge of toxicity: give one as judge.")


def outcome_of(item: Item) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the items of a run must agree in: the names of their measures, and the scale of a rating."""
    scale = item.replies if isinstance(item, Rating) else ()
    return tuple(measure.name for measure in item.measures), scale


def forced_choice(question: Question) -> Question:
    """The question without its unknown option; the good option is None where the unknown one was.

    Raises:
        ValueError: no unknown option, or fewer than two others.

    Examples:
        >>> question = items[0]
        >>> len(question.options), len(ml.items.forced_choice(question).options)
        (3, 2)
    """
    if question.unknown is None:
        raise ValueError(f"question {question.id!r} has no unknown option to leave out.")
    gone = question.unknown

    def moved(index: int | None) -> int | None:
        return None if index is None or index == gone else index - (index > gone)

    return replace(
        question,
        order=None if question.order is None else _without(question.order, gone),
        options=tuple(option for i, option in enumerate(question.options) if i != gone),
        unknown=None,
        label=moved(question.label),
        biased=moved(question.biased),
        stereotyped=moved(question.stereotyped),
    )


def _without(order: tuple[int, ...], gone: int) -> tuple[int, ...]:
    """An order without the option at one place, the indices before it counted without that option."""
    return tuple(index - (index > order[gone]) for place, index in enumerate(order) if place != gone)


I = TypeVar("I", bound=AnyItem)  # noqa: E741


def item_from_row(kind: type[I], row: dict[str, Any], where: str) -> I:
    """One item from the object of a JSONL line, checked against the fields of its kind.

    Args:
        kind: the class to make.
        row: keys and values; ``cluster`` is the id where absent, and ``kind`` may be there if it is right.
        where: file and line, for the error.

    Raises:
        ValueError: an unknown or missing key, or a value of the wrong type or out of range.
    """
    known = [field.name for field in fields(kind)]
    if KINDS.get(str(row.get("kind"))) is kind:
        row = {key: value for key, value in row.items() if key != "kind"}
    unknown = [key for key in row if key not in known]
    if unknown:
        raise ValueError(f"{where}: unknown keys {unknown}; a {kind.__name__} has the keys {known}.")
    forgotten = [key for key in DECLARED.get(kind, ()) if key not in row]
    if forgotten:
        faults = "; ".join(f"{key}: Field required (null says that there is none)" for key in forgotten)
        raise ValueError(f"{where}: not a valid {kind.__name__} ({faults}).")
    row = {"cluster": row.get("id"), **row}
    try:
        # Through JSON, where strict validation takes a list for a tuple and nothing else for anything.
        return _adapter(kind).validate_json(json.dumps(row), strict=True)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}".removeprefix(": ")
            for fault in error.errors()
        )
        raise ValueError(f"{where}: not a valid {kind.__name__} ({faults}).") from error


def draw(
    placed: Sequence[tuple[str, I]],
    limit: int | None,
    seed: int,
    group: Callable[[I], Hashable] = lambda item: item.cluster,
) -> tuple[I, ...]:
    """The items, or a sample spread over clusters (or other groups), after a check that no id is there twice.

    Raises:
        ValueError: an id used before, with both places; or a limit below one.
    """
    refuse_duplicates((where, item.id) for where, item in placed)
    return spread([item for _, item in placed], limit, seed, group)


def items_to_frame(items: Sequence[AnyItem]) -> pd.DataFrame:
    """One row per item: ``kind`` and the fields; option indices are nullable integers."""
    frame = pd.DataFrame([_tagged(item) for item in items])
    nullable = {"unknown": "Int64", "label": "Int64", "biased": "Int64", "stereotyped": "Int64"}
    nullable |= {"low": "Int64", "high": "Int64"}
    nullable |= {"toxicity": "Float64", "value": "Float64", "ambiguous": "boolean"}
    return frame.astype({name: dtype for name, dtype in nullable.items() if name in frame})


def items_to_jsonl(items: Sequence[AnyItem], path: str | Path) -> None:
    """Writes one line per item, its fields and its ``kind``; the file is replaced whole."""
    write_text(Path(path), "".join(_canonical(item) + "\n" for item in items))


def items_from_jsonl(path: str | Path) -> tuple[AnyItem, ...]:
    """The items that :func:`items_to_jsonl` wrote, equal to what they were.

    Raises:
        FileNotFoundError: no such file.
        ValueError: with file and line: a row without a known ``kind``, malformed, or with an id used before.
    """
    placed = []
    for where, row in read_jsonl(data_files(path)[0]):
        kind = KINDS.get(str(row.get("kind")))
        if kind is None:
            raise ValueError(f"{where}: a stored item needs a kind out of {sorted(KINDS)}.")
        placed.append((where, item_from_row(kind, row, where)))
    refuse_duplicates((where, item.id) for where, item in placed)
    return tuple(item for _, item in placed)


def items_hash(items: Sequence[AnyItem]) -> str:
    """SHA-256 (hex) of the items' canonical JSON lines, in their order."""
    return hashlib.sha256("\n".join(map(_canonical, items)).encode()).hexdigest()


def _tagged(item: AnyItem) -> dict[str, Any]:
    kind = next(name for name, cls in KINDS.items() if type(item) is cls)
    return {"kind": kind, **item_row(item)}


def item_row(item: AnyItem) -> dict[str, Any]:
    """The fields of an item, as a line of a file holds them; the order of options only if it was permuted."""
    row = asdict(item)
    if row.get("order", ()) is None:  # so that items that were never permuted keep their hash
        del row["order"]
    return row


def _canonical(item: AnyItem) -> str:
    return json.dumps(
        _tagged(item), sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )


def _one_hot(index: int, size: int) -> tuple[float, ...]:
    return tuple(float(i == index) for i in range(size))


@cache
def _adapter(kind: type[AnyItem]) -> TypeAdapter:
    return TypeAdapter(kind)


def _refuse_blank(item: AnyItem, *names: str) -> None:
    blank = [name for name in names if not getattr(item, name).strip()]
    if blank:
        raise ValueError(f"a {type(item).__name__} needs text in {blank}.")
