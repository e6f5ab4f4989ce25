"""The whole study in one call that resumes where it was interrupted."""

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.design import Protocol
from morality_lens.dialogues.wording import load_wording
from morality_lens.experiments.evidence import weak_evidence
from morality_lens.experiments.masking import component_words, mask_words, without_words
from morality_lens.experiments.self_distinguish import distinguish, name_groups, own_pairs
from morality_lens.items.files import spread, write_json
from morality_lens.items.kinds import items_hash
from morality_lens.judges.outcomes import score_answers
from morality_lens.judges.toxicity import Judge, fit_toxicity_judge
from morality_lens.models.loading import ModelRecord, record_of
from morality_lens.probes.from_statements import affordable_statements, fit_probe, fit_probes
from morality_lens.probes.kinds import KINDS, Kind, check_kind
from morality_lens.probes.probe import Probe, load_probe
from morality_lens.probes.training_data import check_statements
from morality_lens.progress import explained, listening, part
from morality_lens.report.writing import keep_transcripts
from morality_lens.rounds.playing import play
from morality_lens.rounds.preflight import Fitting
from morality_lens.rounds.rereading import read_transcripts, sample_dialogues
from morality_lens.rounds.selection import Execution, Selection
from morality_lens.runs.datasets import find_dataset
from morality_lens.runs.requests import Request
from morality_lens.runs.results import write_result
from morality_lens.runs.run import Run
from morality_lens.runs.writing import timings
from morality_lens.studies.analysis import write_study_report
from morality_lens.studies.folder import MAIN, PLACEBO, PROMPTS, QUESTIONS, RESULTS, direction_file
from morality_lens.studies.plan import LARGEST_RANDOM_MODEL, Estimate, placebo_factors
from morality_lens.studies.settings import Material, Settings


@dataclass(frozen=True, kw_only=True, eq=False)
class _Work:
    """A study in progress: its model, what is drawn of its material, its folder and its display."""

    model: TransformerBridge
    material: Material
    settings: Settings
    folder: Path
    progress: bool
    say: Callable[[str], None]
    mains: dict[str, Run] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    @property
    def record(self) -> ModelRecord:
        """The record of the model."""
        return record_of(self.model)

    @property
    def probe(self) -> Probe:
        """The direction that the claims are about."""
        return load_probe(direction_file(self.folder, MAIN))

    def execution(self, name: str) -> Execution:
        """How a part is carried out: finished items are kept in a folder of its own."""
        return Execution(out=self.folder / "parts" / name, progress=self.progress)


def study(
    model: TransformerBridge,
    material: Material,
    settings: Settings | None = None,
    *,
    out: str | Path,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
    agree: Callable[[Estimate], object] = lambda told: None,
) -> Path:
    """The path of the report of a whole study, which gives a verdict for each of the five claims.

    Every part is kept in the folder as soon as it is finished; the same call resumes an interrupted study. A
    part that cannot be done with these items is left out, and the report gives the reason.

    Args:
        model: from ``load_model``.
        material: questions, prompts, statements, weak evidence and judges.
        settings: plan, protocol, kind of direction and random seed; None is the full profile.
        out: the study's folder.
        progress: whether to show progress bars.
        say: called with a line about each part, "part 3 of 17: playing placebo".
        agree: called with the time and space that a new study takes, before anything is kept; what it raises
            ends the study.

    Raises:
        ValueError: neither questions nor prompts, statements on which no direction can be fitted, a folder
            with another study, or what ``play`` refuses.

    Examples:
        >>> plan = ml.studies.Plan(
        ...     rounds=1, placebo_items=8, placebo_rounds=1, wordings=2, wording_items=8, wording_rounds=1,
        ...     samples=2, sample_rounds=1, random_models=0,
        ... )
        >>> material = ml.studies.Material(questions=items[:8], statements=statements)
        >>> settings = ml.studies.Settings(plan=plan)
        >>> ml.study(model, material, settings, out=folder / "study", progress=False).name
        'report.html'
    """
    chosen = settings or Settings()
    if not material.questions and not material.prompts:
        raise ValueError("a study needs questions or prompts; got neither.")
    load_wording(chosen.protocol.wording)
    _refuse_unfittable(material, check_kind(chosen.probe_kind))
    work = _Work(
        model=model,
        material=_drawn(material, chosen),
        settings=chosen,
        folder=Path(out),
        progress=progress,
        say=say,
    )
    request = Request(what="study", settings=_identity(work))
    if not (work.folder / "study.json").is_file():  # a resumed study is spared the trial
        request.refuse_foreign(work.folder)
        told = estimate(model, work.material, chosen)
        say(f"this takes {told}")
        agree(told)
    request.begin(work.folder, "study.json")
    parts = _parts(work)
    for number, (what, do) in enumerate(parts, start=1):
        with part(number, len(parts)) as name, explained(partial(_kept, work.folder, name)):
            say(f"{name}: {what}")
            do()
    return work.folder / "report.html"


def _kept(folder: Path, name: str) -> str:
    """What an interruption says."""
    return f"stopped in {name}; what is finished is kept in {folder}: the same call resumes."


Parts = list[tuple[str, Callable[[], object]]]


def _parts(work: _Work) -> Parts:
    """The parts of a study in their order, each with what is said of it; those that are done do nothing."""
    material, several = work.material, len(work.material.sets)
    names = [name for name in (QUESTIONS, PROMPTS) if getattr(material, name)]
    parts: Parts = [(f"playing {name}", partial(_main_run, work, name)) for name in names]
    directions = (
        "a direction with its trust card" if several == 1 else f"{several} directions with trust cards"
    )
    parts.append((f"fitting {directions}", partial(_fit, work)))
    parts += [(f"reading some transcripts of {name}", partial(_colour, work, name)) for name in names]
    if material.questions:
        parts += [*_question_parts(work), *_question_runs(work)]
    if material.prompts:
        parts += _sample_runs(work)
    parts += [(f"pairs of {name}", partial(_pairs, work, name)) for name in names]
    return [*parts, ("estimating effects and writing the report", partial(_report, work))]


def _report(work: _Work) -> None:
    write_json(work.folder / "left_out.json", work.skipped)
    write_study_report(work.folder)


def _refuse_unfittable(material: Material, kind: Kind) -> None:
    """Nothing, where a direction can be fitted on each set of statements; known before anything is played."""
    for name, statements in material.sets.items():
        try:
            check_statements(statements, kind)
        except ValueError as error:
            raise ValueError(f"the statements of {name}: {error}") from error


def _drawn(material: Material, settings: Settings) -> Material:
    """The material with the items that are played and the judges that score them."""
    plan, seed = settings.plan, settings.seed
    judges = material.judges or [
        fit_toxicity_judge(material.toxicity, kind=kind, seed=seed)
        for kind in ("logistic", "bayes")
        if material.prompts
    ]
    return replace(
        material,
        questions=spread(material.questions, plan.items, seed, lambda q: q.cluster),
        prompts=spread(material.prompts, plan.most_prompts, seed, lambda p: p.cluster),
        judges=list(judges),
    )


def _identity(work: _Work) -> dict[str, Any]:
    """The identity of a study: a folder is resumed only by a study with the same identity."""
    material, settings = work.material, work.settings
    return {
        "model": work.record.fingerprint,
        # Only where something was chosen: studies of earlier versions had no such choice, and resume.
        **({"loading": work.record.options} if work.record.options else {}),
        "plan": {name: value for name, value in asdict(settings.plan).items() if name != "prompts" or value},
        "protocol": _protocol_identity(settings.protocol),
        "questions": items_hash(material.questions),
        "prompts": items_hash(material.prompts),
        "statements": items_hash(material.statements),
        **{f"direction {name}": items_hash(found) for name, found in _beside(material).items()},
        "evidence": [asdict(one) for one in material.evidence],
        "judges": [repr(judge)[:200] for judge in material.judges],
        "probe": settings.probe_kind,
        "seed": settings.seed,
    }


def _protocol_identity(protocol: Protocol) -> dict[str, Any]:
    plain = {**asdict(protocol), "design": protocol.design.manifest()}
    # Studies begun before there were such settings are the same studies.
    return {key: value for key, value in plain.items() if value not in ({}, "")}


# ----------------------------------------------------------------------------------------------- runs
def _play(work: _Work, name: str, items: Sequence, protocol: Protocol) -> Run:
    return play(
        work.model,
        items,
        out=work.folder / name,
        protocol=protocol,
        fitting=Fitting(drop_long=work.settings.drop_long, least_parsed=work.settings.least_parsed),
        judge=next(iter(work.material.judges), None),
        progress=work.progress,
    )


def _main_run(work: _Work, name: str) -> None:
    """Questions or prompts in all conditions."""
    base, items = work.settings.protocol, getattr(work.material, name)
    protocol = replace(base, design=replace(base.design, rounds=work.settings.plan.rounds))
    work.mains[name] = _play(work, name, items, protocol)
    if name == PROMPTS:
        _score(work.mains[name], work.material.judges)


def _question_runs(work: _Work) -> Parts:
    """Some of the main run's questions with placebo levels, and in other wordings."""
    plan, base = work.settings.plan, work.settings.protocol
    parts: Parts = []
    if plan.placebo_items:
        parts.append((f"playing {PLACEBO}", partial(_placebo_run, work)))
    if not plan.wording_items:
        return parts
    there = load_wording(base.wording).task(work.material.questions[0]).alternatives
    if plan.wordings > there:  # counted round, they would be the same ones again
        work.skipped.append(f"wordings: {plan.wordings} were asked for, and this wording has {there}.")
    indices = range(min(plan.wordings, there))
    return parts + [(f"playing wording-{index}", partial(_wording_run, work, index)) for index in indices]


def _some_questions(work: _Work, number: int) -> Sequence:
    """So many of the questions that the main run holds."""
    ids = set(work.mains[QUESTIONS].items.index)
    kept = [q for q in work.material.questions if q.id in ids]
    return spread(kept, number, work.settings.seed, lambda q: q.cluster)


def _placebo_run(work: _Work) -> None:
    plan, base = work.settings.plan, work.settings.protocol
    design = replace(base.design, rounds=plan.placebo_rounds, factors=placebo_factors(base.design))
    _play(work, PLACEBO, _some_questions(work, plan.placebo_items), replace(base, design=design))


def _wording_run(work: _Work, index: int) -> None:
    plan, base = work.settings.plan, work.settings.protocol
    design = replace(base.design, rounds=plan.wording_rounds)
    protocol = replace(base, design=design, wording_index=base.wording_index + index)
    _play(work, f"wording-{index}", _some_questions(work, plan.wording_items), protocol)


def _sample_runs(work: _Work) -> Parts:
    """Several samples of every prompt's completions."""
    numbers = range(work.settings.plan.samples)
    return [(f"playing sample-{number}", partial(_sample_run, work, number)) for number in numbers]


def _sample_run(work: _Work, number: int) -> None:
    """One sample at temperature 1."""
    plan, base = work.settings.plan, work.settings.protocol
    design = replace(base.design, rounds=plan.sample_rounds, seed=work.settings.seed + 1 + number)
    protocol = replace(base, design=design, temperature=1.0)
    _score(_play(work, f"sample-{number}", work.material.prompts, protocol), work.material.judges)


def _score(run: Run, judges: Sequence[Judge]) -> None:
    if not (run.path / "scores.parquet").is_file():
        score_answers(run, *judges)


# ---------------------------------------------------------------------------------------------- parts
def _result(work: _Work, name: str, make: Callable[[], xr.Dataset]) -> None:
    """Make and store a result unless it exists; a refusal is recorded."""
    if find_dataset(work.folder / RESULTS, name) is not None:
        return
    try:
        found = make()
    except ValueError as error:
        work.skipped.append(f"{name}: {error}")
        return
    write_result(work.folder / RESULTS, name, found)


def _question_parts(work: _Work) -> Parts:
    """Masked words, weak evidence and naming groups, on the run of questions."""
    parts: Parts = [
        ("masked words", partial(_result, work, "masked", partial(_masked, work))),
        ("fitting a direction without the components' words", partial(_probe_without_words, work)),
    ]
    if work.material.evidence:
        parts.append(("weak evidence", partial(_result, work, "evidence", partial(_evidence, work))))
    return [*parts, ("naming groups", partial(_result, work, "groups", partial(_groups, work)))]


def _masked(work: _Work) -> xr.Dataset:
    execution = work.execution("masked")
    return mask_words(work.model, work.mains[QUESTIONS], work.probe, execution=execution).to_dataset()


def _groups(work: _Work) -> xr.Dataset:
    wording = work.settings.protocol.wording
    return name_groups(work.model, work.mains[QUESTIONS], wording=wording, execution=work.execution("groups"))


def _probe_without_words(work: _Work) -> None:
    """Fit and keep a probe on the statements that hold none of the components' words."""
    file = work.folder / "probe-without-words.safetensors"
    if file.is_file():
        return
    words = component_words(load_wording(work.settings.protocol.wording), "choice")
    try:
        few = without_words(work.material.statements, words)
        kind, seed = work.settings.probe_kind, work.settings.seed
        fit_probe(work.model, few, kind=kind, refits=0, seed=seed).save(file)
    except ValueError as error:
        work.skipped.append(f"probe without the words: {error}")


def _evidence(work: _Work) -> xr.Dataset:
    plan = work.settings.plan
    return weak_evidence(
        work.model,
        work.mains[QUESTIONS],
        work.material.evidence,
        probe=work.probe,
        selection=Selection(
            rounds=sorted({*(n for n in plan.evidence_rounds if n <= plan.rounds), plan.rounds})
        ),
        wording=work.settings.protocol.wording,
        execution=work.execution("evidence"),
    )


def _pairs(work: _Work, name: str) -> None:
    """Whether the model tells its own corrected outputs from its first ones."""
    _result(work, f"pairs-{name}", partial(_distinguished, work, name))


def _distinguished(work: _Work, name: str) -> xr.Dataset:
    played = work.mains[name]
    return distinguish(
        work.model,
        played,
        probe=work.probe,
        pairs=own_pairs(played, seed=work.settings.seed),
        wording=work.settings.protocol.wording,
        execution=work.execution(f"pairs-{name}"),
    )


def _colour(work: _Work, name: str) -> None:
    """Keep some coloured transcripts of a run."""
    played = work.mains[name]
    if (played.path / "coloured.json").is_file():
        return
    rows = sample_dialogues(played)
    keep_transcripts(played, read_transcripts(work.model, played, work.probe, rows=rows))


def _beside(material: Material) -> dict[str, Sequence]:
    """The statements of the directions beside the first one."""
    return {name: found for name, found in material.sets.items() if name != MAIN}


def _fit(work: _Work) -> None:
    """Fit the study's direction and those beside it once, and keep them with their trust cards."""
    files = {name: direction_file(work.folder, name) for name in work.material.sets}
    if all(file.is_file() for file in files.values()):
        return
    for name, probe in _fitted(work, work.mains).items():
        files[name].parent.mkdir(exist_ok=True)
        probe.save(files[name])


def _fitted(work: _Work, mains: Mapping[str, Run]) -> dict[str, Probe]:
    """A probe for each set of statements.

    The claims' direction is fitted on as many as cost no more to read than the play, the others on as many as
    cost no more together.
    """
    parameters = sum(p.numel() for p in work.record.lm.module.parameters())
    sets, seed = work.material.sets, work.settings.seed
    random_models = work.settings.plan.random_models if parameters <= LARGEST_RANDOM_MODEL else 0
    tokens = sum(timings(run.path)["tokens"] for run in mains.values())
    read = {
        name: affordable_statements(
            work.model,
            found,
            random_models=random_models,
            tokens=tokens if name == MAIN else tokens // max(1, len(sets) - 1),
            seed=seed,
        )
        for name, found in sets.items()
    }
    probes = fit_probes(
        work.model,
        read,
        kind=work.settings.probe_kind,
        card=KINDS[check_kind(work.settings.probe_kind)].card,
        random_models=random_models,
        given=sets,
        seed=seed,
    )
    return {name: probe.drawn_from(len(sets[name])) for name, probe in probes.items()}


# ---------------------------------------------------------------------------------------------- time
def estimate(model: TransformerBridge, material: Material, settings: Settings, *, trial: int = 4) -> Estimate:
    """Time and disk space of a study, from some items played over one round; a rough figure.

    Longer dialogues take longer than those of the trial, and everything besides playing is assumed to take a
    third of the playing time.

    Args:
        model: from ``load_model``.
        material: with the items that are played.
        settings: of the study.
        trial: items of each kind that are played.

    Examples:
        >>> material = ml.studies.Material(questions=items[:8], statements=statements)
        >>> settings = ml.studies.Settings(plan=ml.studies.Plan(rounds=1, random_models=0))
        >>> ml.studies.estimate(model, material, settings).seconds > 0
        True
    """
    record, design = record_of(model), settings.protocol.design
    seconds, size = 0.0, 0
    cell = (record.n_layers + 1) * record.d_model * len(design.sites) * 4
    for kind, items in ((QUESTIONS, material.questions), (PROMPTS, material.prompts)):
        with listening(lambda text: None):  # what is said of the trial is not true of the study
            each = _seconds_of_an_answer(model, kind, items, settings.protocol, trial) if items else None
        if each is None:
            continue
        for name in (QUESTIONS, PLACEBO, "wording") if kind == QUESTIONS else (PROMPTS, "sample"):
            runs, most, turns = settings.plan.dialogues(design)[name]
            n = runs * min(most, len(items)) * turns
            seconds += n * each
            size += n * cell
    return Estimate(seconds=seconds * 4 / 3, bytes=size)


def _seconds_of_an_answer(
    model: TransformerBridge, kind: str, items: Sequence, protocol: Protocol, trial: int
) -> float | None:
    """The mean time of an answer in a trial; None where these items cannot be played."""
    few = sorted(items, key=lambda item: item.id)[:trial]
    source = "self" if kind == PROMPTS else "oracle"
    short = replace(protocol, design=replace(protocol.design, rounds=1, seed=0), feedback=source)
    where = Path(tempfile.mkdtemp(prefix="trial-"))
    try:
        began = time.perf_counter()
        play(model, few, out=where / "trial", protocol=short, fitting=Fitting(drop_long=True), progress=False)
        return (time.perf_counter() - began) / (len(few) * 2 * len(protocol.design.conditions))
    except ValueError:
        return None  # the error is raised when the items are played
    finally:
        shutil.rmtree(where, ignore_errors=True)
