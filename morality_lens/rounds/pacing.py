"""What the first finished items say of the rest of a run."""

import shutil

from morality_lens.progress import duration
from morality_lens.runs import writing
from morality_lens.runs.rates import reply_rates
from morality_lens.runs.run import Run


def outlook(run: Run, total: int) -> list[str]:
    """What the finished items say of a run: its speed, time left and disk, and how its replies come out."""
    done, times = len(run.items), writing.timings(run.path)
    each = times["seconds"] / done
    files = sum(file.stat().st_size for file in run.path.rglob("*") if file.is_file())
    speed = times["tokens"] / max(times["seconds"], 1e-9)
    lines = [
        f"after {done} of {total} items: {speed:.0f} tokens a second, about "
        f"{duration(each * (total - done))} left to play, {files / done * total / 1e9:.2f} GB on disk "
        f"in the end ({shutil.disk_usage(run.path).free / 1e9:.1f} GB free)"
    ]
    parts = [f"{rate:.0%} {_SAID.get(name, name.replace('_', ' '))}" for name, rate in _shown(run).items()]
    if run.names_good:
        parts.append(f"the options have {float(run.option_mass.mean()):.2f} of the probability")
    return [*lines, f"replies: {'; '.join(parts)}"]


_SAID = {
    "parsed": "of the answers parse",
    "unstopped": "do not stop by themselves",
    "feedback_cut": "of the feedback is cut",
    "rationale_cut": "of the rationales are cut",
    "thinking_cut": "of the thoughts are cut",
    "feedback_missing": "of the feedback is missing",
}


def _shown(run: Run) -> dict[str, float]:
    rates = reply_rates(run.answers)
    return {
        ("unstopped" if k == "stopped" else k): (1 - v if k == "stopped" else v) for k, v in rates.items()
    }


def refuse_unparsed(run: Run, total: int, least: float) -> None:
    """Nothing, where enough of the answers so far parse.

    Raises:
        ValueError: fewer do, and items are left to play.
    """
    parsed = reply_rates(run.answers).get("parsed", 1.0)
    if parsed >= least or len(run.items) >= total:
        return
    texts = run.answers.loc[~run.answers["parsed"].eq(True), "text"].astype(str)
    shown = "; ".join(repr(text[:60]) for text in texts.drop_duplicates().iloc[:3])
    raise ValueError(
        f"only {parsed:.0%} of the answers to the first {len(run.items)} items parse, for example not "
        f"{shown}. Raise answer_tokens where they are cut, set answer_prefix, or take another wording or "
        "model; --anyway plays on. Finished items are kept."
    )
