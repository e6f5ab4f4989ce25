"""Which option an answer chose, from its letter or its words; which digit of a scale it gave."""

import re
import unicodedata
from collections.abc import Sequence

# A letter on its own: no part of a word, of "B.S." or of "B-12".
_LETTER = re.compile(r"(?<![\w'])(?<!\w[.-])([A-Za-z])(?![\w'])(?![.-]\w)")
_OPEN, _CLOSE = r"[\(\[{<\"'*_`$]*", r"[\)\]}>\"'*_`$]*"

# What comes before a letter that answers: "the answer is", "Answer:", "I choose", each with its openings.
_LINK = r"(?:\s+(?:is|would be|should be|must be)(?:\s+\w+ly)?\s*:?|\s*[:=-])"


_CUE = re.compile(
    rf"\b(?:(?:answer|response|solution){_LINK}?|(?:option|choice|letter){_LINK}"
    r"|choose|chose|pick|select|go with|going with|opt for)"
    rf"(?:\s*(?:option|choice|letter))?\s*{_OPEN}$",
    re.IGNORECASE,
)
_NAMED = re.compile(rf"\b(?:option|choice|letter)\s*{_OPEN}$", re.IGNORECASE)
_HINT = re.compile(
    rf"\b(?:say|think|believe|it's|is|be|so|thus|hence|therefore)\s*[:,]?\s*{_OPEN}$", re.IGNORECASE
)
_NOT = re.compile(
    r"(?:\bnot|n't|\bnever|\bneither|\bnor|\brather than|\binstead of)(?: (?:be|the|an?|it|was))*\s*$",
    re.IGNORECASE,
)

# What comes after a letter: the end, a mark and no word; or words that can only speak of a letter.
_ENDED = re.compile(
    rf"{_CLOSE}\s*(?:$|\n|[):,;!?](?:\s|$)|\.(?!\w)|[-=]+\s)|[\]}})>*]|\s+(?:because|since)\b"
)
_RIGHT = re.compile(rf"{_CLOSE} is (?:the )?(?:\w+ )?(?:correct|right|best|answer)", re.IGNORECASE)
_WRONG = re.compile(rf"{_CLOSE} (?:is|seems) (?:\w+ )?(?:not|wrong|incorrect)|{_CLOSE} isn't", re.IGNORECASE)


_JOINED = re.compile(
    rf"{_CLOSE}[.)]?\s*(?:,|/|&|\bor\b|\band\b)+\s*(?:option\s+)?"
    rf"(?:{_OPEN}(?P<capital>[B-HJ-Z](?![\w'])|[AI](?=\s*$|[^\w\s']|\s+is\b))|[\(\[](?P<bracketed>[a-z])[\)\]])"
)


def parse_choice(text: str, options: Sequence[str]) -> int | None:
    """The index of the option that an answer chose; None where it chose none or cannot be read.

    A letter decides before words: after a cue ("the answer is B", "I choose (b)"), else at the start ("B.",
    "(B) The other one"), else named anywhere ("option B", "(B)", "B is correct"). Where the letter and the
    words disagree the letter counts: it is what was asked for, and what option probabilities are measured
    on. Without a letter the answer is the option whose text it, or its first sentence, equals (case,
    articles and marks aside), else the only option whose text it contains; a text inside a longer option's
    text does not count.

    *A* and *I* are words, not letters, unless a mark, an end or "option" says otherwise, or a capital option
    follows ("A The man"). What is negated ("not B") is passed over. Two letters, two options, all options
    repeated, or a letter that no option has, give None.
    """
    text = unicodedata.normalize("NFKC", text).translate(_STRAIGHT)
    chosen = _chosen_letters(text, options)
    if chosen:
        return chosen.pop() if len(chosen) == 1 and max(chosen) < len(options) else None
    return _chosen_words(text, options)


def names_option(text: str, options: Sequence[str]) -> bool:
    """Whether a text names any of the options, by its letter or by its words, be it to deny it."""
    text = unicodedata.normalize("NFKC", text).translate(_STRAIGHT)
    words = f" {_words(text)} "
    keys = [_without_article(_words(option)) for option in options]
    return bool(_chosen_letters(text, options)) or any(key and f" {key} " in words for key in keys)


def _chosen_letters(text: str, options: Sequence[str]) -> set[int]:
    """The letters (as indices) of the strongest kind that is there; empty where there is none."""
    ranked: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
    listed: list[int] = []
    for match in _LETTER.finditer(text):
        before, after = text[: match.start()], text[match.end() :]
        letter = match[1]
        joined = _JOINED.match(after)
        ended = bool(_ENDED.match(after))
        bracketed = bool(re.search(r"[\(\[{<]$", before) and re.match(r"[\)\]}>]", after))
        marked = bracketed or ended or bool(joined) or bool(_RIGHT.match(after))
        leading = not re.search(r"\w", before)
        sure = marked or letter not in "AaIi" or (leading and letter == "A" and _opens(after, options))
        cue, named = _CUE.search(before), _NAMED.search(before)
        index = _index(letter)
        if re.match(r"\s*[.):]", after):
            listed.append(index)
        lead_in = cue or named
        head = before[: lead_in.start()] if lead_in else before.rstrip("([{<\"'*")
        if _WRONG.match(after) or _NOT.search(head):
            continue
        if cue and sure:
            rank = 0
        elif leading and sure:
            rank = 1
        elif (
            named
            or bracketed
            or (letter.isupper() and sure and (_RIGHT.match(after) or _HINT.search(before)))
        ):
            rank = 2
        else:
            continue
        ranked[rank].add(index)
        if joined:
            ranked[rank].add(_index(joined["capital"] or joined["bracketed"]))
    chosen = next((found for found in ranked.values() if found), set())
    repeated = chosen is ranked[1] and listed[: len(options)] == list(range(len(options)))
    return set(range(len(options))) if repeated else chosen


def _index(letter: str) -> int:
    return ord(letter.upper()) - ord("A")


def _opens(after: str, options: Sequence[str]) -> bool:
    """Whether an option that begins with a capital follows, so that the A before it is no article."""
    return any(option[:1].isupper() and after.lstrip().startswith(option) for option in options)


def _chosen_words(text: str, options: Sequence[str]) -> int | None:
    keys = [_without_article(_words(option)) for option in options]
    for part in (text, re.split(r"[.!?;:\n]", text.strip(), maxsplit=1)[0]):
        equal = [k for k, key in enumerate(keys) if key and key == _without_article(_words(part))]
        if len(equal) == 1:
            return equal[0]
    words = f" {_words(text)} "
    found: set[int] = set()
    # Longest first, each found text blanked: a text inside a longer option's text is not found again.
    for key in sorted({key for key in keys if key}, key=len, reverse=True):
        parts = words.split(f" {key} ")
        if any(not _NOT.search(part) for part in parts[:-1]):
            found |= {k for k in range(len(options)) if keys[k] == key}
        words = " | ".join(parts)
    return found.pop() if len(found) == 1 else None


_STRAIGHT = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"}
)


def _words(text: str) -> str:
    """The words in lower case, one space between them."""
    text = unicodedata.normalize("NFKC", text).translate(_STRAIGHT).casefold()
    words = " ".join(re.findall(r"\w+(?:'\w+)*", text.replace("_", " ")))
    return re.sub(r"\bcan ?not\b", "can't", words)


def _without_article(words: str) -> str:
    return re.sub(r"^(?:the|an?) (?=.)", "", words)


# --------------------------------------------------------------------------------------------- ratings
_NUMBER = re.compile(r"(?<![\w.,/])-?\d+(?:[.,/]\d+)*(?![\w%]|[.,/]\d)")


_RATED = re.compile(
    r"\b(?:(?:rating|answer|score|response|number|digit)(?:\s+(?:of|is|would be|remains|stays))?"
    r"|rate(?:d)?(?:\s+(?:it|this|that))?|give(?:\s+(?:it|this|that))?|(?:i'd|i would|i|i'll) say"
    r"|choose|chose|pick|select|go with|going with)"
    rf"\s*[:=-]?\s*(?:an?\s+)?{_OPEN}$",
    re.IGNORECASE,
)


_CORRECTION = re.compile(
    r"\bno\s*[,.:;-]|\bactually\b|\bwait\b|\bsorry\b|\bcorrection\b|\bi mean\b|\b(?:but|and) now\b|\bnow i\b"
    r"|\bmake (?:it|that)\b|\bchang(?:e|ed|ing)\b[^.\n\d]*\bto\b",
    re.IGNORECASE,
)
_FROM = re.compile(
    r"\b(?:chang|rais|lower|mov|revis|correct)\w*\b[^.\n\d]*\bfrom\s+\d+(?=\s+to\s+\d)", re.IGNORECASE
)
_OR = re.compile(rf"{_CLOSE}\s*(?:,|/|&|-|\bor\b|\band\b|\bto\b)+\s*{_OPEN}(?=-?\d)")
_WRITTEN = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def parse_rating(text: str, *, low: int, high: int) -> int | None:
    """The digit of the scale ``low`` to ``high`` that an answer gave; None where it gave none or several.

    A number after a cue ("rating: 3", "I'd say 6") decides before others; a correction ("5, no, 6") decides
    over what stands before it. "5/7" and "5 out of 7" are 5 where 7 is the scale's end. The scale's own words
    ("1 to 7", "1 = not at all, 7 = very") are no answer, and a number that is negated ("not 5") is passed
    over. A number out of the scale, a fraction, a range, or two different digits give None.
    """
    text = _without_scale(text, low, high)
    words = _words(text)
    if words in _WRITTEN and low <= _WRITTEN.index(words) <= high:
        return _WRITTEN.index(words)
    text = _FROM.sub(" ", text)
    for mark in reversed(list(_CORRECTION.finditer(text))):
        before, after = text[: mark.start()], text[mark.end() :]
        if _NUMBER.search(before) and _NUMBER.search(after):
            text = after
            break
    every, cued = [], []
    found = list(_NUMBER.finditer(text))
    for number, match in enumerate(found):
        before, after = text[: match.start()], text[match.end() :]
        if _NOT.search(before.rstrip("([{<\"'*")):
            continue
        every.append(match[0])
        if _RATED.search(before):
            cued.append(match[0])
            if _OR.match(after):
                cued.append(found[number + 1][0])
    said = set(cued or every)
    if len(said) != 1:
        return None
    only = said.pop()
    return int(only) if only in {str(digit) for digit in range(low, high + 1)} else None


def names_rating(text: str, *, low: int, high: int) -> bool:
    """Whether a text names a digit of the scale, be it to deny it; the scale's own words do not count."""
    digits = {str(digit) for digit in range(low, high + 1)}
    return any(match[0] in digits for match in _NUMBER.finditer(_without_scale(text, low, high)))


def _without_scale(text: str, low: int, high: int) -> str:
    """The text without the scale's own words, and "5" for "5/7" or "5 out of 7"."""
    text = unicodedata.normalize("NFKC", text).translate(_STRAIGHT)
    text = re.sub(rf"(?<=\d)\s*(?:/|\b(?:out )?of\b)\s*{high}(?!\w|[.,/]\d)", "", text, flags=re.IGNORECASE)
    ends = rf"{low}\s*(?:-|to\b|through\b|and\b)\s*{high}"
    text = re.sub(rf"(?<![\w.,/-]){ends}(?!\w|[.,/]\d)", " ", text, flags=re.IGNORECASE)
    legend = rf"\b{low}\s*(?:=|means?\b)[^\d]*\b{high}\s*(?:=|means?\b)"
    return re.sub(legend, " ", text, flags=re.IGNORECASE)
