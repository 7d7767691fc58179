import os
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule

from physcon_ase.cli import main
from physcon_ase.data.store import open_store
from physcon_ase.inference import one

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _away_from_the_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def two_structures() -> Path:
    ase.io.write("two.xyz", [molecule("H2O"), molecule("CH3CH2OH")], format="extxyz")
    return Path("two.xyz")


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
        "reproduce",
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


def test_optimize_says_what_it_did_and_writes_what_was_asked_for(capsys: pytest.CaptureFixture) -> None:
    assert main(["optimize", "CCO", "-o", "ethanol.xyz", "--plot", "ethanol.png", "--seed", "2"]) == 0
    out = capsys.readouterr().out
    for part in ("CCO  (C2H6O, 9 atoms)", "model      physcon-1", "seed 2", "eV", "status     converged"):
        assert part in out
    assert "bonds      intact, stereo intact" in out
    assert "written    ethanol.xyz" in out
    assert len(ase.io.read("ethanol.xyz")) == 9
    assert Path("ethanol.png").stat().st_size > 1000


def test_optimize_takes_a_list_and_counts_what_failed(capsys: pytest.CaptureFixture) -> None:
    Path("list.smi").write_text("O water\nfoo\nC methane\n")
    assert main(["optimize", "list.smi", "-o", "list.sdf"]) == 1
    out, error = capsys.readouterr()
    assert "    1  failed         foo  InvalidSmilesError: invalid SMILES 'foo'" in out
    assert "2 structures written to list.sdf" in out
    assert "3 molecules: 2 ok, 1 failed;" in out
    assert "Traceback" not in error
    assert Path("list.sdf").read_text().count("$$$$") == 2


def test_optimize_takes_a_geometry(two_structures: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["optimize", str(two_structures), "-o", "relaxed.xyz", "--level", "b3lyp"]) == 0
    assert "2 molecules: 2 ok;" in capsys.readouterr().out
    assert [len(atoms) for atoms in ase.io.read("relaxed.xyz", index=":")] == [3, 9]


def test_a_single_molecule_that_does_not_converge_is_no_success(capsys: pytest.CaptureFixture) -> None:
    assert main(["optimize", "CCO", "--max-steps", "1"]) == 1
    assert "step limit reached" in capsys.readouterr().out


def test_predict_and_energy_agree(two_structures: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["predict", str(two_structures), "-o", "labelled.xyz"]) == 0
    assert "2 structures: 2 with energy and forces written to labelled.xyz, 0 failed" in capsys.readouterr().out
    assert main(["energy", str(two_structures)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, atoms in zip(lines, ase.io.read("labelled.xyz", index=":"), strict=True):
        assert f"{atoms.get_potential_energy():.6f} eV" in line
        assert atoms.get_forces().shape == (len(atoms), 3)
        assert "level gfn2 of physcon-1" in line


def test_predict_names_the_structure_that_it_refuses(two_structures: Path, capsys: pytest.CaptureFixture) -> None:
    frames = ase.io.read(two_structures, index=":")
    frames[0].pbc = True
    frames[0].cell = [9, 9, 9]
    ase.io.write("mixed.xyz", frames, format="extxyz")
    assert main(["predict", "mixed.xyz", "-o", "out.xyz"]) == 1
    out = capsys.readouterr().out
    assert "    0  failed  PeriodicCellError:" in out
    assert len(ase.io.read("out.xyz", index=":")) == 1


def test_energy_of_a_smiles_is_that_of_the_relaxed_molecule(capsys: pytest.CaptureFixture) -> None:
    assert main(["energy", "O", "--level", "b3lyp"]) == 0
    assert "level b3lyp" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("optimize foo", "invalid SMILES 'foo'"),
        ("optimize none.smi", "there is no file none.smi"),
        ("optimize O --level magic", "unknown level 'magic'"),
        ("optimize O --checkpoint magic", "checkpoint 'magic' does not exist"),
        ("optimize O --device magic", "device 'magic' cannot be used"),
        ("optimize O --fmax 0", "fmax must be a force larger than 0"),
        ("optimize O -o out.pdb", "cannot write out.pdb"),
        ("optimize two.xyz -o two.xyz", "would destroy the input"),
        ("optimize two.xyz --plot two.png", "--plot draws one molecule"),
        ("predict two.xyz -o two.xyz", "would destroy the input"),
        ("predict none.xyz -o out.xyz", "there is no file none.xyz"),
        ("energy list.smi", "list.smi is a list of SMILES"),
        ("train none.toml --folder run", "no recipe at none.toml"),
        (
            "reproduce consistency --folder run --rows nonsense",
            "unknown rows ['nonsense']; the study has ['multi-task'",
        ),
        ("reproduce levels --folder run --rows nonsense", "unknown rows ['nonsense']; the study has ['from scratch'"),
        ("reproduce levels --folder run --data qm9", "study levels has no --data qm9; choose one of selfmade, b3lyp"),
        ("reproduce consistency --folder run --modes nonsense", "unknown modes ['nonsense']; choose from ['denoise'"),
        ("reproduce consistency --folder run --samples -1", "--samples is -1; 1 or more is needed"),
        ("evaluate physcon-1 none.h5", "there is no store none.h5"),
        ("calibrate physcon-1 none.h5 -o out", "there is no store none.h5"),
        ("data import none.xyz -o stores", "there is no file none.xyz"),
        ("data import two.xyz -o stores", "does not say its level"),
        ("data describe two.xyz", "two.xyz is no readable HDF5 file"),
        ("label foo -o out.h5 --jobs 0", "invalid SMILES 'foo'"),
        ("label O -o out.xyz", "cannot write out.xyz"),
        ("label O -o out.h5 --engine magic", "checkpoint 'magic' does not exist"),
        ("label O -o out.h5 --geometries magic:2", "'magic:2': write KIND:NUMBER with a kind of start, conformer"),
        ("models info magic", "checkpoint 'magic' does not exist"),
        ("models verify magic", "checkpoint 'magic' does not exist"),
        ("models download a/b --revision main", "revision 'main' of a/b is no commit"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: str, message: str, two_structures: Path, capsys: pytest.CaptureFixture
) -> None:
    Path("list.smi").write_text("O\n")
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


def test_models_are_listed_described_and_verified(capsys: pytest.CaptureFixture) -> None:
    assert main(["models", "list"]) == 0
    assert "physcon-1  levels gfn2, b3lyp, m062x, mp2  energies and structures" in capsys.readouterr().out
    assert main(["models", "info", "physcon-1"]) == 0
    listed = capsys.readouterr().out
    assert "gfn2: GFN2-xTB; H C N O F Si P S Cl Br I; charge -1, 0, +1" in listed
    assert "b3lyp: B3LYP/6-31G(2df,p), a correction to gfn2 with its own encoder; H C N O; charge 0" in listed
    assert "m062x: M06-2X/def2-TZVP, a correction to gfn2 with its own last layer; H C N O F P S Cl; charge 0" in listed
    assert main(["models", "verify", "physcon-1"]) == 0
    assert "physcon-1 is intact, revision" in capsys.readouterr().out


RECIPE = """
name = "tiny"

[[levels]]
name = "gfn2"
description = "whatever"

[[data]]
store = "labelled.h5"
levels = ["gfn2"]

[encoder]
channels = 8
mixed_channels = 8
source_scalars = 4
hidden = 8

[optim]
steps = 100
atoms_per_batch = 64
"""


def test_import_describe_train_and_evaluate_work_on_each_others_files(
    two_structures: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["predict", str(two_structures), "-o", "labelled.xyz"]) == 0
    assert main(["data", "import", "labelled.xyz", "-o", "stores", "--level", "gfn2"]) == 0
    assert "written to stores/labelled.h5" in capsys.readouterr().out
    assert main(["data", "describe", "stores/labelled.h5"]) == 0
    assert "labelled: 2 molecules, 2 geometries" in capsys.readouterr().out
    Path("recipe.toml").write_text(RECIPE)
    train = ["train", "recipe.toml", "--folder", "run", "--stores", "stores", "--steps", "2", "--quiet"]
    assert main(train) == 0
    assert "checkpoint written to run/tiny" in capsys.readouterr().out
    assert main(["evaluate", "run/tiny", "stores/labelled.h5", "--split", "train"]) == 0
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[:4] == ["labelled", "gfn2", "structure", "2"]
    assert float(row[4]) > 0
    assert main(["evaluate", "physcon-1", "stores/labelled.h5", "--split", "test"]) == 0
    assert "labelled " not in capsys.readouterr().out  # both molecules are in the training split
    assert main(["evaluate", "physcon-1", "stores/labelled.h5", "--split", "all"]) == 0
    exact = capsys.readouterr().out.splitlines()[-1].split()
    assert (exact[4], exact[6]) == ("0.0", "0.0")  # the labels are this model's own


def test_labels_under_names_of_their_own_are_imported(two_structures: Path, capsys: pytest.CaptureFixture) -> None:
    frames = ase.io.read(two_structures, index=":")
    for number, atoms in enumerate(frames):
        atoms.calc = None
        atoms.info["REF_energy"] = -10.0 - number
        atoms.arrays["REF_forces"] = np.ones((len(atoms), 3))
    ase.io.write("named.xyz", frames)
    keys = ["--energy-key", "REF_energy", "--forces-key", "REF_forces"]
    assert main(["data", "import", "named.xyz", "-o", "stores", "--level", "dft", *keys]) == 0
    labels = open_store("stores/named.h5").labels["dft"]
    assert labels.energy.tolist() == [-10.0, -11.0]
    assert labels.forces is not None
    assert (labels.forces == 1).all()


def test_files_that_would_become_one_store_are_refused(capsys: pytest.CaptureFixture) -> None:
    assert main(["data", "import", "a.xyz", "a.db", "-o", "stores", "--level", "dft"]) == 2
    assert "several files would be written to a.h5" in capsys.readouterr().err
