from pathlib import Path

import ase.io
import pytest
from ase.build import molecule

from physcon_ase.errors import PhysConError, StoreError
from physcon_ase.inference.files import check_output, read_molecules, read_structures


@pytest.mark.parametrize(
    ("name", "message"),
    [("out.pdb", r"must end in \.xyz, .*\.sdf"), ("in.xyz", "would overwrite the input"), ("no/out.xyz", "no folder")],
)
def test_an_output_that_cannot_or_must_not_be_written_is_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "in.xyz").write_text("data")
    with pytest.raises(PhysConError, match=message):
        check_output(tmp_path / name, [tmp_path / "." / "in.xyz"])
    assert (tmp_path / "in.xyz").read_text() == "data"


def test_molecules_are_read_from_smiles_lists_and_xyz_files(tmp_path: Path) -> None:
    (tmp_path / "list.smi").write_text("# comment\nCCO ethanol\n\nO\n")
    assert read_molecules(tmp_path / "list.smi") == ["CCO", "O"]
    ase.io.write(tmp_path / "two.xyz", [molecule("H2O"), molecule("CH4")], format="extxyz")
    assert [len(atoms) for atoms in read_structures(tmp_path / "two.xyz")] == [3, 5]
    with pytest.raises(StoreError, match="is a list of SMILES"):
        read_structures(tmp_path / "list.smi")
    with pytest.raises(StoreError, match="there is no file"):
        read_molecules(tmp_path / "none.smi")
    (tmp_path / "broken.xyz").write_text("3\n\nO 0 0\n")
    with pytest.raises(StoreError, match="not a readable extended XYZ file"):
        read_molecules(tmp_path / "broken.xyz")
    (tmp_path / "strange.pdb").write_text("")
    with pytest.raises(StoreError, match="unknown file format"):
        read_molecules(tmp_path / "strange.pdb")


@pytest.mark.parametrize("name", ["empty.smi", "empty.xyz"])
def test_a_file_without_molecules_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("")
    with pytest.raises(StoreError, match="contains no molecules; give a file with at least one"):
        read_molecules(tmp_path / name)
