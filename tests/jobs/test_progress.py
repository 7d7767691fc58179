import io
import sys
import time

import pytest

from physcon_ase.jobs.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_moves_before_the_first_result_and_shows_rate_and_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(40, initial=10) as progress:
        time.sleep(1.2)
        assert terminal.getvalue().count("\r") > 1
        assert "10/40" in terminal.getvalue()
        progress.advance(5, "3 of them")
    assert progress.count == 15
    assert " 38%|" in terminal.getvalue()
    assert "molecules/s" in terminal.getvalue()
    assert "3 of them" in terminal.getvalue()


def test_nothing_is_shown_without_a_terminal(capsys: pytest.CaptureFixture) -> None:
    with Progress(2) as progress:
        progress.advance(2)
    assert capsys.readouterr().err == ""
    assert progress.count == 2
