"""A run on disk, opened lazily: residuals, answers, transcripts, manifest.

Every part is stored whole, in one file. Items lie on disk in the order they were played (by length) and are
put back into their own order when the run is opened.
"""

import hashlib
import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import xarray as xr

from morality_lens.design import Condition, Design, design_from
from morality_lens.items.kinds import BehaviourMeasure, Item, items_to_frame
from morality_lens.items.repeats import joined_clusters, repeated_note
from morality_lens.runs.archives import read_table
from morality_lens.runs.cube import Cube, lazy_cube
from morality_lens.runs.datasets import OPTION_SCORES, find_dataset, read_dataset
from morality_lens.runs.manifest import Part, missing_parts, parts_of, read_manifest
from morality_lens.runs.writing import owner_of, read_items

OPTIONS = ("template_keywords", "quantization", "device_map", "adapter")
"""What a manifest says about a model only where it was chosen."""


def open_run(path: str | Path) -> "Run":
    """The run in a folder; nothing but the manifest is read until it is needed.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the manifest is damaged or of another format.

    Examples:
        >>> again = ml.open_run(run.path)
        >>> bool((again.residuals == run.residuals).all())
        True
    """
    folder = Path(path)
    return Run(path=folder, manifest=read_manifest(folder))


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A run on disk; arrays are lazy, tables are read when first needed.

    A run that is not finished shows the items that are.

    Examples:
        >>> run.residuals.dims
        ('item', 'instruction', 'cot', 'feedback', 'round', 'site', 'layer', 'd_model')
        >>> run.answers["correct"].dtype.name, len(run.answers)
        ('bool', 384)
    """

    path: Path
    manifest: dict[str, Any]

    @property
    def design(self) -> Design:
        """Factors, rounds and sites."""
        return design_from(self.manifest["study"]["design"])

    @property
    def wording_index(self) -> int:
        """Which of the alternative wordings was played."""
        return int(self.manifest["study"]["wording"]["index"])

    @property
    def system_prompt(self) -> str | None:
        """The system prompt of every dialogue; None for none."""
        return self.manifest["study"].get("system_prompt")

    @property
    def task(self) -> str:
        """Which table of the wording the items were asked in."""
        return self._stored[0].task

    @property
    def measures(self) -> tuple[str, ...]:
        """What can be measured of an answer, the main measure first."""
        return tuple(measure.name for measure in self._measures)

    def measure(self, name: str) -> BehaviourMeasure:
        """The measure of that name, as the first item has it.

        Raises:
            ValueError: these items have no such measure.
        """
        found = [measure for measure in self._measures if measure.name == name]
        if not found:
            raise ValueError(f"these items have no {name!r}; their measures are {', '.join(self.measures)}.")
        return found[0]

    @property
    def _measures(self) -> tuple[BehaviourMeasure, ...]:
        """The measures of the first item, those of its options' texts only where these were scored."""
        first = self._stored[0]
        scored = find_dataset(self.path, OPTION_SCORES) is not None
        return (*first.measures, *(first.text_measures if scored else ()))

    @property
    def names_good(self) -> bool:
        """Whether every item names a good reply, so that there are log-odds of it."""
        return all(item.good is not None for item in self._stored)

    @property
    def loaded_from(self) -> str:
        """Where its model was last loaded from: a name, or a path, which may be another than at first."""
        return str(self.manifest.get("loaded_from", self.manifest["study"]["model"]["name"]))

    @property
    def fingerprint(self) -> str:
        """Hash over all that makes two runs the same study."""
        return hashlib.sha256(json.dumps(self.manifest["study"], sort_keys=True).encode()).hexdigest()

    @cached_property
    def asked(self) -> dict[str, Item]:
        """The finished items themselves, by id and in their own order.

        Clusters that share an asked text are one, see :attr:`cluster_note`.
        """
        return {self._stored[i].id: self._stored[i] for i in self._order}

    @cached_property
    def _stored(self) -> tuple[Item, ...]:
        return joined_clusters(self._given)

    @cached_property
    def _given(self) -> tuple[Item, ...]:
        return read_items(self.path, self.manifest)

    @property
    def stored(self) -> tuple[Item, ...]:
        """All items in the order in which they are played, finished or not."""
        return self._stored

    @property
    def finished(self) -> tuple[Part, ...]:
        """The parts of the items that are finished, in all rounds."""
        return self._parts

    def part_table(self, part: Part, name: str) -> pd.DataFrame:
        """A table of one part, without dialogues that were carried on in a later one."""
        return self._part_table(part, name)

    @property
    def cluster_note(self) -> str:
        """A warning that one text was played under ids of several clusters, which count as one."""
        return repeated_note(self._given)

    @cached_property
    def _parts(self) -> tuple[Part, ...]:
        """The parts of the items that are finished, in all rounds."""
        missing = {place for part in missing_parts(self.path, self.manifest) for place in part.places}
        return tuple(part for part in parts_of(self.manifest) if part.first not in missing)

    @cached_property
    def _owned(self) -> dict[Part, dict[str, Any]]:
        """Those parts, and for each the run, items and rounds that its file must name."""
        return {part: owner_of(part, self.manifest, self._given) for part in self._parts}

    @cached_property
    def _order(self) -> np.ndarray:
        """Place on disk of each finished item, in the items' own order."""
        done = {place for part in self._parts for place in part.places}
        place = {item.id: i for i, item in enumerate(self._stored) if i in done}
        return np.array([place[n] for n in self.manifest["order"] if n in place], dtype=np.int64)

    @property
    def complete(self) -> bool:
        """Whether every item was played."""
        return len(self._order) == len(self._stored)

    @cached_property
    def items(self) -> pd.DataFrame:
        """The finished items, one row each, indexed by id."""
        shown = [self._stored[i] for i in self._order]
        return (items_to_frame(shown) if shown else pd.DataFrame({"id": []})).set_index("id", drop=False)

    def _array(self, name: str, others: Mapping[str, int], dtype: str) -> xr.DataArray:
        """A stored array, lazy; ``others`` are its dimensions after the round, with their sizes."""
        if not self._parts:
            raise ValueError(f"the run in {self.path} has no finished part yet; run the same command again.")
        cube = Cube(
            run=self.path,
            parts=self._owned,
            name=name,
            design=self.design,
            order=self._order,
            others=tuple(others.values()),
            dtype=np.dtype(dtype),
        )
        found = lazy_cube(cube, (*self.design.dims, *others)).assign_coords(self._coords(others))
        return found.assign_attrs({"cluster_note": note} if (note := self.cluster_note) else {})

    def _residual_array(self, name: str, last: Mapping[str, int], dtype: str) -> xr.DataArray:
        places = {"site": len(self.design.sites), "layer": len(self.layers)}
        return self._array(name, {**places, **last}, dtype)

    def _option_array(self, name: str, *, by_option: bool) -> xr.DataArray:
        options = max(len(item.replies) for item in self._stored)
        if not options:
            raise ValueError(f"the run in {self.path} has no {name}: its items have no set of replies.")
        return self._array(name, {"option": options} if by_option else {}, "float64")

    def _coords(self, others: Mapping[str, int]) -> dict[str, Any]:
        items = [self._stored[i] for i in self._order]
        coords: dict[str, Any] = {
            "item": [item.id for item in items],
            "cluster": ("item", [item.cluster for item in items]),
            "round": np.arange(self.design.n_rounds),
        }
        coords |= self.design.coords
        if "site" in others:
            coords |= {"site": list(self.design.sites), "layer": list(self.layers)}
        return coords

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are kept, -1 the embedding."""
        return tuple(self.manifest["stored"]["layers"])

    @property
    def residuals(self) -> xr.DataArray:
        """Residual stream: item x one dim for each factor x round x site x layer x d_model.

        Layer l is the residual after block l, -1 the embedding; the last block's is before the final norm.
        A missing residual (an empty answer, a segment that is not in the condition) is NaN.

        Raises:
            ValueError: the run kept projections alone.
        """
        stored = self.manifest["stored"]
        if stored["keep"] == "projections":
            raise ValueError(
                f"the run in {self.path} kept projections alone, so it has no residuals; this needs a run "
                "played with keep='residuals' or 'both'."
            )
        width = {"d_model": int(self.manifest["study"]["model"]["d_model"])}
        return self._residual_array("residuals", width, stored["dtype"])

    @property
    def projections(self) -> xr.DataArray:
        """Dot products made while playing: item x one dim for each factor x round x site x layer x direction.

        Direction 0 is the probe's, the others are its refits; no midpoint is added. Use
        :meth:`morality_lens.probes.Probe.project`, which does.

        Raises:
            ValueError: the run kept residuals alone.
        """
        stored = self.manifest["stored"]
        if stored["keep"] == "residuals":
            raise ValueError(f"the run in {self.path} kept no projections; project its residuals on a probe.")
        return self._residual_array("projections", {"direction": int(stored["directions"])}, "float64")

    @property
    def option_probabilities(self) -> xr.DataArray:
        """Probability of each reply's sign (letter, digit) as the answer's first token, as a share of all."""
        return self._option_array("option_probabilities", by_option=True)

    @property
    def option_mass(self) -> xr.DataArray:
        """Share of the whole probability that is on the sign of any reply."""
        return self._option_array("option_mass", by_option=False)

    def _table(self, name: str) -> pd.DataFrame:
        if not self._parts:
            raise ValueError(f"the run in {self.path} has no finished part yet; run the same command again.")
        tables = [self._part_table(part, name) for part in self._parts]
        table = pd.concat(tables, ignore_index=True)
        ranks = {"item": list(self.items.index), **self.design.levels, "round": range(self.design.n_rounds)}
        places = [
            np.array([list(values).index(value) for value in table[name].unique()])[
                pd.factorize(table[name])[0]
            ]
            for name, values in ranks.items()
            if name in table
        ]
        return table.iloc[np.lexsort(places[::-1])].reset_index(drop=True)

    def _part_table(self, part: Part, name: str) -> pd.DataFrame:
        """A table of a part, without dialogues that were carried on in a later one."""
        table = read_table(part.file(self.path), name, self._owned[part])
        carried_on = part.stop < self.design.n_rounds and self.manifest.get("prefix_reuse", True)
        if name == "transcripts" and carried_on:
            return table.loc[table["round"] != part.stop - 1]
        return table

    @cached_property
    def answers(self) -> pd.DataFrame:
        """One row for each item, condition and round: the text and how it was judged."""
        return self._table("answers")

    @cached_property
    def transcripts(self) -> pd.DataFrame:
        """Token ids, token texts and named spans of each dialogue."""
        return self._table("transcripts")

    @property
    def scores(self) -> pd.DataFrame:
        """Scores by judges that were run afterwards.

        Raises:
            ValueError: none was.
        """
        file = self.path / "scores.parquet"
        if not file.is_file():
            raise ValueError(
                f"the run in {self.path} has no scores yet; score its answers with a judge first."
            )
        return pq.read_table(file).to_pandas()

    @property
    def option_scores(self) -> xr.Dataset:
        """Scores of every option's full text, from :func:`morality_lens.rounds.score_options`.

        Raises:
            ValueError: the options were not scored.
        """
        file = find_dataset(self.path, OPTION_SCORES)
        if file is None:
            raise ValueError(
                f"the options in {self.path} were not scored by their text yet; score them with "
                "morality-lens score or ml.rounds.score_options."
            )
        return read_dataset(file)

    def select(self, table: pd.DataFrame, item: str, condition: Condition) -> pd.DataFrame:
        """The rows of a table that belong to one dialogue."""
        mask = table["item"] == item
        for name, level in self.design.condition(condition).coords.items():
            mask &= table[name] == level
        return table.loc[mask]

    def __repr__(self) -> str:
        return f"<Run {self.path}: {self._summary()}>"

    def _summary(self) -> str:
        design, model = self.design, self.manifest["study"]["model"]
        state = "" if self.complete else f" of {len(self._stored)} (unfinished)"
        conditions = len(design.conditions)
        kept = {"residuals": "", "projections": ", projections alone", "both": ", and their projections"}
        return (
            f"{len(self._order)}{state} items x {conditions} conditions x {design.n_rounds} rounds, "
            f"{len(design.sites)} sites x {len(self.layers)} layers x {model['d_model']}"
            f"{kept[self.manifest['stored']['keep']]}, "
            f"model {model['name']}"
        )

    def _repr_html_(self) -> str:
        rows = [("Run", str(self.path)), ("Holds", self._summary())]
        study = self.manifest["study"]
        rows += [
            ("Sites", ", ".join(self.design.sites)),
            ("Wording", f"{study['wording']['name']} #{study['wording']['index']}"),
            ("Feedback", study["feedback"]),
        ]
        chosen = {"System prompt": study.get("system_prompt")}
        chosen |= {name.replace("_", " ").capitalize(): study["model"].get(name) for name in OPTIONS}
        rows += [(name, str(value)) for name, value in chosen.items() if value]
        if self._parts:
            parsed = self.answers["parsed"]
            rows.append(("Answers", f"{len(parsed)}, {100 * np.mean(parsed.to_numpy(float)):.1f} % parsed"))
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(k)}</th>"
            f"<td style='text-align:left'>{html.escape(v)}</td></tr>"
            for k, v in rows
        )
        return f"<table>{cells}</table>"
