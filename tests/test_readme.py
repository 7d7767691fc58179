"""The code blocks of the README run as they stand."""

import shlex
from pathlib import Path

import pytest

from physcon_ase.cli import main
from tests.code_blocks import ROOT, CodeBlock, code_blocks, run_python

README = ROOT / "README.md"


@pytest.mark.parametrize("block", code_blocks(README, "python"), ids=lambda block: f"line-{block.line}")
def test_python_of_the_readme_runs(block: CodeBlock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run_python(block, {"__name__": "readme"})
    assert "PhysConCalculator" in block.code


@pytest.mark.parametrize("line", [line for block in code_blocks(README, "shell") for line in block.code.splitlines()])
def test_command_of_the_readme_runs(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("drugs.csv").write_text("name,smiles\nethanol,CCO\nphenol,Oc1ccccc1\n")
    Path("results").mkdir()
    if line.startswith("physcon report"):
        main(["optimize", "O", "-o", "results/water.jsonl"])
    if line.startswith("physcon strain"):
        main(["optimize", "drugs.csv", "-o", "drugs.sdf"])
    name, *arguments = shlex.split(line, comments=True)
    if name == "mkdir":
        assert arguments == ["results"], "made above"
    else:
        assert name == "physcon"
        assert main(arguments) == 0
