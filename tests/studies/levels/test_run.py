import subprocess
import sys
from pathlib import Path

import pytest

from studies.levels import run
from studies.levels.run import main
from studies.levels.study import SCRATCH

SCRIPT = Path(__file__).resolve().parents[3] / "studies" / "levels" / "run.py"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--folder run --rows nonsense", "unknown rows ['nonsense']; the study has ['from scratch'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("run.py: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_data_of_another_study_are_refused(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--folder", "run", "--data", "qm9"])
    assert stop.value.code == 2
    assert "argument --data: invalid choice: 'qm9'" in capsys.readouterr().err


def test_the_script_explains_itself_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120)
    assert "usage: run.py" in done.stdout
    assert "--scale" in done.stdout


def test_options_are_arguments_of_the_study_and_its_tables_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    asked = {}

    def run_levels(data: str, folder: Path, scale: object, **options: object) -> list[dict]:
        asked.update(data=data, folder=folder, **options)
        found = {"level": "b3lyp", "force_mae": 0.05, "n_forces": 3}
        return [{"row": SCRATCH, "labels": 8, "seed": 1, "n_labelled": 8, "accurate": found, "cheap": None}]

    monkeypatch.setattr(run, "run_levels", run_levels)
    words = ["--folder", str(tmp_path), "--data", "b3lyp", "--stores", "S", "--seeds", "1", "--rows", SCRATCH]
    assert main(words) == 0
    expected = {"stores": Path("S"), "seeds": [1], "rows": [SCRATCH]}
    assert asked == {"data": "b3lyp", "folder": tmp_path, **expected}
    assert (tmp_path / "tables.md").read_text() == capsys.readouterr().out
