"""What every command has: its options in panels, its texts as they are, and how much it prints."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from morality_lens.cli.console import showing
from morality_lens.cli.stopping import say_stopped

PANELS = {
    "What is played": """config data dataset subset language prompts statements toxicity direction evidence
        judge profile plan rounds limit items seed drop_long permute_options score_options part""",
    "Dialogues": """feedback feedback_from feedback_model feedback_named feedback_placebo wording factor
        system_prompt answer_tokens rationale_tokens feedback_tokens thinking_tokens answer_prefix anyway""",
    "Direction and interventions": """probe kind axis remove method together effect site layer round source
        target at factors random where tuned sae hook feature tokens""",
    "Model": """model device dtype revision device_map template quantization generate_from generate_model
        n_layers d_model""",
    "Computation and storage": """batch_size layers keep store_as workers gpus_per_worker ray_address prepare
        dry_run yes""",
    "Output": "out form port open_browser json quiet verbose version help install_completion show_completion",
}
"""The panels of ``--help`` in their order, each with its options; the same in every command."""
PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names.split()}
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print errors, warnings and the report's path alone.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print every finding, in sentences.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON; all words go to standard error.")
]


class Command(TyperCommand):
    """A command whose options stand in the panels of :data:`PANELS`, and whose texts are shown as they are.

    In texts for ``--help`` square brackets would be read as markup, and vanish.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.help = "\n\n".join(" ".join(lines.split()) for lines in escape(self.help or "").split("\n\n"))
        options: list[Any] = self.params
        for one in options:
            if isinstance(one.show_default, str):  # typer would put it into further brackets
                one.help, one.show_default = f"{one.help} [default: {one.show_default}]", False
            one.help = escape(one.help or "")

    def get_params(self, ctx: Any) -> list[Any]:
        """The arguments, and the options in the order of their panels."""
        return arranged(super().get_params(ctx))


class Commands(TyperGroup):
    """The commands, each of which ends with a line on how to resume when it is interrupted, in any phase."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The options in the order of their panels."""
        return arranged(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        """What the command returns; an interruption is an exit code of its own."""
        how = {name: bool(ctx.params.get(name)) for name in ("quiet", "verbose")}
        try:
            with showing(**how):
                return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            raise typer.Exit(say_stopped(stopped)) from None


def arranged(options: Sequence[Any]) -> list[Any]:
    """Options, each with its panel, in the order of the panels; arguments first."""
    order = [None, *PANELS]
    for one in options:
        one.rich_help_panel = PANEL_OF.get(one.name)
    return sorted(options, key=lambda one: order.index(one.rich_help_panel))


def speaking(command: Callable[..., None], *, json: bool = False) -> Callable[..., None]:
    """The command with the options that say how much it prints: ``--quiet``, ``--verbose``, ``--json``.

    Args:
        command: prints by :mod:`morality_lens.cli.console`.
        json: whether it has a result that can be printed as JSON.
    """
    options = {"quiet": Quiet, "verbose": Verbose} | ({"json": Json} if json else {})

    @functools.wraps(command)
    def spoken(**given: Any) -> None:
        how = {name: given.pop(name) for name in options}
        with showing(**how):
            command(**given)

    told = inspect.signature(command)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in options.items()
    ]
    spoken.__annotations__ = {**command.__annotations__, **options}
    vars(spoken)["__signature__"] = told.replace(parameters=[*told.parameters.values(), *more])
    return spoken
