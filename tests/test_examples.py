import runpy
import sys
from pathlib import Path

import ase.io
import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

OUTPUTS = {
    "calculator.py": [],
    "own_labels.py": ["own_labels/emt.h5", "own_labels/run/emt-model/model.safetensors"],
    "paracetamol.py": ["demo/paracetamol.xyz", "demo/paracetamol.sdf", "demo/paracetamol.png"],
    "small_training.py": ["small_training/mmff94.h5", "small_training/run/small/model.safetensors"],
    "smiles_to_structure.py": ["alanine.xyz"],
    "thousand_molecules.py": ["molecules.sdf"],
}
"""What each example writes into the folder that it is started in."""


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    # In this process: a new one would spend most of its time on imports.
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(OUTPUTS)
    assert [path.name for path in EXAMPLES.glob("*.ipynb")] == ["workbench.ipynb"]


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_example_runs_and_writes_what_it_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(name, tmp_path, monkeypatch, "--budget", "small")
    for output in OUTPUTS[name]:
        assert (tmp_path / output).stat().st_size > 0, output


def test_the_demo_ends_with_relaxed_paracetamol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    run("paracetamol.py", tmp_path, monkeypatch)
    assert "status     converged" in capsys.readouterr().out
    atoms = ase.io.read(tmp_path / "demo" / "paracetamol.xyz")
    assert not isinstance(atoms, list)
    assert atoms.get_chemical_formula() == "C8H9NO2"
    assert (atoms.get_forces() ** 2).sum(axis=1).max() ** 0.5 < 0.01
    assert atoms.info["bonds_intact"]


@pytest.mark.slow
def test_the_notebook_runs_and_shows_a_view_of_each_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel")
    notebook = nbformat.read(EXAMPLES / "workbench.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "clear the outputs before you commit"
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    views = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert ["plotly.js v" in view for view in views] == [True, False, False, False]
    for view, part in zip(views, ("Convergence", "Conformers", "Energy profile", "Infrared spectrum"), strict=True):
        assert part in view
