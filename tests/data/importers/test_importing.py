from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule

from physcon_ase.data.importers.importing import import_file
from physcon_ase.data.store import open_store
from physcon_ase.errors import LabelError, StoreError

HEADER = "smiles\theavy\tcharge\tallowed\tsets\n"


@pytest.fixture
def archive(make_archive: Callable[..., dict[str, np.ndarray]], tmp_path: Path) -> Path:
    path = tmp_path / "isomers.npz"
    np.savez(path, **make_archive(), energy_b3lyp=np.zeros(6))
    return path


def test_an_archive_becomes_a_store(archive: Path, tmp_path: Path):
    report = import_file(archive, tmp_path / "new" / "a.h5")
    store = open_store(tmp_path / "new" / "a.h5")
    assert (report.source, report.n_molecules) == ("c7h10o2_b3lyp", 6) == (store.source, len(store.molecules))


def test_an_extended_xyz_file_becomes_a_store(tmp_path: Path):
    atoms = molecule("CH4")
    atoms.info["dft"] = -3.0
    ase.io.write(tmp_path / "a.xyz", atoms, format="extxyz")
    import_file(tmp_path / "a.xyz", tmp_path / "a.h5", level="r2scan", energy_key="dft")
    assert open_store(tmp_path / "a.h5").labels["r2scan"].energy.tolist() == [-3.0]


def test_level_is_asked_for_where_the_file_does_not_know_it(tmp_path: Path, archive: Path):
    ase.io.write(tmp_path / "a.xyz", molecule("CH4"), format="extxyz")
    with pytest.raises(StoreError, match="does not specify its level of theory; give one"):
        import_file(tmp_path / "a.xyz", tmp_path / "a.h5")
    with pytest.raises(StoreError, match="defines its own levels of theory; omit level"):
        import_file(archive, tmp_path / "a.h5", level="b3lyp")


def test_input_is_never_overwritten(archive: Path):
    before = archive.read_bytes()
    with pytest.raises(StoreError, match="input and output are both"):
        import_file(archive, archive.parent / "." / archive.name)
    assert archive.read_bytes() == before


def test_wrong_labels_leave_no_store(make_archive: Callable[..., dict[str, np.ndarray]], tmp_path: Path):
    np.savez(tmp_path / "a.npz", **make_archive(), energy_b3lyp=np.full(6, np.inf))
    with pytest.raises(LabelError, match="row 0 has the b3lyp_c7h10o2 energy inf"):
        import_file(tmp_path / "a.npz", tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()


def test_files_that_cannot_become_a_store(tmp_path: Path):
    with pytest.raises(StoreError, match=r"there is no file .*missing\.npz"):
        import_file(tmp_path / "missing.npz", tmp_path / "a.h5")
    (tmp_path / "list.tsv").write_text(HEADER)
    with pytest.raises(StoreError, match="is a list of SMILES without structures"):
        import_file(tmp_path / "list.tsv", tmp_path / "a.h5")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(StoreError, match=r"unknown file format; allowed are \.npz, \.xyz, \.extxyz, \.db, \.json"):
        import_file(tmp_path / "notes.txt", tmp_path / "a.h5")
