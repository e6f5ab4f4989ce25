"""Chat templates run as strangers' programs: in a sandbox, with a bound on their time and their output."""

import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MOST_CHARACTERS = 20_000_000
"""The most characters that one rendering may write, and that one text in it may have."""
MOST_NUMBER = 100_000
"""The largest number that a template may ask blanks, digits or repetitions of."""
MOST_SECONDS, MOST_ROUNDS = 20.0, 300_000
"""The longest that one rendering may take (a dialogue takes milliseconds), and the most rounds of its loops
and calls together."""
HELD = 64
"""What a list or table counts for, beside what is in it."""
REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of a message's thoughts; templates read the first, and some the second."""


class TemplateLimitError(ValueError):
    """A chat template would write or compute without end."""


def render_template(
    source: str, messages: Sequence[Mapping[str, str]], variables: Mapping[str, Any], *, prompt: bool
) -> str:
    """What a chat template writes, as transformers' ``apply_chat_template`` renders it.

    Args:
        source: the Jinja template.
        messages: the dialogue, each message with its role and content.
        variables: further variables: the tokenizer's special tokens, and the template's keywords.
        prompt: whether the template adds the prompt for a reply.

    Raises:
        TemplateError: the template is none, or it refuses the dialogue.
        TemplateLimitError: it is stopped, see :data:`MOST_CHARACTERS` and :data:`MOST_SECONDS`.
    """
    _spent.begin()
    return _compiled(source).render(
        messages=[_with_thoughts(message) for message in messages],
        tools=None,
        documents=None,
        add_generation_prompt=prompt,
        **variables,
    )


def _with_thoughts(message: Mapping[str, str]) -> dict[str, str]:
    """A message whose thoughts stand under the names that templates read."""
    thoughts = next((message[name] for name in REASONING if name in message), None)
    plain = dict(message)
    return plain if thoughts is None else {"thinking": thoughts, **plain, "reasoning_content": thoughts}


@lru_cache(maxsize=64)
def _compiled(source: str) -> Template:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=_spend_text
    )
    tree = _Bounded().visit(environment.parse(source))
    code = environment.compile(tree)
    return environment.template_class.from_code(environment, code, environment.make_globals(None))


# ------------------------------------------------------------------------------------------------ budget
class _Spent(threading.local):
    """What the rendering in this thread has used so far."""

    characters, rounds = 0, 0
    until = math.inf

    def begin(self) -> None:
        self.characters, self.rounds, self.until = 0, 0, time.monotonic() + MOST_SECONDS

    def step(self, characters: int = 0) -> bool:
        """True, after characters, rounds and time were counted.

        Raises:
            TemplateLimitError: there were too many.
        """
        self.characters += characters
        self.rounds += 1
        if self.characters > MOST_CHARACTERS:
            raise _too_much()
        if self.rounds > MOST_ROUNDS or time.monotonic() > self.until:
            raise TemplateLimitError(
                f"the chat template was stopped: it did not end within {MOST_SECONDS:.0f} seconds and "
                f"{MOST_ROUNDS:,} rounds of its loops. Repair them, or take the template of another "
                "checkpoint of this model."
            )
        return True


_spent = _Spent()


def _too_much() -> TemplateLimitError:
    return TemplateLimitError(
        f"the chat template was stopped: it would write more than {MOST_CHARACTERS:,} characters. Repair it, "
        "or take the template of another checkpoint of this model."
    )


def _refuse_size(size: int) -> None:
    if size > MOST_CHARACTERS:
        raise _too_much()


def _size(*values: Any) -> int:
    """About how many characters the values have when they are written, refused where there are too many."""
    size, left = 0, list(values)
    while left:
        one = left.pop()
        if isinstance(one, str | bytes):
            size += len(one)
        elif isinstance(one, Mapping):
            size += HELD
            left += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            size += HELD
            left += one
        elif isinstance(one, int):
            size += one.bit_length() // 3
        _refuse_size(size + len(left))
    return size


def _spend_text(value: Any) -> Any:
    """What a template writes at one place, counted."""
    _spent.step(_size(value))
    return value


# ------------------------------------------------------------------------------------- what grows a text
def _refuse_number(*values: Any) -> None:
    """Nothing, where no number is so large that a text of that width would be."""
    if any(isinstance(value, int | float) and not abs(value) <= MOST_NUMBER for value in values):
        raise _too_much()


def _refuse_width(form: Any, *values: Any) -> None:
    """Nothing, where a format asks for no wide field and writes its values not too often."""
    fields = form.count("%") + form.count("{") if isinstance(form, str) else 0
    if isinstance(form, str) and re.search(r"\d{5}", form):
        raise _too_much()
    if fields and re.search(r"\*|\{[^}]*\{", form):  # widths that are values
        _refuse_number(*values)
    _refuse_size(_size(form) + fields * _size(list(values)))


def _repeated(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _refuse_number(left.bit_length() + right.bit_length())
        return
    for text, times in ((left, right), (right, left)):
        if isinstance(text, str | list | tuple | bytes) and isinstance(times, int):
            _refuse_size(max(len(text), _size(text)) * max(times, 0))


def _raised(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _refuse_number(left.bit_length() * abs(right))


def _added(left: Any, right: Any) -> None:
    if isinstance(left, str | list | tuple):
        _refuse_size(_size(left, right))


def _formatted(left: Any, right: Any) -> None:
    if isinstance(left, str | bytes):
        _refuse_width(left, *(right if isinstance(right, tuple) else (right,)))


OPERATORS: dict[str, Callable[[Any, Any], None]] = {
    "*": _repeated,
    "**": _raised,
    "+": _added,
    "%": _formatted,
}
"""Operators that make a larger value, and what refuses one that is too large."""


def _joined(values: Any, separator: Any = "", attribute: Any = None) -> None:
    if isinstance(values, list | tuple | str):
        _refuse_size(_size(values) + len(values) * _size(separator))


def _replaced(text: Any, old: Any, new: Any, count: Any = None) -> None:
    if isinstance(text, str) and isinstance(old, str):
        _refuse_size(len(text) + text.count(old) * _size(new))


def _indented(text: Any, *more: Any, **named: Any) -> None:
    widths = (*more, *named.values())
    _refuse_number(*widths)
    wide = max((one if isinstance(one, int) else _size(one) for one in widths), default=4)
    _refuse_size(_size(text) + (str(text).count("\n") + 1) * wide if isinstance(text, str) else 0)


def _wrapped(text: Any, *more: Any, **named: Any) -> None:
    widths = (*more, *named.values())
    _refuse_size(_size(text) * (1 + _size([one for one in widths if isinstance(one, str)])))


def _padded(value: Any, *more: Any, **named: Any) -> None:
    _refuse_number(*more, *named.values())
    _refuse_size(_size(value, *more, *named.values()))


def _nested(value: Any, *more: Any, **named: Any) -> None:
    _padded(value, *more, **named)
    wide = max((one for one in (*more, *named.values()) if isinstance(one, int)), default=0)
    _refuse_size(_size(value) * (1 + wide))


def _summed(values: Any, *more: Any, **named: Any) -> None:
    texts = any(isinstance(one, str | list | tuple) for one in (*more, *named.values()))
    if texts and isinstance(values, list | tuple):
        _refuse_size(_size(values) * len(values))


GROWING: dict[str, Callable[..., None]] = {
    "join": _joined,
    "replace": _replaced,
    "indent": _indented,
    "wordwrap": _wrapped,
    "format": _refuse_width,
    "center": _padded,
    "batch": _padded,
    "slice": _padded,
    "round": _padded,
    "tojson": _nested,
    "sum": _summed,
}
"""Filters that make a larger value, and what refuses one that is too large."""
METHODS: dict[str, Callable[..., None]] = {
    **dict.fromkeys(("center", "ljust", "rjust", "zfill", "expandtabs"), _padded),
    "replace": _replaced,
    "format": lambda text, *values, **named: _refuse_width(text, *values, *named.values()),
    "format_map": _refuse_width,
    "join": lambda text, values: _joined(list(values), text),
    "translate": lambda text, table: _refuse_size(len(text) * max(1, _size(table))),
}
"""The same of the methods of texts; a format's numbers are widths where it takes them from its values."""


# ------------------------------------------------------------------------------------------- environment
class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox in which transformers renders chat templates, with every growing step checked before."""

    intercepted_binops = frozenset(OPERATORS)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters["tojson"] = _tojson
        for name, made in list(self.filters.items()):
            self.filters[name] = _checked(made, GROWING.get(name))
        del self.globals["lipsum"]
        self.globals |= {
            "raise_exception": _raise,
            "strftime_now": lambda form: datetime.now().strftime(form),
            "dict": lambda *given, **named: dict(*given, **named),
            "namespace": _Names,
        }

    step = staticmethod(_spent.step)

    @staticmethod
    def joined(*values: Any) -> str:
        """The values as one text: the operator ``~``."""
        _spent.step()
        _refuse_size(_size(list(values)))
        return "".join(map(str, values))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _spent.step()
        OPERATORS[operator](left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as in jinja2
        _spent.step()
        method = getattr(__obj, "__wrapped__", __obj)  # what the sandbox puts in place of a text's format
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            grown = METHODS.get(method.__name__)
            given = {
                name: value for name, value in kwargs.items() if name not in ("_loop_vars", "_block_vars")
            }
            if grown is not None:
                grown(owner, *args, **given)
        return super().call(__context, __obj, *args, **kwargs)


def _checked(filter: Callable[..., Any], grown: Callable[..., None] | None) -> Callable[..., Any]:
    """The filter, whose growth is refused before it grows; it takes the same arguments."""
    first = 1 if hasattr(filter, "jinja_pass_arg") else 0

    @wraps(filter)
    def checked(*given: Any, **named: Any) -> Any:
        _spent.step()
        _size(*given[first : first + 1])
        if grown is not None:
            grown(*given[first:], **named)
        return filter(*given, **named)

    return checked


class _Bounded(NodeTransformer):
    """Every round of a loop and call of a macro counts what it writes, and ``~`` becomes a checked call."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        node = super().generic_visit(node, *args, **kwargs)
        if isinstance(node, nodes.Concat):
            return _call("joined", node.nodes)
        if isinstance(node, nodes.For):
            node.body.insert(0, nodes.ExprStmt(_step(node.body), lineno=node.lineno))
            if node.test is not None:
                node.test = nodes.And(_step(()), node.test, lineno=node.lineno)
        elif isinstance(node, nodes.Macro | nodes.CallBlock | nodes.FilterBlock | nodes.AssignBlock):
            node.body.insert(0, nodes.ExprStmt(_step(node.body), lineno=node.lineno))
        return node


def _step(body: Iterable[nodes.Node]) -> nodes.Call:
    """A call that counts a round, and the template's own characters in it."""
    written = sum(len(text.data) for node in body for text in _texts(node))
    return _call("step", [nodes.Const(written)])


def _texts(node: nodes.Node) -> Iterable[nodes.TemplateData]:
    return [node] if isinstance(node, nodes.TemplateData) else node.find_all(nodes.TemplateData)


def _call(name: str, values: list[Any]) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), values, [], None, None)


class _Generation(Extension):
    """``{% generation %}``, which marks replies for training: what is inside is written as it is."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Any) -> Any:
        """The nodes inside the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Names(Namespace):
    """A template's namespace, without names that lead into Python."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, given = args[0], dict(*args[1:], **kwargs)
        for name in given:
            _refuse_private(name)
        Namespace.__init__(self, given)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace may not hold the name {name!r}")


def _raise(message: object) -> None:
    raise TemplateError(str(message))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as chat templates mean it: without HTML's escapes."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
