from pathlib import Path

import pytest

from physcon_ase.cli import main


def test_report_writes_a_page_with_the_results_of_other_commands(capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("plotly", reason="needs plotly: pip install 'physcon-ase[report]'")
    Path("list.smi").write_text("O water\nfoo unknown\n")
    Path("r").mkdir()
    assert main(["optimize", "list.smi", "-o", "r/minima.jsonl", "--quiet"]) == 1
    assert main(["scan", "CO", "--dihedral", "3", "0", "1", "5", "--step", "120", "-n", "1", "-o", "r/scan.json"]) == 0
    capsys.readouterr()
    assert main(["report", "r", "-o", "page.html", "--title", "Water and others"]) == 0
    assert capsys.readouterr().out == "3 molecules written to page.html\n"
    page = Path("page.html").read_text(encoding="utf-8")
    for part in ("<h1>Water and others</h1>", ">water<", ">unknown<", "InvalidSmilesError", ">scan<"):
        assert part in page


def test_files_that_are_no_results_are_one_line(two_structures: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["report", str(two_structures), "-o", "page.html"]) == 2
    error = capsys.readouterr().err
    assert "two.xyz is not a result file" in error
    assert error.count("\n") == 1
