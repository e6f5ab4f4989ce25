"""A run's dialogues on a server of this machine: read page by page, coloured by the model on request."""

import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from morality_lens.plots.transcripts import (
    Strings,
    asset,
    by_dialogue,
    color_scales,
    forms,
    json_for_script,
    safe,
)
from morality_lens.report.browser import about, dialogue, rows_of, title
from morality_lens.runs.pages import Found, Query, Shelf, Told, find, matching, shelf
from morality_lens.runs.run import Run
from morality_lens.runs.token_view import TokenView, token_view

HOST = "127.0.0.1"
"""The only address that is served: that of this machine."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
LONGEST_WORDS = 1000
"""Characters that are searched for."""
MOST_ROWS = 100
"""Dialogues of one answer."""


@runtime_checkable
class Reader(Protocol):
    """Whatever reads dialogues again with the run's model."""

    @property
    def directions(self) -> Sequence[str]:
        """Names of the directions that tokens are coloured by; none where there is no probe."""
        ...

    def tokens(self, rows: pd.DataFrame) -> Sequence[TokenView]:
        """Views of rows of the run's transcripts, for each direction."""
        ...

    def attention(self, row: pd.Series, *, layer: int, head: int, token: int) -> tuple[np.ndarray, int]:
        """How much a token of a row reads from every token, and how many heads a block has."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Served:
    """What a server shows.

    Attributes:
        held: the run.
        views: coloured dialogues that were kept with it.
        reader: of further ones.
    """

    held: Shelf
    views: Sequence[TokenView]
    reader: Reader


def browser_app(run: Run, reader: Reader, *, port: int, views: Sequence[TokenView] = ()) -> ASGIApp:
    """The server's application: GET requests to this machine's own address, and nothing else.

    Args:
        run: a run.
        reader: reads dialogues with the model, when they are first asked for.
        port: that it is served on, which every request must name.
        views: coloured dialogues that were kept with the run.
    """
    served = Served(held=shelf(run), views=tuple(views), reader=reader)

    def at(answer: Callable[[Served, Mapping[str, str]], Any]) -> Callable[[Request], Response]:
        def respond(request: Request) -> Response:
            try:
                return JSONResponse(answer(served, request.query_params))
            except HTTPException as error:
                return JSONResponse({"error": error.detail}, status_code=error.status_code)
            except (ValueError, OSError, ImportError, RuntimeError) as error:
                return JSONResponse({"error": " ".join(str(error).split())}, status_code=422)

        return respond

    def text(content: str, kind: str) -> Callable[[Request], Response]:
        return lambda request: Response(content, media_type=kind)

    routes = [
        Route("/", text(_page(served), "text/html")),
        Route("/browser.css", text(_style(), "text/css")),
        Route("/serving.js", text(_asset("serving.js"), "text/javascript")),
        Route("/browser.js", text(asset("transcripts.js"), "text/javascript")),
        Route("/api/list", at(_list)),
        Route("/api/dialogue", at(_dialogue)),
        Route("/api/tokens", at(_tokens)),
        Route("/api/attention", at(_attention)),
    ]
    return _guarded(Starlette(routes=routes), {f"{HOST}:{port}", f"localhost:{port}"})


def _guarded(app: ASGIApp, hosts: set[str]) -> ASGIApp:
    """The application behind checks of method and address, with the headers that every response has."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await app(scope, receive, send)
            return
        refused = _refusal(scope["method"], Headers(scope=scope), hosts)
        await (refused or app)(scope, receive, _with_headers(send))

    return guard


def _refusal(method: str, headers: Headers, hosts: set[str]) -> Response | None:
    """The answer to a request that is not served: of another method, for another host, or by another site."""
    if headers.getlist("host") not in [[host] for host in hosts]:  # a name that somebody made lead here
        return PlainTextResponse("this server answers for its own address alone", status_code=403)
    if method != "GET":
        return PlainTextResponse("GET is all there is", status_code=405, headers={"allow": "GET"})
    if (
        headers.get("sec-fetch-site") in ("cross-site", "same-site")
        and headers.get("sec-fetch-mode") != "navigate"
    ):
        return PlainTextResponse("this server answers its own pages alone", status_code=403)
    return None


def _with_headers(send: Send) -> Callable[[Message], Awaitable[None]]:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message["headers"], *own]}
        await send(message)

    return sent


# --------------------------------------------------------------------------------------------- the page
def _page(served: Served) -> str:
    run = served.held.run
    command = f"morality-lens view {shlex.quote(str(run.path))}"
    data = {
        **about(served.held),
        "links": True,
        "command": command,
        "directions": list(served.reader.directions),
        "reads": True,
    }
    name = safe(f"Dialogues of {run.path.resolve().name}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f'<link rel="stylesheet" href="/browser.css"></head><body><main><h1>{name}</h1>'
        f"<p>{safe(repr(run)[1:-1])}</p><noscript><p>Scripts are needed here; the report of the run can be "
        'read without.</p></noscript><div class="ml-transcript">'
        f'<script type="application/json" class="mlt-data">{json_for_script(data)}</script></div></main>'
        '<script src="/serving.js"></script><script src="/browser.js"></script></body></html>'
    )


def _style() -> str:
    return asset("transcripts.css") + _asset("serving.css")


def _asset(name: str) -> str:
    return files("morality_lens.report").joinpath(name).read_text(encoding="utf-8")


# --------------------------------------------------------------------------------------------- requests
def _list(served: Served, asked: Mapping[str, str]) -> dict[str, Any]:
    """A page of dialogues."""
    size = min(_whole("size", asked.get("size", str(MOST_ROWS))), MOST_ROWS)
    query, cursor = _query(served.held.run, asked), _cursor(asked.get("cursor", ""))
    found: Found = find(served.held, query, cursor=cursor, size=max(1, size))
    total = len(served.held.run.items)
    return {
        "rows": [
            {
                "item": told.item.id,
                "condition": told.condition.label,
                "title": title(told.item),
                "outcomes": told.outcomes,
            }
            for told in found.told
        ],
        "cursor": None if found.cursor is None else "{}.{}".format(*found.cursor),
        "searched": f"{found.searched} of {total} items searched" if found.cursor else "",
    }


def _query(run: Run, asked: Mapping[str, str]) -> Query:
    round, condition = asked.get("round", ""), asked.get("condition", "")
    if condition:
        run.design.condition(condition)
    return Query(
        condition=condition,
        outcome=asked.get("outcome", ""),
        round=_whole("round", round) if round else None,
        category=asked.get("category", ""),
        words=asked.get("words", "")[:LONGEST_WORDS],
    )


def _cursor(text: str) -> tuple[int, int]:
    if not text:
        return 0, 0
    group, _, place = text.partition(".")
    return _whole("cursor", group), _whole("cursor", place)


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise HTTPException(400, f"{name} must be a whole number; got {text[:40]!r}.")
    return int(text)


def _told(served: Served, asked: Mapping[str, str]) -> tuple[Told, int]:
    """The dialogue that a request names, and the number of the group that holds it."""
    held, item, label = served.held, asked.get("item", ""), asked.get("condition", "")
    number = held.group_of(item)
    if number is not None and label:
        for told in matching(held, number, Query(item=item, condition=label)):
            return told, number
    raise HTTPException(404, f"the run has no finished dialogue of item {item[:80]!r} under {label[:80]!r}.")


def _dialogue(served: Served, asked: Mapping[str, str]) -> dict[str, Any]:
    """One dialogue, coloured where that was kept."""
    told, number = _told(served, asked)
    kept = [view for view in _kept(served, told) if view.values is not None]
    if kept:
        return _whole_dialogue(served, told, kept, color_scales(served.views), own=False)
    rows = rows_of(served.held, told, number)
    return _whole_dialogue(served, told, [token_view(row) for _, row in rows.iterrows()], {}, own=True)


def _kept(served: Served, told: Told) -> Sequence[TokenView]:
    return by_dialogue(served.views).get((told.item.id, told.condition.label), ())


def _whole_dialogue(
    served: Served, told: Told, views: Sequence[TokenView], scales: Mapping[str, Any], *, own: bool
) -> dict[str, Any]:
    if not views:
        raise HTTPException(404, f"the run kept no transcript of item {told.item.id!r}.")
    strings = Strings()
    found = dialogue(served.held, told, views, strings, tokens=True)
    return {**found, "strings": list(strings.numbers), "scales": scales, "own": own}


def _tokens(served: Served, asked: Mapping[str, str]) -> dict[str, Any]:
    """One dialogue, read again by the model."""
    told, number = _told(served, asked)
    views = served.reader.tokens(rows_of(served.held, told, number))
    return _whole_dialogue(served, told, views, color_scales(views), own=True)


def _attention(served: Served, asked: Mapping[str, str]) -> dict[str, Any]:
    """How much one token of a dialogue reads from every other that is shown; null for what it cannot read."""
    told, number = _told(served, asked)
    layer, head, token = (_whole(name, asked.get(name, "")) for name in ("layer", "head", "token"))
    rows = [row for _, row in rows_of(served.held, told, number).iterrows()]
    shown = [
        (form, place)
        for form, (_, own) in enumerate(forms(token_view(row) for row in rows))
        for piece in own
        for place in range(piece.start, piece.stop)
    ]
    if token >= len(shown):
        raise HTTPException(404, f"this dialogue has {len(shown)} tokens; got token {token}.")
    form, here = shown[token]
    views = [view for view, _ in forms(token_view(row) for row in rows)]
    row = next(one for one in rows if tuple(map(int, one["token_ids"])) == views[form].token_ids)
    weights, heads = served.reader.attention(row, layer=layer, head=head, token=here)
    read = [
        float(f"{weights[place]:.4g}") if other == form and place <= here else None for other, place in shown
    ]
    return {"weights": read, "heads": heads}
