import subprocess
import sys
from pathlib import Path

import pytest

from studies.consistency.run import main

SCRIPT = Path(__file__).resolve().parents[3] / "studies" / "consistency" / "run.py"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--folder run --rows nonsense", "unknown rows ['nonsense']; the study has ['multi-task'"),
        ("--folder run --modes nonsense", "unknown modes ['nonsense']; choose from ['denoise'"),
        ("--folder run --samples -1", "--samples is -1; 1 or more is needed"),
        ("--folder run --dft-energies -1", "--dft-energies is -1; 1 or more is needed"),
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
        main(["--folder", "run", "--data", "b3lyp"])
    assert stop.value.code == 2
    assert "argument --data: invalid choice: 'b3lyp'" in capsys.readouterr().err


def test_the_script_explains_itself_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120)
    assert "usage: run.py" in done.stdout
    assert "--scale" in done.stdout
