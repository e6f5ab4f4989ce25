"""The command that reads the sparse features of a run: ``morality-lens features``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from morality_lens.cli.console import phase, print_lines, print_report, reload, steps
from morality_lens.cli.model_options import MOST_SEED, Device
from morality_lens.cli.places import open_whole, probe_of, refuse_missing

if TYPE_CHECKING:
    import xarray as xr

    from morality_lens.probes.probe import Probe
    from morality_lens.runs.run import Run
    from morality_lens.sparse.autoencoder import SparseAutoencoder

CARDS = 6
"""Features of which a card is shown."""


def features(
    folder: Annotated[Path, typer.Argument(help="The folder of a run.")],
    sae: Annotated[
        Path, typer.Option(help="The folder of a sparse autoencoder (SAELens, Gemma Scope or Gemma Scope 2).")
    ],
    site: Annotated[str, typer.Option(help="Token position at which the residual is read.")] = "answer_start",
    hook: Annotated[
        str | None,
        typer.Option(help="Where the autoencoder was trained.", show_default="as its files say"),
    ] = None,
    effect: Annotated[
        str | None, typer.Option(help="Effect that the figures show.", show_default="the first")
    ] = None,
    feature: Annotated[
        list[int] | None,
        typer.Option(help="Features to look at, by number; may be repeated.", show_default="the busiest 512"),
    ] = None,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Read the dialogues again for the tokens of each feature.")
    ] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Go on though the residuals are rebuilt badly.")
    ] = False,
    device: Device = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Random seed.")] = 0,
) -> None:
    """Which sparse features the components switch on, and their share of the direction's effects."""
    refuse_missing(runs=[folder], files=[sae])
    played = open_whole(folder)
    from morality_lens.interactions.curves import Resampled
    from morality_lens.sparse.formats import load_sae
    from morality_lens.sparse.reading import Choice, feature_effects, features as read_features

    loaded = load_sae(sae, hook=hook)
    loaded.refuse_other_run(played)
    how = Resampled(seed=seed)
    steps.start(3 + tokens)
    with phase("reading the features of the stored residuals"):
        y = read_features(
            played, loaded, sites=[site], choice=Choice(named=tuple(feature or ())), anyway=anyway
        ).dropna("item")
        effects = feature_effects(y, how=how)
    shown = _shown(effects, effect)
    print_lines(str(y.attrs["checked"]))
    named = _foremost(effects, shown)
    read = _tokens(played, loaded, named, device) if tokens else None
    _keep(played, effects, y, named, shown, read)
    fitted = probe_of(played)
    if fitted is not None:
        with phase("splitting the direction over the features"):
            _keep_shares(played, loaded, fitted, named, site, shown, anyway, how)
    from morality_lens.report.writing import write_report

    with phase("writing the report"):
        written = write_report(played, path=played.path / "report.html", probe=fitted)
    print_report(written)


def _shown(effects: "xr.Dataset", effect: str | None) -> str:
    """The effect that is shown."""
    from morality_lens.interactions.names import effect_called

    known = effects["effect"].values.tolist()
    return known[0] if effect is None else effect_called(effect, known, "--effect")


def _foremost(effects: "xr.Dataset", shown: str) -> list[int]:
    """The features that the effect moves most in the last round, by their t."""
    one = effects.isel(round=-1, site=0).sel(effect=shown)
    t = abs(one["estimate"] / one["se"].where(one["se"] > 0)).fillna(-1.0)
    order = t.argsort().values[::-1]
    return [int(one["feature"].values[i]) for i in order[:CARDS]]


def _tokens(played: "Run", sae: "SparseAutoencoder", named: list[int], device: str | None) -> Any:
    """The tokens of each feature, from the run's dialogues read once more."""
    from morality_lens.circuits.reading_features import feature_tokens

    with phase("loading the model and reading the dialogues again"):
        return feature_tokens(reload(played, device), played, sae, named)


def _keep(
    played: "Run", effects: "xr.Dataset", y: "xr.DataArray", named: list[int], shown: str, read: Any
) -> None:
    """Keep the effects with the cards of some features, and print these."""
    from morality_lens.runs.results import keep_result
    from morality_lens.sparse.cards import feature_cards

    cards = feature_cards(played, y, features=named, top=3, tokens=read)
    plain = [card.plain() for card in cards]
    keep_result(played, "features-effects", effects.assign_attrs(shown=shown, cards=plain))
    last = effects.isel(round=-1, site=0).sel(effect=shown)
    clear = int((last["p_adj"] <= effects.attrs["alpha"]).sum())
    print_lines(f"\n{shown} in round {int(last['round'])}", style="bold")
    print_lines(
        f"{clear} of {int(last['p'].notnull().sum())} tested features move (adjusted p); foremost by t:"
    )
    print_lines(*(line for card in cards for line in str(card).splitlines()))


def _keep_shares(
    played: "Run",
    sae: "SparseAutoencoder",
    fitted: "Probe",
    named: list[int],
    site: str,
    shown: str,
    anyway: bool,
    how: Any,
) -> None:
    """Keep and print the share of the direction's effects that the named features carry."""
    from morality_lens.runs.results import keep_result
    from morality_lens.sparse.shares import describe_shares, direction_shares, split_direction

    parts = split_direction(played, sae, fitted, features=named, site=site, anyway=anyway).dropna("item")
    found = direction_shares(parts, how=how)
    keep_result(played, "features-shares", found.assign_attrs(shown=shown))
    print_lines("\nThe direction, split over these features", style="bold")
    print_lines(*(f"- {describe_shares(found, str(name))}" for name in found["effect"].values))
