"""Replaying stored dialogues: their wording, their turns, and the check that the model is the same."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from morality_lens.design import Condition
from morality_lens.dialogues import rendering
from morality_lens.dialogues.languages import LANGUAGES
from morality_lens.dialogues.rendering import Transcript
from morality_lens.dialogues.script import Exchange, Script
from morality_lens.dialogues.thinking import THOUGHT
from morality_lens.dialogues.wording import Wording, load_wording
from morality_lens.items.kinds import Item
from morality_lens.models.loading import ModelRecord, record_of
from morality_lens.probes.probe import Probe
from morality_lens.rounds.row import Row, say
from morality_lens.runs.run import Run


def wording_of(run: Run, path: str | None = None) -> Wording:
    """The wording that a run was played in.

    Args:
        run: a run.
        path: file of its wording; None is the package's own, in the run's language.

    Raises:
        ValueError: the run was played in another wording.
    """
    stored = run.manifest["study"]["wording"]
    if path is None and stored["name"] in LANGUAGES:
        path = str(stored["name"])
    wording = load_wording(path)
    if wording.hash_of(run.task) != stored["sha256"]:
        raise ValueError(
            f"the run was played in the wording {stored['name']!r}, and this is {wording.name!r} with other "
            "words; give the path of the file that it was played with as wording."
        )
    return wording


def script_of(run: Run, wording: Wording) -> Script:
    """The script that a run was played by."""
    study = run.manifest["study"]
    return Script(
        design=run.design,
        wording=wording,
        index=run.wording_index,
        thinking=bool(study["limits"].get("thinking_tokens", 0)),
        answer_prefix=study.get("answer_prefix", ""),
        system=run.system_prompt,
    )


def dialogue_after(
    record: ModelRecord, run: Run, item: Item, condition: Condition, wording: Wording
) -> list[Transcript]:
    """One dialogue of a run after each round's answer, built again from what was stored.

    Raises:
        ValueError: the stored tokens are not those that this model's template makes of these words.
    """
    script = script_of(run, wording)
    answers = run.select(run.answers, item.id, condition).sort_values("round").to_dict("records")
    stored = run.select(run.transcripts, item.id, condition).sort_values("round").to_dict("records")
    whole = {int(row["round"]): row for row in stored}
    renderer, transcript, found = record.renderer, Transcript(), []
    for number, answer in enumerate(answers):
        # Where history is rewritten, a later dialogue may lack earlier replies, but not its own round's.
        row = whole[min(n for n in whole if n >= number)]
        said = _said(row, number)
        exchanges = script.round(item, condition, number, answer["feedback_text"] or None)
        for exchange, thought in zip(exchanges, _thoughts(exchanges, said), strict=True):
            transcript, _ = say(record, script, transcript, exchange, round=number)
            if exchange.given is not None:
                continue
            if script.thinking and rendering.thinks(renderer, transcript):
                transcript = rendering.append_reply(renderer, transcript, thought, THOUGHT, round=number)
                prefix = script.prefix(exchange.reply)
                transcript = rendering.begin_reply(renderer, transcript, round=number, prefix=prefix)
            words = ([ids for name, ids in said if name == exchange.reply] or [[]])[-1]
            transcript = rendering.append_reply(renderer, transcript, words, exchange.reply, round=number)
        found.append(transcript)
    kept = tuple(int(t) for t in stored[-1]["token_ids"])
    if found[-1].token_ids != kept:
        raise ValueError(
            f"the stored dialogue of item {item.id} under {condition.label} differs from the one that this "
            "model's template makes; load the model with the template that the run was played with."
        )
    return found


def begun_row(record: ModelRecord, run: Run, item: Item, cell: int, wording: Wording) -> Row:
    """A dialogue of a run as it was after its last round's answer, to be carried on.

    Args:
        record: the run's model.
        run: that holds the dialogue.
        item: of the dialogue.
        cell: index of its condition.
        wording: the run's words.
    """
    condition = run.design.conditions[cell]
    transcript = dialogue_after(record, run, item, condition, wording)[-1]
    answers = run.select(run.answers, item.id, condition).set_index("round")
    last = answers.loc[run.design.rounds]
    return Row(
        place=0,
        item=item,
        condition=condition,
        cells=(cell,),
        transcript=transcript,
        answer=str(last["text"]),
        number=run.design.rounds,
    )


def _said(row: dict[str, Any], number: int) -> list[tuple[str, list[int]]]:
    """The segments of a stored dialogue that were said in a round, and their tokens."""
    ids = [int(token) for token in row["token_ids"]]
    return [(s["name"], ids[s["start"] : s["stop"]]) for s in row["spans"] if s["round"] == number]


def _thoughts(exchanges: Sequence[Exchange], said: Sequence[tuple[str, list[int]]]) -> list[list[int]]:
    """The thoughts before the reply of each exchange of a round; empty where the template dropped them."""
    stored = [ids for name, ids in said if name == THOUGHT]
    written = [exchange.given is None for exchange in exchanges]
    stored = [[]] * (sum(written) - len(stored)) + stored
    return [stored.pop(0) if own else [] for own in written]


def on_day(record: ModelRecord, today: str | None) -> ModelRecord:
    """The record with a chat template that prints this date as today's; None leaves it as it is."""
    if today is None:
        return record
    return replace(record, renderer=replace(record.renderer, today=date.fromisoformat(today)))


def same_model(model: TransformerBridge, run: Run, probe: Probe | None) -> ModelRecord:
    """The model's record, its chat template on the day that the run was begun.

    Raises:
        ValueError: the run or the probe was made with another model, or the run with other template keywords.
    """
    record = on_day(record_of(model), run.manifest.get("today"))
    prints = {"run": run.manifest["study"]["model"]["fingerprint"]}
    if probe is not None:
        prints["probe"] = probe.training["model_fingerprint"]
    for who, found in prints.items():
        if found != record.fingerprint:
            raise ValueError(
                f"the {who} was made with another model (weights {found[:12]}, this one has "
                f"{record.fingerprint[:12]}); load that one."
            )
    played, given = (
        held.get("template_keywords", {}) for held in (run.manifest["study"]["model"], record.options)
    )
    if played != given:
        raise ValueError(
            f"the run was played with the template keywords {played or 'left out'}, and this model "
            f"was loaded with {given or 'none'}; load it with template_keywords={played!r}."
        )
    return record


def option_letters(record: ModelRecord, run: Run) -> tuple[tuple[int, ...], ...]:
    """The tokens of the letters of a run's options, one of which is the correct one of each item.

    Raises:
        ValueError: items without options or without a correct one, or letters without a token of their own.
    """
    if not run.names_good:
        raise ValueError(
            "this needs questions with options and a correct one, for its log-odds; these items name no "
            "correct option."
        )
    return reply_tokens(record, run)


def reply_tokens(record: ModelRecord, run: Run) -> tuple[tuple[int, ...], ...]:
    """The tokens of the signs of a run's replies, letters or digits; none where items have no replies.

    Raises:
        ValueError: signs without a token of their own.
    """
    signs = max((item.replies for item in run.asked.values()), key=len)
    prefix = run.manifest["study"].get("answer_prefix", "")
    tokens = rendering.first_tokens(record.renderer, signs, prefix)
    if not all(tokens):
        raise ValueError(
            f"this tokenizer has no token of its own for each sign of a reply ({', '.join(signs)})."
        )
    return tokens
