from pathlib import Path

import ase.io
import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from physcon_ase.cli import main
from physcon_ase.data.store import molecule_graph, open_store

RECIPE = """
name = "tiny"

[[levels]]
name = "b3lyp-d3"
description = "whatever"

[[data]]
store = "labelled.h5"
levels = ["b3lyp-d3"]

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
    assert main(["data", "import", "labelled.xyz", "-o", "stores", "--level", "b3lyp-d3"]) == 0
    assert "written to stores/labelled.h5" in capsys.readouterr().out
    assert main(["data", "describe", "stores/labelled.h5"]) == 0
    assert "labelled: 2 molecules, 2 geometries" in capsys.readouterr().out
    Path("recipe.toml").write_text(RECIPE)
    train = ["train", "recipe.toml", "--folder", "run", "--stores", "stores", "--steps", "2", "--quiet"]
    assert main(train) == 0
    assert "checkpoint written to run/tiny" in capsys.readouterr().out
    assert main(["evaluate", "run/tiny", "stores/labelled.h5", "--split", "train"]) == 0
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[:4] == ["labelled", "b3lyp-d3", "structure", "2"]
    assert float(row[4]) > 0
    assert main(["evaluate", "physcon-2", "stores/labelled.h5", "--split", "test"]) == 0
    assert "labelled " not in capsys.readouterr().out  # both molecules are in the training split
    assert main(["evaluate", "physcon-2", "stores/labelled.h5", "--split", "all"]) == 0
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


def test_minima_of_a_level_need_a_store(capsys: pytest.CaptureFixture) -> None:
    assert main(["label", "O", "--minima-of", "dft", "-o", "out.h5", "--quiet"]) == 2
    assert "--minima-of dft needs a store among the molecules" in capsys.readouterr().err


def test_names_and_known_bonds_of_a_file_reach_the_labels(tmp_path: Path) -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles("C[S+](C)[O-]"))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    mol.SetProp("_Name", "DMSO")
    flat = Chem.MolFromSmiles("OC")
    AllChem.Compute2DCoords(flat)
    with Chem.SDWriter(str(tmp_path / "in.sdf")) as writer:
        for each in (mol, flat):
            writer.write(each)
    arguments = ["label", str(tmp_path / "in.sdf"), "--engine", "gfn2", "--geometries", "start", "--quiet"]
    assert main([*arguments, "-o", str(tmp_path / "out.h5")]) == 0
    store = open_store(tmp_path / "out.h5")
    assert store.molecules.name.tolist() == ["DMSO", "CO"]
    assert [molecule_graph(store, row).formal_charges.max() for row in range(2)] == [1, 0]


@pytest.mark.parametrize(("part", "taken"), [("2/3", ["CC", "CCCCC"]), ("2-3/3", ["CC", "CCC", "CCCCC"])])
def test_only_parts_of_the_molecules_are_labelled(part: str, taken: list[str], tmp_path: Path) -> None:
    output = str(tmp_path / "out.h5")
    options = ["--engine", "gfn2", "--geometries", "conformer:1", "--jobs", "0", "--quiet", "-o", output]
    assert main(["label", "C", "CC", "CCC", "CCCC", "CCCCC", "--part", part, *options]) == 0
    assert open_store(output).molecules.name.tolist() == taken


@pytest.mark.parametrize("part", ["0/3", "4/3", "3-2/3", "1-4/3", "2"])
def test_parts_that_do_not_exist_are_refused(part: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["label", "C", "--part", part, "-o", "out.h5"])
    assert f"'{part}' is not K/N or K-L/N" in capsys.readouterr().err


def test_names_of_a_list_reach_the_labels(tmp_path: Path) -> None:
    (tmp_path / "in.smi").write_text("CO methanol\nCC\n")
    arguments = ["label", str(tmp_path / "in.smi"), "--engine", "gfn2", "--geometries", "conformer:1", "--jobs", "0"]
    assert main([*arguments, "--quiet", "-o", str(tmp_path / "out.h5")]) == 0
    assert open_store(tmp_path / "out.h5").molecules.name.tolist() == ["methanol", "CC"]


def test_a_molecule_that_cannot_be_read_costs_no_other(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "in.smi").write_text("CO methanol\nC[C@H](O)F |&1:1| racemic\n")
    arguments = ["label", str(tmp_path / "in.smi"), "--engine", "gfn2", "--geometries", "conformer:1", "--jobs", "0"]
    assert main([*arguments, "--quiet", "-o", str(tmp_path / "out.h5")]) == 1
    assert open_store(tmp_path / "out.h5").molecules.name.tolist() == ["methanol"]
    assert "CXSMILES extension '|&1:1|'" in capsys.readouterr().out
