import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from physcon_ase.cli import main
from physcon_ase.inference import one

ROOT = Path(__file__).resolve().parents[2]


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from physcon_ase.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'ase', 'rdkit', 'numpy', 'h5py') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert "optimize" in found.stdout
    assert found.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "command",
    [
        "optimize",
        "predict",
        "energy",
        "train",
        "evaluate",
        "calibrate",
        "data import",
        "data describe",
        "label",
        "models download",
    ],
)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    assert f"usage: physcon {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("optimize foo", "invalid SMILES 'foo'"),
        ("optimize none.smi", "there is no file none.smi"),
        ("optimize O --level magic", "unknown level 'magic'"),
        ("optimize O --checkpoint magic", "checkpoint 'magic' does not exist"),
        ("optimize O --device magic", "device 'magic' cannot be used"),
        ("optimize O --fmax 0", "fmax must be a force larger than 0"),
        ("optimize O -o out.doc", "cannot write out.doc"),
        ("optimize two.xyz -o two.xyz", "would overwrite the input"),
        ("optimize list.smi --smiles-column x", "list.smi is a SMILES list and has no columns"),
        ("optimize table.csv --smiles-column x", "there is no column 'x'; the columns are 'smiles'"),
        ("optimize O -o out.sdf -o list.smi", "cannot write list.smi"),
        ("optimize list.failed.csv -o list.sdf", "would overwrite the input"),
        ("optimize list.smi --jobs 0", "n_processes is 0"),
        ("optimize two.xyz --plot two.png", "--plot draws one molecule"),
        ("optimize O --plot water.png.gz", "cannot write water.png.gz; pictures are compressed already"),
        ("optimize list.smi -o t.sdf -o t.failed.csv", "t.failed.csv, which is the table of the failures of t.sdf"),
        ("optimize list.smi -o ./t.failed.csv -o t.xyz", "which is the table of the failures of t.xyz"),
        ("optimize list.smi --optimizer bfgs", "--optimizer bfgs is for a SMILES on the command line"),
        ("vibrations O -o ir.png.gz", "cannot write ir.png.gz; pictures are compressed already"),
        ("vibrations O --spectrum ir.PNG.GZ", "pictures are compressed already"),
        ("interaction O.O -o curve.png.gz", "pictures are compressed already"),
        ("scan CCCC --dihedral 0 1 2 3 -o scan.csv scan.png.gz", "pictures are compressed already"),
        ("ensemble list.failed.csv -o list.sdf", "would overwrite the input"),
        ("ensemble list.smi -o list.JSON.gz", "list.JSON.gz can contain one molecule, but list.smi has 2"),
        ("predict two.xyz -o two.xyz", "would overwrite the input"),
        ("predict none.xyz -o out.xyz", "there is no file none.xyz"),
        ("energy list.smi", "list.smi is a list of SMILES"),
        ("train none.toml --folder run", "no recipe at none.toml"),
        ("evaluate physcon-2 none.h5", "there is no store none.h5"),
        ("calibrate physcon-2 none.h5 -o out", "there is no store none.h5"),
        ("calibrate physcon-2 -o out", "no STORE is given; give those used to train the checkpoint, or --continues"),
        ("data import none.xyz -o stores", "there is no file none.xyz"),
        ("data import two.xyz -o stores", "does not specify its level"),
        ("data describe two.xyz", "two.xyz is not a readable HDF5 file"),
        ("label foo -o out.h5 --jobs 0", "invalid SMILES 'foo'"),
        ("label O -o out.xyz", "cannot write out.xyz"),
        ("label O -o out.h5 --engine magic", "checkpoint 'magic' does not exist"),
        ("label O -o out.h5 --geometries magic:2", "'magic:2': write KIND:NUMBER with a kind of start, conformer"),
        ("models info magic", "checkpoint 'magic' does not exist"),
        ("models verify magic", "checkpoint 'magic' does not exist"),
        ("models download a/b --revision main", "revision 'main' of a/b is not a commit"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: str, message: str, two_structures: Path, capsys: pytest.CaptureFixture
) -> None:
    Path("list.smi").write_text("O\nC\n")
    Path("table.csv").write_text("smiles\nO\nC\n")
    Path("list.failed.csv").write_text("smiles\nO\nC\n")
    before = two_structures.read_bytes()
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("physcon: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert two_structures.read_bytes() == before


def test_an_interruption_is_exit_code_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def interrupted(*_, **__) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(one, "optimize", interrupted)
    assert main(["optimize", "O"]) == 130
    assert capsys.readouterr().err == "physcon: interrupted\n"


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "cp932"])
def test_a_console_without_angstrom_signs_gets_the_result_and_the_file(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    with pytest.raises(UnicodeEncodeError):
        "±å".encode(encoding)
    monkeypatch.setattr(sys, "stdout", console)
    assert main(["optimize", "O", "-o", "water.xyz", "--max-steps", "0"]) == 1
    console.flush()
    assert b"fmax" in console.buffer.getvalue()
    assert b"eV/?" in console.buffer.getvalue() or encoding == "cp932"
    assert Path("water.xyz").exists()
