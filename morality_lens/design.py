"""Factors, their levels, and the conditions (cells) that a study crosses."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, ClassVar, Literal, get_args
from urllib.parse import unquote, urlsplit

import numpy as np
from pydantic import BeforeValidator, ConfigDict

from morality_lens.components import READY

Place = Literal["system", "before_question", "after_question", "with_review", "rationale", "feedback"]
"""Where a factor's levels enter the dialogue: see :class:`Factor`."""
OPENING: tuple[Place, ...] = ("system", "before_question", "after_question")
"""Places said once, in round 0; what is said there stays in the dialogue."""

COMPONENTS = ("instruction", "cot", "feedback")
"""The three components of self-correction that a study crosses unless it says otherwise."""
_PLACES: dict[str, Place] = {"instruction": "with_review", "cot": "rationale", "feedback": "feedback"}

SITES = ("answer_start", "answer_end", "answer_mean")
"""Sites that every run captures: see :class:`Design`."""

_ALONG_CUBES = {
    "item",
    "cluster",
    "round",
    "site",
    "layer",
    "d_model",
    "option",
    "component",
    "head",
    "block",
}
_ALONG_CUBES |= {
    "segment",
    "kind",
    "effect",
    "claim",
    "wording",
    "seed",
    "seeds",
    "sample",
    "repeat",
    "refit",
}
_ALONG_CUBES |= {"probe_draw", "draw", "strength", "version", "part", "history", "dose", "direction", "way"}
_ALONG_CUBES |= {"axis"}
_ALONG_CUBES |= {"measure", "better", "feature", "position", "name", "bound", "step", "label", "statement"}
_IN_TABLES = {
    "text",
    "rationale",
    "choice",
    "parsed",
    "correct",
    "role",
    "n_tokens",
    "stopped",
    "judge",
    "score",
}
_IN_TABLES |= {"condition", "before", "from", "to", "share", "missing"}
_IN_TABLES |= {"thought", "answer_prefix", "thinking_cut", "rationale_cut", "spells_control"}
_IN_TABLES |= {"feedback_text", "feedback_named", "feedback_withheld", "feedback_cut", "token_ids", "tokens"}
_IN_TABLES |= {"feedback_missing", "served_tokens", "served_differ", "served_recoded", "served_prompts"}
_IN_TABLES |= {"spans", "category", "mean", "ci_low", "ci_high", "n", "unparsed", "token", "cell", "place"}
_IN_DIALOGUES = {"question", "answer", "review", "cot_request", "answer_request", "context", "evidence"}
_IN_DIALOGUES |= {
    "template",
    "system",
    "none",
    "critique_request",
    "distinguish_request",
    "stereotype_request",
}
RESERVED = frozenset(_ALONG_CUBES | _IN_TABLES | _IN_DIALOGUES | set(SITES))
"""Names with another meaning in a cube, a table of answers or a transcript: no factor may have them."""
_NAME = re.compile(r"[A-Za-z_]\w*")
_LEVEL = re.compile(r"\w[\w.-]*")


def _variants(text: str | Sequence[str]) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else tuple(text)


@dataclass(frozen=True, kw_only=True)
class Factor:
    """What differs between conditions: levels, and what each of them adds to the dialogue.

    The level ``off`` adds nothing. What the other levels add depends on the place:

    - ``system``, ``before_question``, ``after_question``: a text said once, before the first answer;
    - ``with_review``: a text said in every correction round, after the request to look again;
    - ``rationale``: at ``on`` the model writes a rationale before its answer; at ``placebo`` a filler text
      takes its place;
    - ``feedback``: at ``on`` the protocol's source says something of the last answer; at ``placebo`` it is
      neutral words, or another item's feedback.

    Attributes:
        name: the factor, as it is called along the cube and as a segment of the transcript.
        levels: the first is the reference.
        place: where it enters; None takes the usual place of ``instruction``, ``cot``, ``feedback`` and of
            the components in :data:`morality_lens.components.READY`.
        texts: what each level says, one text or several alternative wordings. ``instruction`` takes its words
            from the wording where it has none of its own, and ``persona``, ``system_prompt``,
            ``authorship``, ``pressure`` and ``majority`` come with theirs, placebos included. ``{option}`` in
            a text is the option that expresses the item's bias, or else the first wrong one.

    Raises:
        ValueError: fewer than two levels, one given twice, a name with another meaning, or a level without
            its text.

    Examples:
        >>> persona = ml.Factor(name="persona", place="system", texts={"on": "You are a careful judge."})
        >>> persona.levels
        ('off', 'on')
        >>> ml.Factor(name="pressure", levels=("off", "placebo", "on")).variants("on")[0]
        'Are you sure? I do not think that this is right.'
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    levels: tuple[str, ...] = ("off", "on")
    place: Place | None = None
    texts: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name in RESERVED:
            raise ValueError(
                f"a factor needs a name of letters, digits and _ that means nothing else in a run; got "
                f"{self.name!r}."
            )
        odd = [level for level in self.levels if not _LEVEL.fullmatch(level)]
        if odd or len(set(self.levels)) != len(self.levels) or len(self.levels) < 2:
            raise ValueError(
                f"factor {self.name!r} needs two or more different levels, each a word; got {self.levels}."
            )
        place, texts = READY.get(self.name, (_PLACES.get(self.name), {}))
        if self.texts or self.place not in (None, place):
            texts = self.texts  # a factor of the user's own that has the name of a ready one
        object.__setattr__(self, "place", self.place or place)
        said = {k: _variants(v) for k, v in texts.items() if k in self.levels or texts is self.texts}
        object.__setattr__(self, "texts", said)
        if self.place not in get_args(Place):
            raise ValueError(
                f"factor {self.name!r} needs a place out of {', '.join(get_args(Place))}; got {self.place!r}."
                f" Those that need none are {', '.join((*COMPONENTS, *READY))}."
            )
        self._check_texts()

    def _check_texts(self) -> None:
        if self.place in ("rationale", "feedback"):
            odd = [level for level in self.levels if level not in ("off", "placebo", "on")]
            if odd or self.texts:
                raise ValueError(
                    f"factor {self.name!r} is the model's {self.place}: its levels are off, placebo and on, "
                    f"and it has no texts of its own; got {odd or list(self.texts)}."
                )
            return
        strange = [level for level in self.texts if level not in self.levels or level == "off"]
        blank = [k for k, texts in self.texts.items() if not texts or not all(t.strip() for t in texts)]
        if strange or blank:
            raise ValueError(
                f"factor {self.name!r} has the levels {self.levels}, and each but off has a text; got texts "
                f"for {list(self.texts)}{', empty ones among them' if blank else ''}."
            )
        silent = [level for level in self.levels if level != "off" and level not in self.texts]
        if silent and not self.from_wording:
            raise ValueError(
                f"factor {self.name!r} at {self.place} needs a text for {', '.join(silent)}: "
                f'{silent[0]} = "..." in TOML, texts={{"{silent[0]}": "..."}} in Python.'
            )

    @property
    def ready(self) -> bool:
        """Whether it says, in English, what the package's component of that name says."""
        _, texts = READY.get(self.name, (None, {}))
        return bool(self.texts) and all(self.texts[level] == texts.get(level) for level in self.texts)

    @property
    def from_wording(self) -> bool:
        """Whether the wording says what this factor says: an instruction without texts of its own."""
        return self.name == "instruction" and not self.texts and set(self.levels) <= {"off", "placebo", "on"}

    def variants(self, level: str) -> tuple[str, ...]:
        """The alternative wordings of a level's own text."""
        return _variants(self.texts[level])

    @property
    def segments(self) -> tuple[str, ...]:
        """The segments of a transcript that hold what this factor adds."""
        return (
            ("cot_request", "rationale")
            if self.place == "rationale"
            else (("feedback",) if self.place == "feedback" else (self.name,))
        )

    def manifest(self) -> dict[str, Any]:
        """The factor as a run's manifest holds it; a usual one is its name and levels."""
        plain: dict[str, Any] = {"name": self.name, "levels": list(self.levels)}
        if self.place != _PLACES.get(self.name):
            plain["place"] = self.place
        if self.texts:
            plain["texts"] = {level: list(texts) for level, texts in self.texts.items()}
        return plain


@dataclass(frozen=True, kw_only=True)
class Generated:
    """A factor that is not crossed: its level follows from those of the others, so it costs no cells.

    With ``on`` as +1 and ``off`` as -1 its sign is the product of the signs of the factors that it is
    generated by (Box, Hunter and Hunter 2005, chapter 6). Its main effect is aliased with their interaction:
    no analysis tells the two apart, and the results name both. See :func:`half_fraction`.

    Attributes:
        factor: with the levels ``off`` and ``on`` and texts; not the model's rationale or feedback.
        by: two or more crossed factors, run off and on.

    Raises:
        ValueError: other levels, or a place without texts.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    factor: Annotated[Factor, BeforeValidator(lambda value: _with_level_keys(value))]
    by: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.factor.levels != ("off", "on") or self.factor.place in ("rationale", "feedback"):
            raise ValueError(
                f"a generated factor is off or on and has texts; got {self.factor.name!r} at "
                f"{self.factor.place} with the levels {self.factor.levels}."
            )
        if len(set(self.by)) != len(self.by) or len(self.by) < 2:
            raise ValueError(
                f"{self.factor.name!r} needs two or more factors that generate it; got {self.by}."
            )

    def level(self, condition: "Condition") -> str:
        """Its level under a condition of the others."""
        return "on" if sum(condition[name] == "off" for name in self.by) % 2 == 0 else "off"


class Condition:
    """One cell of the design: the level of each factor; a factor that is not named is ``off``.

    Two conditions are equal if they differ in no level, whatever the order of their factors.

    Args:
        levels: the level of each factor, by the factor's name.

    Raises:
        TypeError: a level that is no text.

    Examples:
        >>> both = ml.Condition(instruction="on", feedback="on")
        >>> both.label
        'instruction+feedback'
        >>> both["cot"]
        'off'
        >>> ml.Condition(feedback="placebo").label
        'feedback(placebo)'
    """

    __slots__ = ("_levels",)

    def __init__(self, **levels: str) -> None:
        odd = {name: level for name, level in levels.items() if not isinstance(level, str)}
        if odd:
            given = ", ".join(f"{name}={level!r}" for name, level in odd.items())
            raise TypeError(f'a condition needs level names such as instruction="on"; got {given}.')
        self._levels = dict(levels)

    def __getitem__(self, factor: str) -> str:
        return self._levels.get(factor, "off")

    @property
    def coords(self) -> dict[str, str]:
        """The level of every named factor: what selects this cell in a cube."""
        return dict(self._levels)

    @property
    def label(self) -> str:
        """A short name: factors that are not off, joined by ``+``, levels other than on in brackets."""
        named = ((n, level) for n, level in self._levels.items() if level != "off")
        return "+".join(n if level == "on" else f"{n}({level})" for n, level in named) or "none"

    def _key(self) -> frozenset[tuple[str, str]]:
        return frozenset((n, level) for n, level in self._levels.items() if level != "off")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Condition) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"Condition({', '.join(f'{n}={level!r}' for n, level in self._levels.items())})"


def condition_of(label: str) -> Condition:
    """The condition of a label such as ``none`` or ``instruction+feedback(placebo)``.

    Raises:
        ValueError: another text.
    """
    levels: dict[str, str] = {}
    for part in [] if label == "none" else label.split("+"):
        found = re.fullmatch(r"([A-Za-z_]\w*)(?:\((\w[\w.-]*)\))?", part)
        if not found or found[1] in levels:
            raise ValueError(
                "a condition is none, or factors joined by + (instruction+cot, each with another level than "
                f"on in brackets: feedback(placebo)); got {label!r}."
            )
        levels[found[1]] = found[2] or "on"
    return Condition(**levels)


def said_of(condition: Condition) -> str:
    """The condition in a sentence: its label, or ``no component``."""
    return "no component" if condition == Condition() else condition.label


def _with_level_keys(value: Any) -> Any:
    """A factor's table with keys such as ``on = "..."`` gathered under ``texts``."""
    if not isinstance(value, Mapping):
        return value
    levels = value.get("levels", ("off", "on"))
    texts = {key: value[key] for key in value if key in levels}
    if not texts:
        return value
    rest = {key: held for key, held in value.items() if key not in texts}
    return {**rest, "texts": {**texts, **rest.get("texts", {})}}


@dataclass(frozen=True, kw_only=True)
class Design:
    """What is crossed and what is kept.

    Attributes:
        factors: what is crossed, with its levels; by default the three components at two levels, which give
            eight cells. A list is the whole design: name the components beside a factor of your own.
        rounds: correction rounds after round 0; a run holds ``rounds + 1`` rounds.
        sites: where residuals are read. ``answer_start`` is the token whose logits choose the answer's
            first token, ``answer_end`` the answer's last token, ``answer_mean`` the mean over its tokens;
            a segment's name means the mean over that segment's tokens in the same round.
        seed: seed of the sampler; unused under greedy decoding.
        generated: further factors whose levels follow from those of ``factors``: a fraction of the whole
            design, in which effects have aliases.

    Raises:
        ValueError: no factor, one given twice, two of them the model's rationale or feedback, fewer than one
            round, or an unknown site.

    Examples:
        >>> len(ml.Design(rounds=3).conditions)
        8
        >>> persona = ml.Factor(name="persona", place="system", texts={"on": "You are a careful judge."})
        >>> pair = ml.Design(factors=(ml.Factor(name="feedback"), persona), rounds=1)
        >>> [condition.label for condition in pair.conditions]
        ['none', 'persona', 'feedback', 'feedback+persona']
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    factors: tuple[Annotated[Factor, BeforeValidator(_with_level_keys)], ...] = tuple(
        Factor(name=name) for name in COMPONENTS
    )
    rounds: int = 5
    sites: tuple[str, ...] = SITES
    seed: int = 0
    generated: tuple[Generated, ...] = ()

    def __repr__(self) -> str:
        size = f"{len(self.conditions)} conditions x {self.n_rounds} rounds"
        seed = f", seed {self.seed}" if self.seed else ""
        return f"<Design {' x '.join(self.names)}: {size}, sites {', '.join(self.sites)}{seed}>"

    def __post_init__(self) -> None:
        every = [factor.name for factor in self.spoken_factors]
        if not self.factors or len(set(every)) != len(every):
            raise ValueError(f"a design needs one or more different factors; got {tuple(every)}.")
        for one in self.generated:
            two_level = [factor.name for factor in self.factors if factor.levels == ("off", "on")]
            if not set(one.by) <= set(two_level):
                raise ValueError(
                    f"{one.factor.name!r} is generated by factors that are crossed off and on, out of "
                    f"{two_level}; got {one.by}."
                )
        for place in ("rationale", "feedback"):
            double = [factor.name for factor in self.factors if factor.place == place]
            if len(double) > 1:
                raise ValueError(f"only one factor can be the model's {place}; got {', '.join(double)}.")
        if self.rounds < 1:
            raise ValueError(f"a design needs at least one correction round; got rounds={self.rounds}.")
        if self.seed < 0:
            raise ValueError(f"a random seed is 0 or above; got seed={self.seed}.")
        unknown = [site for site in self.sites if site not in SITES + self.segments]
        if unknown or not self.sites or len(set(self.sites)) != len(self.sites):
            raise ValueError(
                f"sites must be different names out of {SITES + self.segments}; got {self.sites}."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The factors' names."""
        return tuple(factor.name for factor in self.factors)

    @property
    def segments(self) -> tuple[str, ...]:
        """Segments whose mean residual can be captured as a further site."""
        said = (name for factor in self.spoken_factors for name in factor.segments)
        return ("question", "review", "thought", *said)

    @property
    def spoken_factors(self) -> tuple[Factor, ...]:
        """Every factor that adds something to the dialogue: those crossed, then those generated."""
        return (*self.factors, *(one.factor for one in self.generated))

    def spoken(self, condition: Condition) -> Condition:
        """The condition with the levels of the generated factors."""
        more = {one.factor.name: one.level(condition) for one in self.generated}
        return Condition(**condition.coords, **more) if more else condition

    @property
    def levels(self) -> dict[str, list[str]]:
        """The levels of every factor, as coordinates of a cube."""
        return {factor.name: list(factor.levels) for factor in self.factors}

    @property
    def coords(self) -> dict[str, Any]:
        """Coordinates of a cube: the levels of every factor, and along those factors the generated ones'."""
        found: dict[str, Any] = dict(self.levels)
        for one in self.generated:
            cells = itertools.product(("off", "on"), repeat=len(one.by))
            levels = [one.level(Condition(**dict(zip(one.by, cell, strict=True)))) for cell in cells]
            found[one.factor.name] = (one.by, np.array(levels).reshape((2,) * len(one.by)))
        return found

    @property
    def dims(self) -> tuple[str, ...]:
        """Dims of what a run stores for every answer: item, the factors, round."""
        return ("item", *self.names, "round")

    @property
    def cube_dims(self) -> tuple[str, ...]:
        """Dims of a run's residuals."""
        return (*self.dims, "site", "layer", "d_model")

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All cells, the last factor varying fastest."""
        cells = itertools.product(*(factor.levels for factor in self.factors))
        return tuple(Condition(**dict(zip(self.names, cell, strict=True))) for cell in cells)

    @property
    def early(self) -> tuple[str, ...]:
        """The factors whose levels change round 0: that speak before the first answer, or generate one."""
        first = {factor.name for factor in self.factors if factor.place in OPENING}
        first |= {name for one in self.generated if one.factor.place in OPENING for name in one.by}
        return tuple(name for name in self.names if name in first)

    @property
    def early_effects(self) -> tuple[str, ...]:
        """The factors, generated ones among them, whose effects exist in round 0."""
        said = (one.factor.name for one in self.generated if one.factor.place in OPENING)
        return (*self.early, *said)

    @property
    def n_rounds(self) -> int:
        """Rounds in the cube: round 0 and the correction rounds."""
        return self.rounds + 1

    def condition(self, wanted: Condition | str) -> Condition:
        """The design's own cell for a condition or its label, every factor named, in the design's order.

        Raises:
            ValueError: a factor or level that the design does not have.
        """
        given = condition_of(wanted) if isinstance(wanted, str) else wanted
        unknown = [name for name in given.coords if name not in self.names]
        cell = {name: given[name] for name in self.names}
        missing = [f"{n}={level}" for n, level in cell.items() if level not in self.levels[n]]
        if unknown or missing:
            there = "; ".join(f"{n}: {', '.join(levels)}" for n, levels in self.levels.items())
            raise ValueError(
                f"no condition {given.label!r} here ({', '.join([*unknown, *missing])}); the design has the "
                f"factors and levels {there}."
            )
        return Condition(**cell)

    def place(self, condition: Condition) -> tuple[int, ...]:
        """The position of a condition along the factors' dimensions."""
        return tuple(self.levels[n].index(v) for n, v in self.condition(condition).coords.items())

    def two_way(
        self, factors: Sequence[str], at: str | Mapping[str, str] = "off"
    ) -> tuple[str, str, dict[str, str]]:
        """Two factors in the design's order, and the level at which each other one is held.

        Raises:
            ValueError: other than two different factors of the design that were run off and on, or a level
                that was not run.
        """
        if self.generated:
            named = ", ".join(one.factor.name for one in self.generated)
            raise ValueError(
                f"in a fraction of a design conditions that differ in two factors differ in {named} too, so "
                "their interaction at levels of the others does not exist; play every combination."
            )
        chosen = [name for name in self.names if name in factors and {"off", "on"} <= set(self.levels[name])]
        if len(chosen) != 2 or len(factors) != 2:
            raise ValueError(
                f"an interaction is of two different factors, run off and on, out of {self.names}; got "
                f"{tuple(factors)}."
            )
        others = {name: "off" for name in self.names if name not in chosen}
        held = dict.fromkeys(others, at) if isinstance(at, str) else {**others, **at}
        odd = [
            f"{name} at {', '.join(self.levels.get(name, ['no level']))}"
            for name, level in held.items()
            if name not in others or level not in self.levels[name]
        ]
        if odd:
            raise ValueError(f"other factors are held at levels that were run, {'; '.join(odd)}; got {at!r}.")
        return chosen[0], chosen[1], held

    def opening(self, condition: Condition) -> Condition:
        """What of a condition is said before the first answer: cells that share it share round 0."""
        return Condition(**{name: condition[name] for name in self.early})

    def manifest(self) -> dict[str, Any]:
        """The design as a run's manifest holds it."""
        generated = [{"factor": one.factor.manifest(), "by": list(one.by)} for one in self.generated]
        return {
            "factors": [factor.manifest() for factor in self.factors],
            "rounds": self.rounds,
            "sites": list(self.sites),
            "seed": self.seed,
            **({"generated": generated} if generated else {}),
        }


def design_from(value: Mapping[str, Any]) -> Design:
    """The design from its form in a manifest."""
    return Design(
        factors=tuple(map(_factor_from, value["factors"])),
        rounds=value["rounds"],
        sites=tuple(value["sites"]),
        seed=value.get("seed", 0),
        generated=tuple(
            Generated(factor=_factor_from(one["factor"]), by=tuple(one["by"]))
            for one in value.get("generated", ())
        ),
    )


def _factor_from(value: Mapping[str, Any]) -> Factor:
    """A factor from its form in a manifest."""
    return Factor(
        name=value["name"],
        levels=tuple(value["levels"]),
        place=value.get("place"),
        texts={level: tuple(texts) for level, texts in value.get("texts", {}).items()},
    )


def half_fraction(factors: Sequence[Factor], **settings: Any) -> Design:
    """The half of all combinations in which the last factor is generated by all the others.

    Of n factors the resolution is n, the highest that a half can have: with four (resolution IV, 8 cells in
    place of 16) main effects are aliased with three-way interactions alone, and two-way interactions with
    each other in pairs; with three (III) main effects are aliased with two-way interactions.
    ``factorial_effects`` of a run calls the generated factor's effect by its name, and ``attrs["aliases"]``
    says what each effect cannot be told from.

    Args:
        factors: three or more at the levels off and on; the last one has texts.
        settings: the other attributes of :class:`Design`.

    Raises:
        ValueError: fewer than three factors, other levels, or a last factor without texts.

    Examples:
        >>> four = [ml.Factor(name=n) for n in ("instruction", "cot", "feedback", "persona")]
        >>> design = ml.design.half_fraction(four, rounds=1)
        >>> len(design.conditions), design.generated[0].by
        (8, ('instruction', 'cot', 'feedback'))
    """
    *crossed, last = factors
    if len(crossed) < 2:
        raise ValueError(f"half_fraction needs three factors or more; got {len(factors)}.")
    generated = Generated(factor=last, by=tuple(factor.name for factor in crossed))
    return Design(factors=tuple(crossed), generated=(generated,), **settings)


_SECRET_FIELD = re.compile(
    r"(^|[_.-])(api|access|auth)?_?(key|token|secret|passw(or)?d|pwd|auth|authorization|bearer|sig|signature"
    r"|credentials?|jwt|code|session)$",
    re.I,
)
_SECRET_VALUE = re.compile(r"\bsk-\w{8}|\bhf_\w{16}|^Bearer\s|^Basic\s")
_USER_INFO = re.compile(
    r"^([A-Za-z][\w+.-]*:)?(//)?[^/?#]*@|^[A-Za-z][\w+.-]*://[^/?#:@]+:(?!\d*([/?#]|$))[^@]*@"
)
_OWN_FIELDS = {"model", "messages", "max_tokens", "temperature", "seed", "stream", "n"}
"""Fields of a request to a server that the protocol fills in itself."""


def refuse_no_address(address: str) -> None:
    """Nothing, where the text is the address of a server.

    Raises:
        ValueError: it is none. What came is named without what follows its path.
    """
    try:
        parts = urlsplit(address)
        found = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets without an address, or a port that is no number
        found = False
    if not found or any(not c.isprintable() or c.isspace() for c in address):
        raise ValueError(
            "the address of a server begins with http:// or https:// and names a host, such as "
            f"http://localhost:8000/v1; got {address.partition('?')[0][:80]!r}."
        )


def refuse_secrets(address: str | None, fields: Mapping[str, Any]) -> None:
    """Nothing, where no key or password is part of what a run's folder will hold; none is repeated."""
    address = unquote(address or "")
    held = list(_leaves(fields))
    named = [part.partition("=")[0] for part in re.split(r"[?#&;]", address)[1:]]
    named += [name for name, _ in held]
    found = [name for name in named if _SECRET_FIELD.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name))]
    if _USER_INFO.match(address):
        found.append("a user name or password before the @")
    if any(_SECRET_VALUE.search(text) for text in (address, *(str(value) for _, value in held))):
        found.append("a key that begins with sk-, hf_ or Bearer")
    if found:
        raise ValueError(
            "the address of a server and the further fields of its requests are stored with the run, so they "
            f"may hold no secret; found {', '.join(found)}. Leave it out, and put the key into the "
            "environment variable OPENAI_API_KEY."
        )


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The values inside tables and lists, each with the name it stands under."""
    if isinstance(value, Mapping):
        for key, held in value.items():
            yield from _leaves(held, str(key))
    elif isinstance(value, list | tuple):
        for held in value:
            yield from _leaves(held, name)
    else:
        yield name, value


def _check_request(what: str, by: str, fields: Mapping[str, Any]) -> None:
    """Refuse further fields of what is requested where no server is asked, and those that the protocol fills
    in."""
    own = sorted(_OWN_FIELDS & set(fields))
    if own or (fields and by != "endpoint"):
        raise ValueError(
            f"{what}_request holds further fields of the requests to a server ({what}='endpoint'), such "
            f"as top_p or reasoning_effort; got {what}={by!r} and {', '.join(own or fields)}. "
            f"{', '.join(sorted(_OWN_FIELDS))} have settings of their own."
        )


def _check_generation(protocol: "Protocol") -> None:
    """Refuse settings of the server that writes the replies which do not fit together, or hold a secret."""
    served, given = protocol.generate == "endpoint", (protocol.generate_from, protocol.generate_model)
    if protocol.generate not in get_args(Generator):
        raise ValueError(f"replies are generated by {get_args(Generator)}; got {protocol.generate!r}.")
    if served and not protocol.generate_model:
        raise ValueError(
            "generate='endpoint' needs the name of the server's model as generate_model (and its address as "
            "generate_from, where it is not the official one)."
        )
    if not served and given != (None, None):
        raise ValueError(
            "generate_from and generate_model name the server that writes the replies; with them "
            f"generate='endpoint' is needed, got {protocol.generate!r}."
        )
    _check_request("generate", protocol.generate, protocol.generate_request)
    if served:
        refuse_secrets(protocol.generate_from, protocol.generate_request)
        if protocol.generate_from is not None:
            refuse_no_address(protocol.generate_from)


@dataclass(frozen=True, kw_only=True)
class ReplyLimits:
    """Most tokens of what a model writes.

    Attributes:
        answer: of an answer.
        rationale: of a rationale.
        feedback: of a feedback text.
        thinking: of the thoughts before any of them, for a model that thinks.
    """

    answer: int = 32
    rationale: int = 256
    feedback: int = 128
    thinking: int = 512

    def __post_init__(self) -> None:
        if min(self.answer, self.rationale, self.feedback) < 1 or self.thinking < 0:
            raise ValueError(
                "answers, rationales and feedback need at least one token, and thoughts none or more; got "
                f"{self}."
            )


FeedbackSource = Literal["self", "oracle", "model", "endpoint", "file"]
Generator = Literal["engine", "endpoint"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How dialogues are played: the design, the words, who gives feedback, and how long a reply may be.

    Attributes:
        design: what is crossed and kept.
        wording: path of a TOML file, or a language in which the package has a wording (``es``; see
            :func:`morality_lens.dialogues.load_wording`); None is the English one.
        wording_index: which of its alternative wordings.
        feedback: ``self`` (the same model, asked in a dialogue of its own), ``model`` (another one, asked in
            the same way), ``endpoint`` (a model behind an OpenAI-compatible server), ``oracle`` (a text
            chosen by the judge, who knows the right answer) or ``file`` (people's, say).
        feedback_from: the other model (hub name or folder), the server's address (None is the official
            one), or the file.
        feedback_model: the name of the model behind the server.
        feedback_request: further fields of each request to the server (``top_p``, ``reasoning_effort``); with
            ``max_completion_tokens`` among them, ``max_tokens`` is not sent.
        feedback_placebo: what the level ``placebo`` of feedback says: ``neutral`` words, or ``yoked``: what
            the source said of another item of the batch. A yoked text has the source's own form and length,
            but it may fit the answer by chance.
        feedback_named: what becomes of feedback that names one of the options: it is ``kept`` and counted,
            or ``withheld`` and the neutral words take its place.
        answer_tokens: most tokens of an answer; None is what suits the model: 32 (see
            :class:`ReplyLimits`), or less for the bundled models, which write short replies.
        rationale_tokens: most tokens of a rationale; None is 256, or what suits the bundled model.
        feedback_tokens: most tokens of a feedback; None is 128, or what suits the bundled model.
        thinking_tokens: most tokens of the thoughts before each of them, for a model whose chat template
            marks thoughts; 0 skips them, None is 512. Other models are not affected.
        answer_prefix: how every answer begins, such as ``Answer:``, for models that do not begin with a
            letter of their own accord; it stands in the transcript as a segment of that name.
        temperature: 0 takes the most probable token; above 0 tokens are drawn with the design's seed.
        system_prompt: what a system turn says at the beginning of every dialogue that the model holds (of its
            own feedback and side questions too; another model's feedback is without it); None for none.
        generate: who writes the replies (answers, rationales, and the feedback of ``self``): the ``engine``
            that reads them, or the same model behind an OpenAI-compatible server (``endpoint``), which is
            faster for a large model; every finished dialogue is then read once by the engine.
        generate_from: that server's address; None is the official one.
        generate_model: the name of the model behind it.
        generate_request: further fields of each request to it, as ``feedback_request``.

    Raises:
        ValueError: a limit below one token, a negative temperature, an unknown feedback source, or one
            without what it needs, or a key or password in what is stored of a server.

    Examples:
        >>> protocol = ml.Protocol(design=ml.Design(rounds=1), answer_tokens=8)
        >>> protocol.design.rounds, protocol.feedback
        (1, 'self')
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    design: Design = Design()
    wording: str | None = None
    wording_index: int = 0
    feedback: FeedbackSource = "self"
    feedback_from: str | None = None
    feedback_model: str | None = None
    feedback_request: Mapping[str, Any] = field(default_factory=dict)
    feedback_placebo: Literal["neutral", "yoked"] = "neutral"
    feedback_named: Literal["kept", "withheld"] = "kept"
    answer_tokens: int | None = None
    rationale_tokens: int | None = None
    feedback_tokens: int | None = None
    thinking_tokens: int | None = None
    answer_prefix: str = ""
    temperature: float = 0.0
    system_prompt: str | None = None
    generate: Generator = "engine"
    generate_from: str | None = None
    generate_model: str | None = None
    generate_request: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        chosen = [
            f"{one.name}={getattr(self, one.name)!r}"
            for one in fields(self)
            if one.name not in ("design", "feedback") and getattr(self, one.name) not in (one.default, {})
        ]
        return f"<Protocol {', '.join([f'feedback={self.feedback!r}', *chosen])}: {self.design!r}>"

    def __post_init__(self) -> None:
        _ = self.limits
        if self.system_prompt is not None and not self.system_prompt.strip():
            raise ValueError("system_prompt needs words; give None for no system turn.")
        if self.answer_prefix and not self.answer_prefix.strip():
            raise ValueError(f"answer_prefix needs words, or is empty; got {self.answer_prefix!r}.")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be a finite number, 0 or above; got {self.temperature}.")
        if self.feedback not in get_args(FeedbackSource):
            raise ValueError(f"feedback must come from {get_args(FeedbackSource)}; got {self.feedback!r}.")
        if self.feedback in ("model", "file") and not self.feedback_from:
            wanted = {"model": "a hub name or folder", "file": "the file's path"}[self.feedback]
            raise ValueError(f"feedback={self.feedback!r} needs {wanted} as feedback_from.")
        if self.feedback == "endpoint" and not self.feedback_model:
            raise ValueError(
                "feedback='endpoint' needs the name of the server's model as feedback_model (and its address "
                "as feedback_from, where it is not the official one)."
            )
        _check_request("feedback", self.feedback, self.feedback_request)
        _check_generation(self)
        if self.feedback == "endpoint" or "://" in (self.feedback_from or ""):
            refuse_secrets(self.feedback_from, self.feedback_request)
        if self.feedback == "endpoint" and self.feedback_from is not None:
            refuse_no_address(self.feedback_from)
        policy = (self.feedback_placebo, self.feedback_named)
        if policy[0] not in ("neutral", "yoked") or policy[1] not in ("kept", "withheld"):
            raise ValueError(
                f"feedback_placebo is neutral or yoked, and feedback_named kept or withheld; got {policy}."
            )
        if self.wording_index < 0:
            raise ValueError(f"wording_index must be 0 or above; got {self.wording_index}.")

    @property
    def limits(self) -> ReplyLimits:
        """The most tokens of each reply, with the usual number where the protocol names none."""
        return self._limits(ReplyLimits())

    def _limits(self, usual: ReplyLimits) -> ReplyLimits:
        given = {name: getattr(self, f"{name}_tokens") for name in asdict(usual)}
        return replace(usual, **{name: value for name, value in given.items() if value is not None})

    def with_limits(self, usual: ReplyLimits) -> "Protocol":
        """The protocol with a number for every limit, the model's usual one where it names none."""
        return replace(self, **{f"{name}_tokens": n for name, n in asdict(self._limits(usual)).items()})
