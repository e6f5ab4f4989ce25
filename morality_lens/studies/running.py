"""The whole study in one command that goes on where it stopped."""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.design import Protocol
from morality_lens.dialogues.wording import load_wording
from morality_lens.experiments.evidence import Evidence, weak_evidence
from morality_lens.experiments.masking import component_words, mask_words, without_words
from morality_lens.experiments.self_distinguish import distinguish, name_groups
from morality_lens.items.files import spread, write_json
from morality_lens.items.kinds import OpenPrompt, Question, Statement, items_hash
from morality_lens.judges.outcomes import score_answers
from morality_lens.judges.toxicity import Judge, fit_toxicity_judge
from morality_lens.models.loading import ModelRecord, record_of
from morality_lens.probes.from_statements import fit_probe
from morality_lens.probes.kinds import KINDS, check_kind
from morality_lens.probes.probe import Probe, load_probe
from morality_lens.report.analysis import keep_transcripts
from morality_lens.rounds.playing import play
from morality_lens.rounds.rereading import read_transcripts, sample_dialogues
from morality_lens.runs.datasets import find_dataset
from morality_lens.runs.requests import Request
from morality_lens.runs.results import write_result
from morality_lens.runs.run import Run
from morality_lens.studies.analysis import write_study_report
from morality_lens.studies.folder import PLACEBO, PROMPTS, QUESTIONS, RESULTS
from morality_lens.studies.plan import LARGEST_RANDOM_MODEL, PROFILES, Estimate, Plan, placebo_factors


def study(
    model: TransformerBridge,
    *,
    out: str | Path,
    questions: Sequence[Question] = (),
    prompts: Sequence[OpenPrompt] = (),
    statements: Sequence[Statement],
    evidence: Sequence[Evidence] = (),
    judges: Sequence[Judge] = (),
    plan: Plan | None = None,
    protocol: Protocol | None = None,
    probe_kind: str = "mean_difference",
    drop_long: bool = False,
    seed: int = 0,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Play everything, ask everything, and write the report with a verdict for each of the five claims.

    Every part is kept in the folder as it is made; the same call goes on where it stopped. A part that cannot
    be done with these items is left out, and the report says why.

    Args:
        model: from ``load_model``.
        out: the study's folder.
        questions: multiple-choice questions.
        prompts: open prompts for detoxification.
        statements: labelled statements for the probe, and for judges where none are given.
        evidence: weak evidence for questions.
        judges: of toxicity, the first being the one that effects rest on; none fits two on the statements.
        plan: how much; None is the full profile.
        protocol: how dialogues are played; rounds are the plan's.
        probe_kind: kind of direction.
        drop_long: leave out items whose dialogues could outgrow the window.
        seed: of drawings, folds and samples.
        progress: whether to show bars.
        say: told what is being done.

    Returns:
        The path of the report.

    Raises:
        ValueError: neither questions nor prompts, a folder with another study, or what ``play`` refuses.
    """
    record = record_of(model)
    plan, base, folder = plan or PROFILES["full"], protocol or Protocol(), Path(out)
    if not questions and not prompts:
        raise ValueError("a study needs questions or prompts; got neither.")
    chosen = spread(questions, plan.items, seed, lambda q: q.cluster)
    texts = spread(prompts, plan.items, seed, lambda p: p.cluster)
    load_wording(base.wording)
    referees = list(judges) or [
        fit_toxicity_judge(statements, kind=k, seed=seed) for k in ("logistic", "bayes")
    ]
    request = Request(
        what="study",
        settings={
            "model": record.fingerprint,
            "plan": asdict(plan),
            "protocol": {**asdict(base), "design": base.design.manifest()},
            "questions": items_hash(chosen),
            "prompts": items_hash(texts),
            "statements": items_hash(statements),
            "evidence": [asdict(one) for one in evidence],
            "judges": [repr(judge)[:200] for judge in referees],
            "probe": probe_kind,
            "seed": seed,
        },
    )
    request.begin(folder, "study.json")
    say(f"this takes {estimate(model, plan, chosen, texts, base, record)}")

    def run(name: str, items: Sequence, rounds: int, **changes: object) -> Run:
        say(f"playing {name}")
        design = replace(base.design, rounds=rounds, **changes.pop("design", {}))  # type: ignore[arg-type]
        told = replace(base, design=design, **changes)  # type: ignore[arg-type]
        return play(
            model,
            items,
            out=folder / name,
            protocol=told,
            drop_long=drop_long,
            judge=referees[0],
            progress=progress,
        )

    probe = _probe(folder, "probe", lambda: _fit(model, record, statements, probe_kind, plan, seed), say)
    mains: dict[str, Run] = {}
    if chosen:
        mains[QUESTIONS] = run(QUESTIONS, chosen, plan.rounds)
    if texts:
        mains[PROMPTS] = run(PROMPTS, texts, plan.rounds)
        _score(mains[PROMPTS], referees)
    for name, played in mains.items():
        if not (played.path / "coloured.json").is_file():
            say(f"reading some transcripts of {name}")
            rows = sample_dialogues(played)
            keep_transcripts(played, read_transcripts(model, played, probe, rows=rows))
    skipped: list[str] = []

    def result(name: str, make: Callable[[], xr.Dataset]) -> None:
        if find_dataset(folder / RESULTS, name) is not None:
            return
        say(name.replace("-", " of "))
        try:
            found = make()
        except ValueError as error:
            skipped.append(f"{name}: {error}")
            return
        write_result(folder / RESULTS, name, found)

    parts = folder / "parts"
    if QUESTIONS in mains:
        played = mains[QUESTIONS]
        ids = set(played.items.index)
        kept = [q for q in chosen if q.id in ids]
        words = component_words(load_wording(base.wording), "choice")
        result(
            "masked",
            lambda: mask_words(model, played, probe, out=parts / "masked", progress=progress).to_dataset(),
        )
        if not (folder / "probe-without-words.safetensors").is_file():
            try:
                few = without_words(statements, words)
                other = fit_probe(model, few, kind=probe_kind, refits=0, seed=seed)
                other.save(folder / "probe-without-words.safetensors")
            except ValueError as error:
                skipped.append(f"probe without the words: {error}")
        if evidence:
            rounds = sorted({*(n for n in plan.evidence_rounds if n <= plan.rounds), plan.rounds})
            result(
                "evidence",
                lambda: weak_evidence(
                    model,
                    played,
                    evidence,
                    probe=probe,
                    rounds=rounds,
                    wording=base.wording,
                    out=parts / "evidence",
                    progress=progress,
                ),
            )
        result(
            "groups",
            lambda: name_groups(model, played, wording=base.wording, out=parts / "groups", progress=progress),
        )
        few = spread(kept, plan.placebo_items, seed, lambda q: q.cluster)
        run(PLACEBO, few, plan.placebo_rounds, design={"factors": placebo_factors(base.design)})
        few = spread(kept, plan.wording_items, seed, lambda q: q.cluster)
        for index in range(plan.wordings):
            run(f"wording-{index}", few, plan.wording_rounds, wording_index=base.wording_index + index)
    if PROMPTS in mains:
        for number in range(plan.samples):
            sampled = run(
                f"sample-{number}",
                texts,
                plan.sample_rounds,
                temperature=1.0,
                design={"seed": seed + 1 + number},
            )
            _score(sampled, referees)
    for name, played in mains.items():
        result(
            f"pairs-{name}",
            lambda name=name, played=played: distinguish(
                model,
                played,
                probe=probe,
                wording=base.wording,
                seed=seed,
                out=parts / f"pairs-{name}",
                progress=progress,
            ),
        )
    write_json(folder / "left_out.json", skipped)
    say("estimating effects and writing the report")
    return write_study_report(folder)


def _fit(
    model: TransformerBridge,
    record: ModelRecord,
    statements: Sequence[Statement],
    kind: str,
    plan: Plan,
    seed: int,
) -> Probe:
    parameters = sum(p.numel() for p in record.lm.module.parameters())
    random_models = plan.random_models if parameters <= LARGEST_RANDOM_MODEL else 0
    card = KINDS[check_kind(kind)].card
    return fit_probe(model, statements, kind=kind, card=card, random_models=random_models, seed=seed)


def _probe(folder: Path, name: str, make: Callable[[], Probe], say: Callable[[str], None]) -> Probe:
    file = folder / f"{name}.safetensors"
    if file.is_file():
        return load_probe(file)
    say("fitting the probe and its trust card")
    found = make()
    found.save(file)
    return found


def _score(run: Run, judges: Sequence[Judge]) -> None:
    if not (run.path / "scores.parquet").is_file():
        score_answers(run, *judges)


def estimate(
    model: TransformerBridge,
    plan: Plan,
    questions: Sequence[Question],
    prompts: Sequence[OpenPrompt],
    protocol: Protocol,
    record: ModelRecord,
    *,
    trial: int = 4,
) -> Estimate:
    """What a study will take, from some items played over one round.

    Longer dialogues take longer than a trial's, and what is done beside playing is reckoned as a third of it;
    a rough figure.
    """
    seconds, size = 0.0, 0
    cell = (record.n_layers + 1) * record.d_model * len(protocol.design.sites) * 4
    for kind, items in ((QUESTIONS, questions), (PROMPTS, prompts)):
        if not items:
            continue
        few = sorted(items, key=lambda item: item.id)[:trial]
        where = Path(tempfile.mkdtemp(prefix="trial-"))
        try:
            told = replace(protocol, design=replace(protocol.design, rounds=1, seed=0), feedback="oracle")
            if kind == PROMPTS:
                told = replace(told, feedback="self")
            began = time.perf_counter()
            play(model, few, out=where / "trial", protocol=told, drop_long=True, progress=False)
            each = (time.perf_counter() - began) / (len(few) * 2 * len(protocol.design.conditions))
        except ValueError:
            continue  # what is wrong with these items is told when they are played
        finally:
            shutil.rmtree(where, ignore_errors=True)
        names = (QUESTIONS, PLACEBO, "wording") if kind == QUESTIONS else (PROMPTS, "sample")
        for name in names:
            runs, most, turns = plan.dialogues(protocol.design)[name]
            n = runs * min(most, len(items)) * turns
            seconds += n * each
            size += n * cell
    return Estimate(seconds=seconds * 4 / 3, bytes=size)
