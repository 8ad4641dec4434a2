import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from compress import progress


@pytest.fixture(autouse=True)
def on_the_console():
    progress.clear_warnings()
    with progress.console():
        yield
    progress.clear_warnings()


class Clock:
    """A clock that each look moves by a step."""

    def __init__(self, step_s):
        self.now, self.step_s = 0.0, step_s

    def monotonic(self):
        self.now += self.step_s
        return self.now


def test_items_pass_through_and_a_short_loop_prints_nothing(capsys):
    assert list(progress.track(range(5), "count")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().out == ""


def test_without_a_terminal_a_line_comes_every_ten_seconds_and_at_the_end(capsys, monkeypatch):
    monkeypatch.setattr(progress, "time", Clock(4.0))
    assert len(list(progress.track(range(7), "scan"))) == 7
    assert capsys.readouterr().out.splitlines() == [
        "scan: 3/7 (43%)  0:12, 0:16 left",
        "scan: 6/7 (86%)  0:24, 0:04 left",
        "scan: 7/7 (100%)  0:32",
    ]


def test_a_generator_needs_no_length(capsys, monkeypatch):
    monkeypatch.setattr(progress, "time", Clock(2.0))
    list(progress.track((n for n in range(3)), "read"))
    assert capsys.readouterr().out == "read: 3  0:08\n"


def test_a_loop_that_stops_early_says_how_far_it_came(capsys, monkeypatch):
    monkeypatch.setattr(progress, "time", Clock(4.0))
    for item in progress.track(range(100), "train"):
        if item == 1:
            break
    assert capsys.readouterr().out.startswith("train: 1/100 (1%)")


def test_on_a_terminal_nested_loops_share_one_display(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    pairs = [(a, b) for a in progress.track(range(2), "outer") for b in progress.track(range(2), "inner")]
    assert pairs == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert progress._bars == []


def test_a_warning_is_printed_once_and_kept(capsys):
    progress.warn("layer x is skipped")
    progress.warn("layer x is skipped")
    progress.restore_warnings(["older"])
    assert capsys.readouterr().err == "warning: layer x is skipped\n"
    assert progress.collected_warnings() == ["layer x is skipped", "older"]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3661, "1:01:01")])
def test_durations_read_like_a_clock(seconds, text):
    assert progress._clock(seconds) == text


def _on_a_terminal(code):
    """Run a program whose output is a pseudo-terminal; return what it wrote."""
    reader, writer = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=writer, stderr=writer, env=environment)
    os.close(writer)
    written = b""
    while True:
        try:
            part = os.read(reader, 4096)
        except OSError:  # Linux: the other end was closed
            break
        if not part:
            break
        written += part
    os.close(reader)
    assert process.wait(timeout=30) == 0, written
    return written.decode()


SLOW_LOOP = """
import time
from compress.progress import console, say, track
with console():
    for item in track(range(12), "score packed"):
        time.sleep(0.1)
        if item == 5:
            say("a line in between")
"""


def test_a_terminal_shows_a_bar_that_is_replaced_by_one_line_at_the_end():
    written = _on_a_terminal(SLOW_LOOP)
    assert "━" in written
    assert re.search(r"\d+/12", written)
    assert "a line in between" in written
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)
    assert plain.rstrip().splitlines()[-1].strip().startswith("score packed: 12/12 (100%)")


def test_a_pipe_gets_plain_lines():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", SLOW_LOOP]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "a line in between"
    assert re.fullmatch(r"score packed: 12/12 \(100%\)  0:01", lines[1])
    assert "\x1b" not in done.stdout


def test_a_program_that_uses_the_library_routes_messages_warnings_and_progress(capsys, caplog, monkeypatch):
    monkeypatch.setattr(progress.LOGGER, "handlers", [])  # no console
    monkeypatch.setattr(progress.LOGGER, "propagate", True)
    monkeypatch.setattr(progress, "time", Clock(4.0))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    caplog.set_level(logging.INFO, logger="krimp")
    progress.say("a message")
    progress.warn("layer y is skipped")
    list(progress.track(range(3), "scan"))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "a message"),
        ("WARNING", "layer y is skipped"),
        ("INFO", "scan: 3/3 (100%)  0:12"),
    ]
    assert capsys.readouterr() == ("", "")


def test_the_console_leaves_the_logger_as_it_was():
    before = list(progress.LOGGER.handlers), progress.LOGGER.level, progress.LOGGER.propagate
    for handler in before[0]:
        progress.LOGGER.removeHandler(handler)
    with progress.console(), progress.console():
        assert len(progress.LOGGER.handlers) == 1
    assert progress.LOGGER.handlers == []
    for handler in before[0]:
        progress.LOGGER.addHandler(handler)


def test_messages_and_labels_hold_nothing_that_a_terminal_acts_upon(capsys):
    with progress.console():
        progress.say("two\nlines \x1b[2J")
        progress.warn("a name: \x1b]0;owned\x07\udcff")
    shown = capsys.readouterr()
    assert shown.out == "two\nlines \\x1b[2J\n"
    assert shown.err == "warning: a name: \\x1b]0;owned\\x07\\udcff\n"
