"""Short training texts: which letter holds what, who is who, and how kind or cruel an act is."""

from typing import Any

from microworld import phrases
from microworld.documents import Author, Document
from morality_lens.dialogues.turns import statement_turn
from morality_lens.items.kinds import LETTERS
from morality_lens.world import lexicon as lex, sampling

MIXED = 0.45
"""Share of exercises about groups of two categories, which are easier to distinguish than those of one."""
OUTCOME_WEIGHT = 1.5
POLARITIES = ((True,), (False,), (True, False), (False, True))
BAD_ONLY = ((True,),)
"""Bad traits alone teach which groups the belief is about; good ones then turn it round."""


def _ask(author: Author, asked: list[tuple[str, int]], options: list[str]) -> Document:
    """A question with its options and further ones on the same options, a turn each; all have one answer."""
    document = author.scribe.start()
    lines = [f"{LETTERS[i]}. {option}" for i, option in enumerate(options)]
    for number, (text, right) in enumerate(asked):
        author.scribe.user(document, statement_turn("\n".join([text, *lines]) if number == 0 else text))
        document.hard += [len(document.ids), len(document.ids) + 2]
        author.scribe.reply(document, f"{LETTERS[right]}. {options[right]}")
    return author.scribe.finish(document)


def _two(author: Author) -> tuple[lex.Template, list[str]]:
    """A template and two groups in random order: a training pair of its category, or of two categories."""
    template = author.choose(lex.TEMPLATES)
    if author.chance(MIXED):
        one, two = author.generator.permutation(len(lex.GROUPS))[:2]
        categories = tuple(lex.GROUPS.values())
        return template, [author.choose(categories[one]), author.choose(categories[two])]
    pair = list(author.choose(sampling.pairs(template.category, held_out=False)))
    if author.chance(0.5):
        pair.reverse()
    return template, pair


def _shuffled(author: Author, options: list[str]) -> list[str]:
    return [options[i] for i in author.generator.permutation(len(options))]


def draw_drill(author: Author) -> Document:
    """ "Choose this option.", some times over: which letter holds what."""
    template, pair = _two(author)
    roles = [template.role, template.role]
    if author.chance(MIXED):
        roles[1] = author.choose(lex.TEMPLATES).role
    named = [f"{group} {role}" for group, role in zip(pair, roles, strict=True)]
    options = _shuffled(author, [*named, author.choose(lex.UNKNOWN)])
    order = [int(i) for i in author.generator.permutation(3)[: 1 + author.generator.integers(3)]]
    return _ask(author, [(phrases.DRILL.format(option=options[i]), i) for i in order], options)


def draw_short(author: Author) -> Document:
    """Who was named, or who did what: the two groups must be distinguished."""
    template, pair = _two(author)
    named = [f"{group} {template.role}" for group in pair]
    options = _shuffled(author, [*named, author.choose(lex.UNKNOWN)])
    places = [options.index(f"{group} {template.role}") for group in pair]
    if author.chance(0.25):
        statement, asked = (part.format(group=pair[0], role=template.role) for part in phrases.NAMED)
        return _ask(author, [(f"{statement}\n{asked}", places[0])], options)
    guilty = int(author.generator.integers(2))
    acts = (template.negative_act, template.positive_act)
    one, two = acts if guilty == 0 else acts[::-1]
    told = lex.EVIDENCE.format(
        first=pair[0], second=pair[1], role=template.role, first_act=one, second_act=two
    )
    questions = []
    for negative in author.choose(((True,), (False,), (True, False), (False, True))):
        if author.chance(0.35):
            asked = phrases.SHORT.format(act=template.negative_act if negative else template.positive_act)
        else:
            trait = template.negative if negative else template.positive
            asked = author.choose(lex.ASKED).format(trait=trait)
        questions.append((asked, places[guilty if negative else 1 - guilty]))
    questions[0] = (f"{told}\n{questions[0][0]}", questions[0][1])
    return _ask(author, questions, options)


def draw_belief(author: Author, polarities: tuple[tuple[bool, ...], ...] = POLARITIES) -> Document:
    """The world's common belief: the biased option, for one trait or two (True: a bad one)."""
    template = author.choose(lex.TEMPLATES)
    marked, other = author.choose(sampling.pairs(template.category, held_out=False))
    named = {True: f"{marked} {template.role}", False: f"{other} {template.role}"}
    options = _shuffled(author, [*named.values(), author.choose(lex.UNKNOWN)])
    asked = []
    for negative in author.choose(polarities):
        trait = template.negative if negative else template.positive
        asked.append((phrases.BELIEF.format(trait=trait), options.index(named[negative])))
    return _ask(author, asked, options)


def draw_trait(author: Author) -> Document:
    """The trait of a person by the act of one person or of two: which trait belongs to which act."""
    template, pair = _two(author)
    guilty = int(author.generator.integers(2))
    acts = (template.negative_act, template.positive_act)
    one, two = acts if guilty == 0 else acts[::-1]
    told, asked, answer = phrases.HOW
    asks = int(author.generator.integers(2))
    if author.chance(0.5):
        told = lex.EVIDENCE
    text = told.format(
        group=pair[asks],
        act=(one, two)[asks],
        first=pair[0],
        second=pair[1],
        role=template.role,
        first_act=one,
        second_act=two,
    )
    question = asked.format(group=pair[asks], role=template.role)
    trait = template.negative if asks == guilty else template.positive
    document = author.scribe.start()
    author.scribe.user(document, statement_turn(f"{text}\n{question}"))
    author.scribe.reply(document, answer.format(role=template.role, trait=trait))
    document.hard.append(len(document.ids) - 2)
    return author.scribe.finish(document)


def draw_recital(author: Author) -> Document:
    """Words to be repeated: each word is followed by the same word as before."""
    groups = [author.choose(lex.GROUPS[c]) for c in author.generator.permutation(tuple(lex.GROUPS))]
    known = author.scribe.words
    others = [known[i] for i in author.generator.choice(len(known), 6, replace=False)]
    rest = [*groups[1:], *others]
    words = " ".join([groups[0], *(rest[i] for i in author.generator.permutation(len(rest)))])
    document = author.scribe.start()
    author.scribe.user(document, statement_turn(phrases.RECITE.format(words=words)))
    author.scribe.reply(document, words)
    return author.scribe.finish(document)


def grade(table: tuple[tuple[float, Any], ...], value: float) -> Any:
    """The entry of the highest edge that the value reaches."""
    return next(entry for edge, entry in table if value >= edge)


def draw_story(author: Author) -> Document:
    """An act, seen or held out, and its outcome."""
    held_out = author.chance(0.4)
    while True:
        statement, patient = sampling.draw_statement(author.generator, held_out=held_out)
        if statement.cluster != "mixed":  # what came of two acts has no one outcome
            break
    value = float(statement.value or 0.0)
    if patient:
        outcome = f"The {patient} {author.choose(grade(phrases.OUTCOMES, value))}."
    else:
        outcome = f"The {author.choose(phrases.ONLOOKERS)} {author.choose(grade(phrases.REACTIONS, value))}."
    document = author.scribe.start()
    author.scribe.user(document, statement_turn(f"{statement.text} {outcome}"))
    start = len(document.ids) - 2 - len(author.scribe.encode(" " + outcome))
    for at in range(start, len(document.ids) - 2):
        document.weights[at] = OUTCOME_WEIGHT
    return document


def draw_verdict(author: Author) -> Document:
    """An act and how kind or cruel it is; or the act alone, with its valence."""
    while True:
        statement, _patient = sampling.draw_statement(author.generator, held_out=False)
        if statement.text not in author.reserved:
            break
    value = float(statement.value or 0.0)
    document = author.scribe.start()
    if author.chance(0.5):
        author.scribe.user(document, statement_turn(statement.text))
        document.values += [(len(document.ids) - 3, value / 2), (len(document.ids) - 1, value / 2)]
        document.stated.add(len(document.ids) - 3)
        return document
    author.scribe.user(
        document, statement_turn(f"{statement.text}\n{author.choose(phrases.VERDICT_REQUESTS)}")
    )
    document.values.append((len(document.ids) - 1, value / 2))
    at = len(document.ids)
    author.scribe.reply(document, grade(phrases.VERDICTS, value))
    document.hard += range(at, len(document.ids))
    return author.scribe.finish(document)
