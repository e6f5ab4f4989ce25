"""The command that shows the dialogues of a run in a browser, from a small server of this machine."""

import importlib.util
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from morality_lens.cli.console import print_lines, print_whole, reload
from morality_lens.cli.model_options import Device
from morality_lens.cli.places import main_runs, open_whole, refuse_missing

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from morality_lens.probes.probe import Probe
    from morality_lens.runs.run import Run
    from morality_lens.runs.token_view import TokenView

HELD_DIALOGUES = 8
"""Dialogues whose values are held."""
HELD_PATTERNS = 2
"""Heads of one dialogue whose attention is held."""
SECONDS_TO_END = 3
"""What requests have left when the server is stopped."""


def view(
    folder: Annotated[Path, typer.Argument(help="The folder of a run, or of a study (its questions).")],
    probe: Annotated[
        list[Path] | None,
        typer.Option(
            help="File of a probe to colour tokens by; may be given several times.",
            show_default="the probes kept with the run or its study",
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    open_browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in the web browser.")
    ] = True,
    device: Device = None,
) -> None:
    """Show the dialogues of a run in the browser: filters, search, coloured tokens, attention of heads."""
    refuse_without_server()
    folder = run_folder(folder)
    refuse_missing(runs=[folder], files=probe or [])
    played = open_whole(folder)
    model = Model(played=played, probes=read_probes(played, probe or find_probes(folder)), device=device)
    serve(played, model, port=port, open_browser=open_browser)


def refuse_without_server() -> None:
    """Nothing, where what a server needs is installed.

    Raises:
        ModuleNotFoundError: it is not.
    """
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"morality-lens view needs the package{'s' * (len(missing) > 1)} {' and '.join(missing)}: "
            'pip install "morality-lens[view]".'
        )


def run_folder(folder: Path) -> Path:
    """The folder of a run: that which was given, or the first run of a study."""
    if (folder / "manifest.json").is_file():
        return folder
    return next(iter(main_runs(folder)), folder)


def find_probes(folder: Path) -> list[Path]:
    """The probes kept with a run, else those of the study that it is part of, the main one first."""
    from morality_lens.studies.folder import DIRECTIONS, MAIN, direction_file

    for place in (folder, folder.resolve().parent):
        kept = direction_file(place, MAIN)
        if kept.is_file() and (place == folder or (place / "study.json").is_file()):
            beside = [] if place == folder else sorted((place / DIRECTIONS).glob("*.safetensors"))
            return [kept, *beside]
    return []


def read_probes(played: "Run", paths: Sequence[Path]) -> "dict[str, Probe]":
    """The probes by the names of their files; the kept one, without a name of its own, is ``moral``.

    Raises:
        ValueError: two of one name, or one that was fitted on another model.
    """
    from morality_lens.probes.probe import load_probe
    from morality_lens.studies.folder import MAIN, direction_file

    found: dict[str, Probe] = {}
    for path in paths:
        name = MAIN if path == direction_file(path.parent, MAIN) else path.stem
        if name in found:
            raise ValueError(f"two probes are called {name}; rename a file, so that they can be told apart.")
        one = load_probe(path)
        one.refuse_other_model(played, called=str(path))
        found[name] = one
    return found


@dataclass(kw_only=True, eq=False)
class Model:
    """The run's model, loaded when a dialogue is first to be read again; one request at a time reads.

    Attributes:
        played: the run.
        probes: by name.
        device: where it is loaded.
    """

    played: "Run"
    probes: "Mapping[str, Probe]"
    device: str | None = None
    lock: Any = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self.loaded: Any = None
        self.kept: dict[str, Sequence[TokenView]] = {}
        self.pattern = lru_cache(maxsize=HELD_PATTERNS)(self._pattern)

    @property
    def directions(self) -> tuple[str, ...]:
        """The names of the probes."""
        return tuple(self.probes)

    def tokens(self, rows: "pd.DataFrame") -> "Sequence[TokenView]":
        """Views of rows of the run's transcripts, for each direction."""
        key = str(rows[[*self.played.design.names, "item", "round"]].to_numpy().tolist())
        with self.lock:
            from morality_lens.rounds.rereading import read_transcripts

            if key not in self.kept:
                found = read_transcripts(self._model(), self.played, self.probes, rows=rows)
                self.kept = {**dict(list(self.kept.items())[1 - HELD_DIALOGUES :]), key: found}
            return self.kept[key]

    def attention(self, row: "pd.Series", *, layer: int, head: int, token: int) -> "tuple[np.ndarray, int]":
        """How much a token of a row reads from every token, and how many heads a block has."""
        with self.lock:  # held while torch is imported too: what ends the command must see that this goes on
            from morality_lens.circuits.attending import heads_of

            pattern = self.pattern(tuple(map(int, row["token_ids"])), layer, head)
            return pattern[token], heads_of(self._model())

    def _pattern(self, ids: tuple[int, ...], layer: int, head: int) -> "np.ndarray":
        from morality_lens.circuits.attending import attention_pattern

        return attention_pattern(self._model(), ids, layer=layer, head=head)

    def _model(self) -> Any:
        if self.loaded is None:
            print_lines("loading the model")
            self.loaded = reload(self.played, self.device)
        return self.loaded


def serve(played: "Run", model: Model, *, port: int, open_browser: bool) -> None:
    """Serve a run until the command is interrupted."""
    import uvicorn

    from morality_lens.report.browser import opened
    from morality_lens.report.serving import HOST, browser_app
    from morality_lens.report.writing import kept_transcripts
    from morality_lens.studies.folder import MAIN

    with listening(HOST, port) as held:
        port = held.getsockname()[1]
        kept = kept_transcripts(played) if (played.path / "coloured.json").is_file() else ()
        views = opened(kept, model.probes.get(MAIN), None)
        app = browser_app(played, model, port=port, views=views)
        config = uvicorn.Config(
            app,
            log_level="critical",
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=SECONDS_TO_END,
        )
        address = f"http://{HOST}:{port}/"
        said = f"{played.path} is shown, for this machine alone, at {address}"
        print_whole(said)
        print_lines("Ctrl-C ends it.")
        if open_browser:
            threading.Timer(0.5, webbrowser.open, [address]).start()
        try:
            uvicorn.Server(config).run(sockets=[held])
        except KeyboardInterrupt as stopped:
            if type(stopped) is not KeyboardInterrupt:  # a request to end has an exit code of its own
                raise
    print_lines("ended")
    if model.lock.locked():  # it still reads for a page that is gone; nothing is written, nothing is lost
        sys.stdout.flush()
        os._exit(0)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        OSError: the port is used, or may not be.
    """
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise OSError(
            f"port {port} on {host} cannot be used ({error.strerror}); leave --port out to take a free one."
        ) from error
    made.listen()
    return made
