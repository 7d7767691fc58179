import csv
import io
import sys
from pathlib import Path

import ase.io
import pytest

from physcon_ase.cli import main
from physcon_ase.inference import calculator


def table(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(name).read_text().splitlines()))


def test_optimize_says_what_it_did_and_writes_what_was_asked_for(capsys: pytest.CaptureFixture) -> None:
    assert main(["optimize", "CCO", "-o", "ethanol.xyz", "--plot", "ethanol.png", "--seed", "2"]) == 0
    out = capsys.readouterr().out
    for part in ("CCO  (C2H6O, 9 atoms)", "model      physcon-2", "seed 2", "eV", "status     converged"):
        assert part in out
    assert "bonds      intact, stereo intact" in out
    assert "1 of 1 molecule written to ethanol.xyz" in out
    assert len(ase.io.read("ethanol.xyz")) == 9
    assert Path("ethanol.png").stat().st_size > 1000


def test_optimize_takes_a_list_and_counts_what_failed(capsys: pytest.CaptureFixture) -> None:
    Path("list.smi").write_text("O water\nfoo\nC methane\n")
    assert main(["optimize", "list.smi", "-o", "list.sdf"]) == 1
    out, error = capsys.readouterr()
    assert "    1  failed         foo  InvalidSmilesError: invalid SMILES 'foo'" in out
    assert "2 of 3 molecules written to list.sdf" in out
    assert "1 without a structure, with the reasons in list.failed.csv" in out
    assert "3 molecules: 2 ok, 1 failed;" in out
    assert "Traceback" not in error
    assert Path("list.sdf").read_text().count("$$$$") == 2
    assert Path("list.sdf").read_text().startswith("water\n")
    (failure,) = table("list.failed.csv")
    assert (failure["row"], failure["input"], failure["error"]) == ("2", "foo", "InvalidSmilesError")
    assert sorted(path.name for path in Path().iterdir()) == ["list.failed.csv", "list.sdf", "list.smi"]


def test_one_command_makes_structures_and_a_table_of_everything(capsys: pytest.CaptureFixture) -> None:
    Path("Drugs.CSV").write_text("name;SMILES\nwater;O\nnothing;\nwater again;O\n")
    command = ["optimize", "Drugs.CSV", "-o", "out.csv", "-o", "out.pdb", "--max-steps", "1", "--quiet"]
    assert main(command) == 1
    assert "3 of 3 molecules written to out.csv" in capsys.readouterr().out
    lines = table("out.csv")
    assert [(line["name"], line["row"], line["status"]) for line in lines] == [
        ("water", "2", "not converged"), ("nothing", "3", "failed"), ("water again", "4", "not converged")]  # fmt: skip
    assert lines[1]["reason"] == "line 3 has no SMILES: fill in the cell, or delete the line"
    assert [line["seed"] for line in lines] == ["0", "0", "2"]
    assert [line["name"] for line in table("out.failed.csv")] == ["nothing"]
    assert Path("out.pdb").read_text().count("END\n") == 2


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"2\n\nH 0 0 0\nH 0 0 .74\n\n1\n\nHe 0 0 0\n")))
    assert main(["energy", "-"]) == 1
    out = capsys.readouterr().out
    assert "    0  H2  " in out
    assert "    1  failed  UnsupportedElementError" in out


def test_optimize_takes_a_geometry(two_structures: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["optimize", str(two_structures), "-o", "relaxed.xyz", "--level", "b3lyp"]) == 0
    assert "2 molecules: 2 ok;" in capsys.readouterr().out
    assert [len(atoms) for atoms in ase.io.read("relaxed.xyz", index=":")] == [3, 9]


def test_a_single_molecule_that_does_not_converge_is_no_success(capsys: pytest.CaptureFixture) -> None:
    assert main(["optimize", "CCO", "--max-steps", "1"]) == 1
    assert "step limit reached" in capsys.readouterr().out


def test_a_file_with_one_molecule_is_a_list_of_one(capsys: pytest.CaptureFixture) -> None:
    Path("one.smi").write_text("O water\n")
    assert main(["optimize", "one.smi", "-o", "one.sdf", "--plot", "one.png"]) == 0
    out = capsys.readouterr().out
    assert "    0  ok             water  " in out
    assert "  plot       one.png" in out
    assert "1 molecule: 1 ok;" in out
    assert Path("one.sdf").read_text().startswith("water\n")
    assert Path("one.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [("bad.smi", "foo bar\n", "InvalidSmilesError"), ("bad.sdf", "x\n\n\nno counts\nM  END\n$$$$\n", "StoreError")],
)
def test_a_file_with_one_molecule_that_fails_says_why(
    name: str, text: str, error: str, capsys: pytest.CaptureFixture
) -> None:
    Path(name).write_text(text)
    Path("plot.png").write_text("of an earlier run")
    assert main(["optimize", name, "--plot", "plot.png"]) == 1
    out = capsys.readouterr().out
    assert f"  {error}: " in out
    assert "1 molecule: 0 ok, 1 failed;" in out
    assert not Path("plot.png").exists()


def test_predict_and_energy_tell_doubts_with_the_exit_code_of_optimize(
    two_structures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(calculator, "doubts_of", lambda *given: ("few of these",) if len(given[2]) == 9 else ())
        assert main(["predict", str(two_structures), "-o", "labelled.xyz"]) == 1
        assert "labelled.xyz, 0 failed, 1 uncertain" in capsys.readouterr().out
        assert main(["energy", str(two_structures)]) == 1
        first, second = capsys.readouterr().out.splitlines()
        assert "uncertain" not in first
        assert second.endswith(", uncertain: few of these")
    assert "doubts" in ase.io.read("labelled.xyz", index="1").info
    assert main(["energy", "labelled.xyz"]) == 0  # doubts of an earlier prediction do not count


def test_predict_and_energy_agree(two_structures: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["predict", str(two_structures), "-o", "labelled.xyz"]) == 0
    out = capsys.readouterr().out
    assert "2 structures: 2 with energy and forces written to labelled.xyz, 0 failed, 0 uncertain" in out
    assert main(["energy", str(two_structures)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, atoms in zip(lines, ase.io.read("labelled.xyz", index=":"), strict=True):
        assert f"{atoms.get_potential_energy():.6f} eV" in line
        assert atoms.get_forces().shape == (len(atoms), 3)
        assert "level b3lyp-d3 of physcon-2" in line


def test_predict_names_the_structure_that_it_refuses(two_structures: Path, capsys: pytest.CaptureFixture) -> None:
    frames = ase.io.read(two_structures, index=":")
    frames[0].pbc = True
    frames[0].cell = [9, 9, 9]
    ase.io.write("mixed.xyz", frames, format="extxyz")
    assert main(["predict", "mixed.xyz", "-o", "out.xyz"]) == 1
    out = capsys.readouterr().out
    assert "    0  failed  PeriodicCellError:" in out
    (labelled,) = ase.io.read("out.xyz", index=":")
    assert (labelled.info["row"], labelled.info["source"]) == (2, "mixed.xyz")


def test_energy_of_a_smiles_is_that_of_the_relaxed_molecule(capsys: pytest.CaptureFixture) -> None:
    assert main(["energy", "O", "--level", "b3lyp"]) == 0
    assert "level b3lyp" in capsys.readouterr().out
