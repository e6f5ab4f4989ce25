"""Who plays and who gives feedback, as a protocol names them, and their provenance."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from morality_lens.design import Protocol
from morality_lens.dialogues import rendering
from morality_lens.dialogues.wording import Wording
from morality_lens.items.files import file_hash
from morality_lens.items.kinds import Item
from morality_lens.judges.toxicity import Judge
from morality_lens.models.loading import ModelRecord, load_model, record_of
from morality_lens.rounds.feedback import Critic, FromFile, Oracle, Source, read_feedback
from morality_lens.rounds.player import Player


def make_source(
    record: ModelRecord,
    protocol: Protocol,
    wording: Wording,
    items: Sequence[Item],
    path: Path,
    judge: Judge | None = None,
) -> Source:
    """The source of feedback.

    Args:
        record: the model that plays.
        protocol: where feedback comes from.
        wording: the words.
        items: what is played.
        path: the run's folder, beside which a server's replies are cached.
        judge: of texts, for an oracle.

    Raises:
        ValueError: a file that lacks an item, or holds a feedback text that is too long.
        FileNotFoundError: no such model or file.
    """
    if protocol.feedback == "oracle":
        return Oracle(wording=wording, index=protocol.wording_index, judge=judge)
    if protocol.feedback == "file":
        source = read_feedback(str(protocol.feedback_from), items)
        texts = (row["feedback"] for rows in source.rows.values() for row in rows)
        longest = max(len(rendering.encode_words(record.renderer, text)) for text in texts)
        if longest > protocol.limits.feedback:
            raise ValueError(
                f"{source.path} holds feedback of up to {longest} tokens and at most "
                f"{protocol.limits.feedback} are read; raise feedback_tokens to {longest}."
            )
        return source
    if protocol.feedback == "endpoint":
        from morality_lens.rounds.endpoint import Endpoint  # its client takes a while to import

        path.parent.mkdir(parents=True, exist_ok=True)
        cache = path.with_name(f"{path.name}.feedback.jsonl")
        return Endpoint(protocol=protocol, wording=wording, cache=cache)
    if protocol.feedback == "model":
        other = load_model(protocol.feedback_from, device=str(record.lm.device))
        return Critic(record=record_of(other), protocol=protocol, wording=wording)
    return Critic(record=record, protocol=protocol, wording=wording, system=protocol.system_prompt)


def make_player(
    record: ModelRecord,
    protocol: Protocol,
    wording: Wording,
    source: Source,
    path: Path,
    *,
    layers: tuple[int, ...] | None = None,
) -> Player:
    """What plays batches: the engine, or a server whose replies the engine reads.

    Args:
        record: the model that plays and reads.
        protocol: who generates.
        wording: the words.
        source: of feedback.
        path: the run's folder, beside which a server's replies are cached.
        layers: those whose residuals are kept; None keeps all.
    """
    known: dict[str, Any] = {"record": record, "protocol": protocol, "wording": wording, "source": source}
    if protocol.generate == "engine":
        return Player(**known, layers=layers)
    from morality_lens.rounds.elsewhere import Elsewhere  # its client takes a while to import

    path.parent.mkdir(parents=True, exist_ok=True)
    return Elsewhere(**known, layers=layers, cache=path.with_name(f"{path.name}.replies.jsonl"))


def meet_server(
    record: ModelRecord, protocol: Protocol, wording: Wording, source: Source, path: Path
) -> None:
    """Try the server that writes the replies, if one does and the folder holds no run yet.

    Raises:
        ValueError: the protocol asks for what the server cannot do.
        ConnectionError: the server does not reply.
    """
    if protocol.generate == "engine" or (path / "manifest.json").is_file():
        return
    from morality_lens.rounds.elsewhere import Elsewhere

    player = make_player(record, protocol, wording, source, path)
    assert isinstance(player, Elsewhere)  # not the engine
    player.greet()


def writer(protocol: Protocol) -> dict[str, Any] | None:
    """The server that writes the replies, as recorded in the manifest; None where the engine does."""
    if protocol.generate == "engine":
        return None
    given = {"from": protocol.generate_from, "model": protocol.generate_model}
    return {**given, **({"request": dict(protocol.generate_request)} if protocol.generate_request else {})}


def origin(source: Source, protocol: Protocol) -> dict[str, Any]:
    """The provenance of feedback, as recorded in the manifest."""
    exact = None
    if isinstance(source, FromFile):
        exact = file_hash(source.path)
    elif isinstance(source, Critic) and protocol.feedback == "model":
        exact = source.record.fingerprint
    return {
        "from": protocol.feedback_from,
        "model": protocol.feedback_model,
        "exact": exact,
        "placebo": protocol.feedback_placebo,
        "named": protocol.feedback_named,
        **({"request": dict(protocol.feedback_request)} if protocol.feedback_request else {}),
    }
