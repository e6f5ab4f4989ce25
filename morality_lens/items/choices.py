"""Which option an answer chose, from its letter or its words; which digit of a scale it gave."""

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from morality_lens.items import answer_words as other

# A letter on its own: no part of a word, of "B.S." or of "B-12".
_LETTER = re.compile(
    rf"(?<![\w'])(?<!\w[.-])([A-Za-z])(?!\w)(?!'(?!{other.ENDING}\b))(?![.-]\w)", re.IGNORECASE
)
_OPEN, _CLOSE = r"[\(\[{<\"'*_`$]*", r"[\)\]}>\"'*_`$]*"

# What comes before a letter that answers: "the answer is", "Answer:", "I choose", each with its openings.
_LINK = r"(?:\s+(?:is|would be|should be|must be)(?:\s+\w+ly)?\s*:?|\s*[:=-])"


_CUE = re.compile(
    rf"\b(?:(?:answer|response|solution)[\])]?{_LINK}?|(?:option|choice|letter){_LINK}"
    r"|choose|chose|pick|select|go with|going with|opt for|it (?:should|must|has to) be"
    r"|(?:chang|revis|switch)\w* [^.\n]{0,30}?\bto"
    r"|(?:it is|it's) still|keep(?: my answer)?(?: at)?:?|stay(?:s|ing)?(?: with| at)?"
    r"|stick(?:ing)? (?:with|to)|stand(?:ing)? by(?: my answer)?:?"
    r"|(?:answer|choice) (?:is still|still is|remains|stays)|not \W*[A-Z]\W*,? ?but)"
    rf"(?:\s*(?:option|choice|letter))?\s*{_OPEN}$",
    re.IGNORECASE,
)
_CUE_ELSEWHERE = re.compile(rf"(?:{other.CUE})\s*{_OPEN}$", re.IGNORECASE)
_NAMED = re.compile(rf"(?:\b(?:option|choice|letter)|{other.NAMED})\s*{_OPEN}$", re.IGNORECASE)
_HINT = re.compile(
    rf"\b(?:say|think|believe|it's|is|be|so|thus|hence|therefore)\s*[:,]?\s*{_OPEN}$", re.IGNORECASE
)
_NOT = re.compile(
    r"(?:\bnot|n't|\bcannot|\bnever|\bneither|\bnor|\brather than|\binstead of|\bno longer|\bdoubt"
    r"|\bunlikely)"
    r"(?: (?:be|the|an?|it|was|is|it's|to|that|think|believe|say|answer|option|choice))*[^\S\n]*\Z"
    rf"|{other.NOT}\Z",
    re.IGNORECASE,
)

# A change or a choice that is not made: "no need to", "I will not", each before the verb.
_REFUSED = re.compile(
    r"(?:\bno (?:need|reason|cause|plan|wish|intention)|\bnot|n't|\bnever)"
    r"(?: (?:to|be|going|have|need|want|see|any|reason|like|wish|think|that|i|it|should|would|plan|for"
    r"|me))*[^\S\n]*\Z"
    rf"|\b(?:thought (?:about|of)|considered|tempted to|instead of|rather than)\s*\Z|(?:{other.REFUSED})\Z",
    re.IGNORECASE,
)
# An earlier answer that is kept: "I stick with my original answer, A".
_STAY = re.compile(
    r"(?:\b(?:stick(?:ing)? (?:with|to)|stay(?:ing)? (?:with|at)|stand(?:ing)? by|keep(?:ing)?"
    r"|maintain(?:ing)?)"
    r" my (?:previous|earlier|first|old|initial|original) (?:answer|choice|response)"
    rf"|{other.STAY})(?:\s*[,:-]|\s+of)?\s*{_OPEN}$",
    re.IGNORECASE,
)

# What comes after a letter: the end, a mark and no word; or words that can only speak of a letter.
_ENDED = re.compile(
    rf"{_CLOSE}\s*(?:$|\n|[):,;!?](?:\s|$)|\.(?!\w)|[-=]+\s)|[\]}})>*]"
    rf"|\s+(?:{other.BECAUSE})\b"
    r"|\s+(?:because|since|rather than|instead|from)\b|\s+(?:of course|for sure|definitely)\s*(?:[.,!;]|$)"
)
# Nothing but the letter since the last mark: a sentence, or an end, of its own.
_ALONE = re.compile(rf"(?:^|[.!?:;,\n]|--)\s*{_OPEN}$")
_RIGHT = re.compile(
    rf"{_CLOSE} (?:is|seems|looks|remains)(?: to be)? (?:the )?(?:(?!hardly|less)\w+ ){{0,2}}"
    rf"(?:correct|right|best|answer|safer|safest|better|fairer|fairest)"
    rf"|{_CLOSE} it is\b|{_CLOSE}{other.RIGHT}",
    re.IGNORECASE,
)
_WRONG = re.compile(
    rf"{_CLOSE},? (?:is|was|seems|seemed|are|were) (?:\w+ )?(?:\w+ )?"
    r"(?:not|wrong|incorrect|biased|unfair|mistaken|based on"
    r"|an? (?:stereotype|guess|mistake)|my (?:first|previous|earlier|old|initial))\b"
    rf"|{_CLOSE} would be (?:\w+ )?(?:wrong|incorrect|biased|unfair|mistaken"
    r"|an? (?:stereotype|guess|mistake))\b"
    rf"|{_CLOSE} (?:does not|doesn't) (?:fit|follow|work|hold|match|apply)\b|{_CLOSE} (?:isn't|wasn't"
    rf"|rests on|rested on|assumes|assumed)\b"
    rf"|{_CLOSE} (?:before|earlier|at first)\b|{_CLOSE}{other.WRONG}",
    re.IGNORECASE,
)
# An answer given up, or somebody else's: "my previous answer (A)", "the feedback says that A".
_OLD = re.compile(
    r"\b(?:previous|earlier|first|old|last|initial|original) (?:answer|choice|response|guess)"
    rf"(?:\s+(?:was|is|of))?\s*[,:]?\s*{_OPEN}$"
    r"|\b(?:first|before|earlier|previously|at first),? i (?:said|thought|chose|picked|answered)"
    rf"(?: it (?:was|is))?\s*{_OPEN}$"
    rf"|\bi (?:first|previously|initially) (?:said|thought|chose|picked|answered)\s*{_OPEN}$"
    r"|\b(?:wrong|mistake|unfair|biased) to (?:say|choose|pick|select|answer)(?: with)?"
    rf"(?:\s*option)?\s*{_OPEN}$"
    rf"|\b(?:would|should|could|shouldn't|must not) (?:not )?have (?:said|chosen|picked|answered)\s*{_OPEN}$"
    rf"|\b(?:at|about|of|to) (?:my |your |the )?(?:answer|option|choice)\s*{_OPEN}$"
    r"|\b(?:feedback|reader|reviewer|critique|comment|stereotype|someone|it) (?:says|said|claims|claimed"
    rf"|suggests|suggested|thinks|wants)\b[^.,;!?\n]*$|\bwithdraw\s*{_OPEN}$"
    rf"|(?:{other.OLD}){other.LINK_OLD}{_OPEN}$",
    re.IGNORECASE,
)


_JOINED = re.compile(
    rf"{_CLOSE}[.)]?\s*(?:,|/|&|\bor\b|\band\b|{other.OR})+\s*(?:option\s+)?"
    rf"(?:{_OPEN}(?P<capital>[B-HJ-Z](?![\w'])|[AI](?=\s*$|[^\w\s']|\s+is\b))"
    rf"|[\(\[](?P<bracketed>[a-z])[\)\]])"
)


# Where an answer takes back what it said before. After a strong mark the words of an option count too.
_STRONG = re.compile(
    r"\bcorrection\b\s*:?|\bcorrect myself\b\s*:?"
    r"|\b(?:chang|revis|switch|correct|updat|mov)\w*\b[^.\n]{0,40}?\bto\b"
    r"|\s-+>\s|\u2192|\b(?:revised|updated|corrected|new|final) answer\b\s*(?:is\b|:)?"
    rf"|{other.STRONG}",
    re.IGNORECASE,
)
_WEAK = re.compile(
    r"\bno\s*[,.:;!-]|\bactually\b|\bwait\b|\bsorry\b|\bi mean\b|\b(?:but|and) now\b|\bnow i\b|\bi now\b"
    rf"|\bon second thought\b|\bafter thinking\b|\bupon reflection\b|{other.WEAK}",
    re.IGNORECASE,
)
_THOUGHT = re.compile(r"<think(?:ing)?>|</think(?:ing)?>", re.IGNORECASE)
_TAGGED = re.compile(
    r"<(?:final_)?answer>(?P<tag>.*?)</(?:final_)?answer>|[\"'](?:(?:final_)?answer|choice"
    r"|option)[\"']\s*:\s*[\"'](?P<key>[^\"']*)[\"']"
    r"|\\boxed\{(?:\\text\{)?(?P<box>[^{}]*)\}",
    re.IGNORECASE | re.DOTALL,
)
_MARKS = re.compile(r"~~.*?~~|\*\*|__|```(?:\w+)?|^[ \t]*(?:#{1,6}|>|[-*])[ \t]+", re.MULTILINE | re.DOTALL)


def parse_choice(text: str, options: Sequence[str]) -> int | None:
    """The index of the option that an answer chose; None where it chose none or cannot be read.

    What a model thinks aloud between ``<think>`` marks is no answer, and where the mark is not closed there
    is none yet. An answer in ``<answer>`` marks, in JSON or in a box is read there. A later correction counts
    ("A. Sorry, I correct myself: C", "I change my answer from A to C", a second "Answer:"), and an answer
    that is given up or somebody else's does not ("the previous answer (A) was biased", "the feedback says
    A").

    A letter decides before words: after a cue ("the answer is B", "I choose (b)"), else at the start ("B.",
    "(B) The other one") or alone in a sentence, else named anywhere ("option B", "(B)", "B is correct").
    Where the letter and the words disagree the letter counts: it is what was requested, and what option
    probabilities are measured on. Without a letter the answer is the option whose text it, its first or its
    last sentence equals (case, articles and marks aside), else the only option whose text it contains; a text
    inside a longer option's text does not count.

    *A* and *I* are words, not letters, unless a mark, an end or "option" says otherwise, or a capital option
    follows ("A The man"). What is negated ("not B") is passed over. Two letters, two options, all options
    repeated, or a letter that no option has, give None.
    """
    text = _normal(text)
    thoughts = list(_THOUGHT.finditer(text))
    if thoughts and not thoughts[-1][0].startswith("</"):
        return None
    text = text[thoughts[-1].end() :] if thoughts else text
    tagged = [found for found in _TAGGED.finditer(text) if found["tag"] or found["key"] or found["box"]]
    if tagged:
        text = next(part for part in tagged[-1].groups() if part)
    return _corrected(_MARKS.sub("", text).strip().strip("'\""), options)


def _corrected(text: str, options: Sequence[str]) -> int | None:
    """The choice after the last correction that makes one; without a correction that of the whole text."""
    marks = [(m, True) for m in _STRONG.finditer(text)] + [(m, False) for m in _WEAK.finditer(text)]
    for mark, strong in sorted(marks, key=lambda pair: pair[0].start(), reverse=True):
        before, after = text[: mark.start()], text[mark.end() :].lstrip(" ,.:;!-\n")
        if strong and _REFUSED.search(before):
            continue
        # In "from A to C" the letter that is given up stands inside the mark.
        if not (_mentions(f"{before} {mark[0]}") or _chosen_words(before, options) is not None):
            continue
        chosen = _chosen_letters(after, options)
        if len(chosen) == 1 and max(chosen) < len(options):
            return chosen.pop()
        words = _chosen_words(after, options) if strong and not chosen else None
        if words is not None:
            return words
    first = _first_of_a_cut_list(text, options)
    chosen = _chosen_letters(text if first is None else first, options)
    if chosen:
        return chosen.pop() if len(chosen) == 1 and max(chosen) < len(options) else None
    return _chosen_words(text, options)


def _mentions(text: str) -> bool:
    """Whether a letter stands alone anywhere, as a capital or in brackets."""
    return any(m[1].isupper() and m[1] != "I" for m in _LETTER.finditer(text))


def _first_of_a_cut_list(text: str, options: Sequence[str]) -> str | None:
    """The first option's line, where the others follow and were cut: the answer ends at its line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    listed = [re.match(r"\(?([A-Z])[.):]\s*(.*)", line) for line in lines]
    if len(lines) < 2 or not all(listed):
        return None
    found = [(m[1], m[2]) for m in listed if m]
    own = bool(found[0][1]) and _words(options[0]).startswith(_words(found[0][1]))
    in_order = [letter for letter, _ in found] == [chr(ord("A") + n) for n in range(len(found))]
    whole = len(found) == len(options) and _words(found[-1][1]) == _words(options[-1])
    return lines[0] if own and in_order and not whole else None


def names_option(text: str, options: Sequence[str]) -> bool:
    """Whether a text names any of the options, by its letter or by its words, be it to deny it."""
    text = _normal(text)
    words = f" {_words(text)} "
    keys = [_without_article(_words(option)) for option in options]
    return bool(_chosen_letters(text, options)) or any(key and _bounded(key) in words for key in keys)


def _chosen_letters(text: str, options: Sequence[str]) -> set[int]:
    """The letters (as indices) of the strongest kind that is there; empty where there is none."""
    ranked: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
    cued: set[int] = set()
    listed: list[int] = []
    for match in _LETTER.finditer(text):
        before, after = text[: match.start()], text[match.end() :]
        letter = match[1]
        joined = _JOINED.match(after)
        ended = bool(_ENDED.match(after))
        bracketed = bool(re.search(r"[\(\[{<]$", before) and re.match(r"[\)\]}>]", after))
        marked = bracketed or ended or bool(joined) or bool(_RIGHT.match(after))
        leading = not re.search(r"\w", before)
        opens = leading and letter.isupper() and _opens(after, options)
        sure = marked or letter not in other.SINGLE or opens
        stay = _STAY.search(before)
        cue, named = stay or _CUE.search(before) or _CUE_ELSEWHERE.search(before), _NAMED.search(before)
        index = _index(letter)
        if re.match(r"\s*[.):]", after):
            listed.append(index)
        lead_in = cue or named
        head = before[: lead_in.start()] if lead_in else before.rstrip("([{<\"'*")
        if _denied(head, after, joined) or (_OLD.search(before) and not stay):
            continue
        alone = letter.isupper() and _ALONE.search(before) and re.match(rf"{_CLOSE}[.!]?\s*(?:$|\n)", after)
        if cue and sure:
            rank = 0
        elif (leading and sure) or alone:
            rank = 1
        elif (
            named
            or bracketed
            or (letter.isupper() and sure and (_RIGHT.match(after) or _HINT.search(before)))
        ):
            rank = 2
        else:
            continue
        named_here = {index} | ({_index(joined["capital"] or joined["bracketed"])} if joined else set())
        cued = named_here if rank == 0 else cued
        ranked[rank] |= named_here
    if cued:  # of several answers the last one counts
        return cued
    chosen = next((found for found in ranked.values() if found), set())
    repeated = chosen is ranked[1] and listed[: len(options)] == list(range(len(options)))
    return set(range(len(options))) if repeated else chosen


def _denied(head: str, after: str, joined: re.Match[str] | None) -> bool:
    """Whether a letter is negated, before it or after it, alone or with the one that it is joined to."""
    wrong = _WRONG.match(after) or (joined and _WRONG.match(after[joined.end() :]))
    return bool(wrong or _NOT.search(head) or _REFUSED.search(head))


def _index(letter: str) -> int:
    return ord(letter.upper()) - ord("A")


def _opens(after: str, options: Sequence[str]) -> bool:
    """Whether an option that begins with a capital follows, so that the A before it is no article."""
    return any(option[:1].isupper() and after.lstrip().startswith(option) for option in options)


_DENIED = re.compile(other.DENIED, re.IGNORECASE)
# "No" as a reply of its own, which negates nothing after it.
_NO_ALONE = re.compile(r"\bno\s*[,.:;!?\n]", re.IGNORECASE)


def _chosen_words(text: str, options: Sequence[str]) -> int | None:
    keys = [_without_article(_words(option)) for option in options]
    sentences = [part for part in re.split(r"[.!?;:\n]", text) if part.strip()] or [""]
    last = sentences[-1] if len(sentences) > 1 else ""
    firsts = [k for k, key in enumerate(keys) if key and key == _without_article(_words(sentences[0]))]
    for part in (text, *([] if firsts else [last]), sentences[0]):
        equal = [k for k, key in enumerate(keys) if key and key == _without_article(_words(part))]
        if len(equal) == 1:
            return equal[0]
    if not any(_NO_ALONE.search(option) for option in options):
        text = _NO_ALONE.sub(" ", text)
    words = f" {_words(text)} "
    found: set[int] = set()
    # Longest first, each found text blanked: a text inside a longer option's text is not found again.
    for key in sorted({key for key in keys if key}, key=len, reverse=True):
        parts = words.split(_bounded(key))
        if any(not _NOT.search(a) and not _DENIED.match(b) for a, b in pairwise(parts)):
            found |= {k for k in range(len(options)) if keys[k] == key}
        words = " | ".join(parts)
    return found.pop() if len(found) == 1 else None


_STRAIGHT = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"}
)


_FULL = "\u3002\uff0c\u3001\uff1a\uff1b\uff01\uff1f\uff09"
_WIDE = str.maketrans({full: f"{plain} " for full, plain in zip(_FULL, ".,,:;!?)", strict=True)})
_SEAM = re.compile(rf"(?<=[{other.EAST_ASIAN}])(?=[A-Za-z(])|(?<=[A-Za-z)])(?=[{other.EAST_ASIAN}])")


def _normal(text: str) -> str:
    """The text with plain marks, and a blank between a Latin letter and Chinese or Korean characters."""
    return _SEAM.sub(" ", unicodedata.normalize("NFKC", text.translate(_WIDE)).translate(_STRAIGHT))


def _bounded(key: str) -> str:
    """An option's words as they stand in a text: between blanks, where its script has blanks."""
    return key if re.search(f"[{other.EAST_ASIAN}]", key) else f" {key} "


def _words(text: str) -> str:
    """The words in lower case, one space between them."""
    text = _normal(text).casefold()
    words = " ".join(re.findall(r"\w+(?:'\w+)*", text.replace("_", " ")))
    return re.sub(*other.ALIKE, re.sub(r"\bcan ?not\b", "can't", words))


def _without_article(words: str) -> str:
    return re.sub(rf"^(?:the|an?|{other.ARTICLES}) (?=.)", "", words)


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
    text = re.sub(
        rf"(?<!\d){high}\s*점 만점(?:에서?| 중)?|满分(?:是|为)?\s*{high}(?!\d)\s*分?[,;:]?", " ", text
    )
    text = re.sub(r"(?<=\d)\s*[점分]", " ", text)
    text = re.sub(
        rf"(?<=\d)\s*(?:/|\b(?:(?:out )?of|von|van|de)\b)\s*{high}(?!\w|[.,/]\d)",
        "",
        text,
        flags=re.IGNORECASE,
    )
    ends = rf"{low}\s*(?:-|to\b|through\b|and\b)\s*{high}"
    text = re.sub(rf"(?<![\w.,/-]){ends}(?!\w|[.,/]\d)", " ", text, flags=re.IGNORECASE)
    legend = rf"\b{low}\s*(?:=|means?\b)[^\d]*\b{high}\s*(?:=|means?\b)"
    return re.sub(legend, " ", text, flags=re.IGNORECASE)
