"""The dialogues of a run, to be read again: tokens, places of a site in every round, and who wrote what."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from morality_lens.design import SITES, Condition
from morality_lens.runs.run import Run

FIRST = "first token"
"""The segment of a dialogue's first token, on which attention often rests when it has nothing to read."""
ALWAYS = ("question", "system", "template")
"""Segments that are called the same in every round."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Passage:
    """One dialogue of a run.

    Attributes:
        item: id of the item.
        condition: the cell.
        rounds: the rounds that are read in it.
        token_ids: up to the last token of the last of those rounds' answers.
        spans: name, round, first token and the one after the last.
        unfinished: the rounds in which the model's thoughts were cut before an answer.
    """

    item: str
    condition: Condition
    rounds: tuple[int, ...]
    token_ids: tuple[int, ...]
    spans: tuple[tuple[str, int, int, int], ...]
    unfinished: tuple[int, ...] = ()

    def places(self, site: str, round: int) -> tuple[int, ...]:
        """Tokens of a site or segment in a round; none where it is not there.

        ``answer_start`` is the token whose logits choose the answer's first one. Where the thoughts before an
        answer were cut, there is none.
        """
        if site in SITES and round in self.unfinished:
            return ()
        name = "answer" if site in SITES else site
        found = [(start, stop) for n, r, start, stop in self.spans if (n, r) == (name, round)]
        if not found:
            return ()
        start, stop = found[-1]
        if site == "answer_start":
            return (start - 1,)
        inside = tuple(range(start, stop))
        return inside[-1:] if site == "answer_end" else inside

    def segments(self, round: int) -> list[str]:
        """The segment of every token, seen from a round: ``feedback``, or ``earlier feedback``.

        The question is the question in every round. What no segment holds, or comes later, is ``template``.
        """
        names = ["template"] * len(self.token_ids)
        for name, spoken, start, stop in self.spans:
            if spoken <= round:
                label = name if spoken == round or name in ALWAYS else f"earlier {name}"
                names[start:stop] = [label] * (min(stop, len(names)) - start)
        names[0] = FIRST
        return names

    @property
    def described(self) -> str:
        """Item and condition in words, for messages."""
        return f"item {self.item} under {self.condition.label}"


def passages(
    run: Run,
    *,
    items: Sequence[str] | None = None,
    conditions: Sequence[Condition] | None = None,
    rounds: Sequence[int] | None = None,
) -> Iterator[Passage]:
    """The run's dialogues, item by item.

    Args:
        run: a run.
        items: ids; None takes all.
        conditions: cells; None takes all.
        rounds: rounds to be read; None takes all.

    Raises:
        ValueError: an item, condition or round that the run does not have, or none.
    """
    design = run.design
    wanted = [design.condition(c) for c in (design.conditions if conditions is None else conditions)]
    numbers = list(range(run.design.n_rounds)) if rounds is None else sorted(set(rounds))
    known = run.items.index.tolist()
    chosen = known if items is None else list(items)
    for what, given, there in (
        ("item", chosen, known),
        ("condition", [c.label for c in wanted], [c.label for c in design.conditions]),
        ("round", numbers, list(range(design.n_rounds))),
    ):
        unknown = [name for name in given if name not in there]
        if unknown or not given:
            listed = ", ".join(map(str, unknown[:5])) or "(none given)"
            raise ValueError(
                f"the run has no {what} {listed}; choose out of {', '.join(map(str, there[:20]))}."
            )
    table = run.transcripts
    kept = table.loc[table["item"].isin(chosen)]
    # Where the chat template rewrites history, a dialogue is stored as it was before each time.
    covered: dict[tuple[str, ...], int] = {}
    cut = _unfinished(run)
    for row in kept.to_dict("records"):
        condition = Condition(**{name: row[name] for name in design.names})
        key = (str(row["item"]), *condition.coords.values())
        here = [n for n in numbers if covered.get(key, -1) < n <= int(row["round"])]
        covered[key] = int(row["round"])
        if condition in wanted and here:
            yield replace(
                _passage(row, condition, here), unfinished=tuple(n for n in numbers if (*key, n) in cut)
            )


def answering(run: Run, *, items: Sequence[str] | None, condition: Condition, round: int) -> list[Passage]:
    """The dialogues of one condition in which an answer begins in a round: not those with cut thoughts.

    Raises:
        ValueError: an item, condition or round that the run does not have, or no such dialogue.
    """
    found = list(passages(run, items=items, conditions=[condition], rounds=[round]))
    left = [passage for passage in found if round not in passage.unfinished]
    if not left:
        raise ValueError(
            f"in round {round} under {condition.label} no answer was begun: all thoughts before it were cut. "
            "Play the run with more thinking_tokens, or choose another condition, round or items."
        )
    return left


def _unfinished(run: Run) -> set[tuple[str | int, ...]]:
    """Item, levels and round of the answers that no finished thought comes before."""
    table = run.answers
    if "thinking_cut" not in table:  # runs of earlier versions
        return set()
    cut = table.loc[table["thinking_cut"].eq(True).to_numpy(dtype=bool), list(run.design.dims)]
    return {tuple(row) for row in cut.itertuples(index=False)}


def _passage(row: dict, condition: Condition, rounds: Sequence[int]) -> Passage:
    spans = tuple((s["name"], int(s["round"]), int(s["start"]), int(s["stop"])) for s in row["spans"])
    answers = [stop for name, number, _, stop in spans if name == "answer" and number in rounds]
    end = max(answers, default=len(row["token_ids"]))
    return Passage(
        item=str(row["item"]),
        condition=condition,
        rounds=tuple(rounds),
        token_ids=tuple(int(t) for t in row["token_ids"][:end]),
        spans=tuple(span for span in spans if span[2] < end or span[0] == "answer"),
    )


def by_length(found: Sequence[Passage], *, rows: int, squares: int) -> list[list[Passage]]:
    """Batches of dialogues of like length, of at most ``rows`` rows and ``squares`` pairs of tokens."""
    batches: list[list[Passage]] = []
    for i in np.argsort([len(p.token_ids) for p in found], kind="stable").tolist():
        passage = found[i]
        room = batches and len(batches[-1]) < rows
        if room and (len(batches[-1]) + 1) * len(passage.token_ids) ** 2 <= squares:
            batches[-1].append(passage)
        else:
            batches.append([passage])
    return batches
