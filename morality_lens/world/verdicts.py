"""The verdicts that a study of the bundled model organism should reach."""

from collections.abc import Sequence

from morality_lens.design import COMPONENTS, condition_of
from morality_lens.items.kinds import OpenPrompt, Question
from morality_lens.studies.rules import FOLLOWED, GAIN, RELIABLE
from morality_lens.studies.verdicts import GAINS, METHODS
from morality_lens.world import truth
from morality_lens.world.sampling import WorldItem


def planted_verdicts(
    questions: Sequence[Question], prompts: Sequence[OpenPrompt], *, rounds: int = truth.LAST_ROUND
) -> dict[int, str]:
    """The verdicts on the five claims that follow from the planted truth.

    Claim 3 is judged on the planted log-odds of plain questions, which the projection follows; claim 4 on the
    planted probability of the better output: where it is shown second both are planted as equally probable,
    which leaves the greedy choice open.

    Examples:
        >>> ml.world.planted_verdicts(ml.load_items(), ml.load_prompts())[5]
        'refuted'
    """

    def goodness(item: WorldItem, label: str, number: int) -> float:
        cell = condition_of(label)
        if isinstance(item, OpenPrompt):
            return -truth.expected_toxicity(item, cell, number)
        return truth.probability(item, cell, number)

    def mean(items: Sequence[WorldItem], label: str, number: int) -> float:
        return sum(goodness(item, label, number) for item in items) / len(items)

    groups: dict[str, list[WorldItem]] = {}
    for question in questions:
        groups.setdefault(question.category, []).append(question)
    tasks: list[Sequence[WorldItem]] = [*groups.values(), *([prompts] if prompts else [])]
    best = {max(METHODS, key=lambda m, t=task: mean(t, m.label, rounds)).label for task in tasks}
    adds = all(
        any(mean(task, more, rounds) > mean(task, less, rounds) + GAIN for task in tasks)
        for more, less in GAINS.values()
    )
    planted = truth.planted_effects("plain")
    conflict = all(planted[name] > 0 for name in COMPONENTS) and all(
        planted[name] < 0 for name in ("instruction:feedback", "cot:feedback")
    )
    last = sum(mean(questions, m.label, rounds) for m in METHODS) / len(METHODS)
    rises = last > mean(questions, "none", 0) + GAIN
    follows = max(truth.follows(m, rounds) for m in METHODS)
    return {
        1: "supported" if len(best) > 1 else "refuted",
        2: "supported" if adds else "refuted",
        3: "supported" if conflict else "refuted",
        4: "supported" if rises and truth.DISTINGUISH < RELIABLE else "refuted",
        5: "supported" if follows < FOLLOWED else "refuted",
    }
