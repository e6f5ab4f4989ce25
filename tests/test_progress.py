"""Progress is said without a terminal too."""

import time

from morality_lens import progress
from morality_lens.progress import Counter, counted, duration, hiding, listening, stage


def test_a_line_holds_what_is_done_the_speed_and_the_time_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    counter = Counter("rounds", 100, done=20)
    assert counter.line == "rounds: 20 of 100"
    now[0] = 30.0
    counter.advance(15, tokens=1200)
    assert counter.line == "rounds: 35 of 100, 40 tokens a second, about 2 minutes left"
    now[0] = 60.0
    counter.advance(45, tokens=1800)
    assert counter.line == "rounds: 80 of 100, 30 tokens a second, about 20 seconds left"
    counter.note("a note")
    assert capsys.readouterr().err == "a note\n"


def test_without_a_terminal_lines_come_by_themselves_and_end_with_the_count(monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 0.02)
    with Counter("rounds", 4):
        time.sleep(0.3)
    said = capsys.readouterr().err.splitlines()
    assert len(said) >= 3
    assert set(said) == {"rounds: 0 of 4"}
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_nothing_is_printed_where_nothing_is_to_be_shown(monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 0.02)

    def slow(value: int) -> int:
        time.sleep(0.1)
        return 2 * value

    assert counted(slow, [1, 2], "things", shown=False) == [2, 4]
    with hiding():
        counted(slow, [1, 2], "things")
    assert capsys.readouterr() == ("", "")
    counted(slow, [1, 2], "things")
    assert "things: 1 of 2, about 0 seconds left" in capsys.readouterr().err


def test_stages_reach_who_listens_and_nobody_else(capsys):
    heard: list[str] = []
    stage("before")
    with listening(heard.append):
        stage("within")
    stage("after")
    assert heard == ["within"]
    assert capsys.readouterr() == ("", "")


def test_a_duration_is_read_in_its_own_unit():
    assert [duration(s) for s in (40.0, 600.0, 9000.0)] == ["40 seconds", "10 minutes", "2.5 hours"]
