"""The code blocks of the README run as they stand."""

import re
import shlex
from pathlib import Path

import pytest

from physcon_ase.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_of_the_readme_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert "PhysConCalculator" in code


@pytest.mark.parametrize("line", [line for block in blocks("shell") for line in block.splitlines()])
def test_command_of_the_readme_runs(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    name, *arguments = shlex.split(line)
    assert name == "physcon"
    assert main(arguments) == 0
