"""Progress: a bar on a terminal, lines elsewhere, nothing where nobody wants to know."""

import io
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch

from gmmxlnet.errors import ConfigError, is_out_of_memory
from gmmxlnet.utils import logs, progress
from gmmxlnet.utils.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def at_level_info():
    logging.getLogger("gmmxlnet").setLevel(logging.INFO)


def work(seconds_between_lines, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", seconds_between_lines)
    with Progress("evaluate", total=10, unit="documents") as shown:
        for _ in range(5):
            shown.advance(2, tokens=100, EM=71.25)
    return shown


def test_lines_without_a_terminal(monkeypatch, caplog):
    work(0.0, monkeypatch)
    assert len(caplog.messages) == 5
    assert caplog.messages[0].startswith("evaluate: 2 of 10 documents, EM 71.25, ")
    assert "tokens/s" in caplog.messages[0]
    assert caplog.messages[-1].endswith("0 s left")


def test_short_work_says_nothing(monkeypatch, caplog, capsys):
    work(30.0, monkeypatch)
    assert not caplog.messages
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(monkeypatch, caplog):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    assert work(0.0, monkeypatch).shown
    assert "10/10" in terminal.getvalue()
    assert "EM 71.25" in terminal.getvalue()
    assert not caplog.messages


def test_a_resumed_bar_begins_where_the_other_ended(monkeypatch, caplog):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with Progress("train", total=80, unit="steps", done=10) as shown:
        shown.start -= 1.0  # a second for this step, so 69 s for the others
        shown.advance()
    (line,) = caplog.messages
    assert line.startswith("train: 11 of 80 steps")
    assert line.endswith(("69 s left", "1 min left"))
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("train", total=80, unit="steps", done=10) as shown:
        shown.advance()
    assert "11/80" in terminal.getvalue()


def test_silent_above_info(monkeypatch, caplog):
    logging.getLogger("gmmxlnet").setLevel(logging.WARNING)
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    assert not work(0.0, monkeypatch).shown
    assert terminal.getvalue() == ""
    assert not caplog.messages


@pytest.mark.parametrize(("seconds", "words"), [(44.6, "45 s"), (700, "12 min"), (12_000, "3 h 20 min")])
def test_durations(seconds, words):
    assert progress._duration(seconds) == words


def test_the_level_comes_from_the_option_or_the_variable(monkeypatch):
    monkeypatch.setenv(logs.VARIABLE, "error")
    logs.set_log_level(None)
    assert logging.getLogger("gmmxlnet").level == logging.ERROR
    logs.set_log_level("debug")
    assert logging.getLogger("gmmxlnet").level == logging.DEBUG
    monkeypatch.setenv(logs.VARIABLE, "loud")
    with pytest.raises(ConfigError, match="GMMXLNET_LOG_LEVEL must be debug, info, warning, error, not 'loud'"):
        logs.set_log_level(None)


@pytest.mark.parametrize(("level", "theirs"), [("debug", 20), ("info", 30), ("error", 40)])
def test_the_level_holds_for_transformers_whether_imported_before_or_after(level, theirs):
    lines = [
        "from gmmxlnet.utils.logs import set_log_level",
        f"set_log_level({level!r})",
        "from transformers.utils import logging",
        "print(logging.get_verbosity())",
    ]
    for order in (lines, [lines[2], *lines]):
        done = subprocess.run([sys.executable, "-c", "\n".join(order)], capture_output=True, text=True, check=True)
        assert int(done.stdout) == theirs


def test_lack_of_memory_is_recognized():
    with pytest.raises(MemoryError) as by_numpy:
        np.empty(2**55)
    with pytest.raises(RuntimeError) as by_torch:
        torch.empty(2**55)
    assert is_out_of_memory(by_numpy.value)
    assert is_out_of_memory(by_torch.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
