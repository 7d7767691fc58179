import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from physcon_ase.data.importers.npz_contents import archived_geometries, open_archive, present_molecules
from physcon_ase.data.store import offsets_of
from physcon_ase.errors import LabelError, StoreError

Archive = dict[str, np.ndarray]
MakeArchive = Callable[..., Archive]

N = 6
"""Molecules of the archives: see `examples`."""


def present_in(path: Path) -> list[np.ndarray]:
    archive, layout = open_archive(path)
    atoms_of = offsets_of(archive["n_atoms"])
    return [
        present_molecules(path, geometry, atoms_of, archive["atomic_numbers"])
        for geometry in archived_geometries(archive, layout)
    ]


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_truncated_archive_is_refused(make_archive: MakeArchive, save: Callable[[Archive], Path], part: float):
    path = save({**make_archive(), "energy_b3lyp": np.zeros(N)})
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(StoreError, match="not a readable NumPy archive"):
        open_archive(path)


def test_changed_bytes_are_noticed(make_archive: MakeArchive, save: Callable[[Archive], Path]):
    path = save({**make_archive(), "energy_b3lyp": np.zeros(N)})
    content = bytearray(path.read_bytes())
    begin = content.index(make_archive()["positions"].tobytes())
    content[begin] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(StoreError, match="not a readable NumPy archive"):
        open_archive(path)


def test_pickles_never_run(tmp_path: Path):
    class Bomb:
        def __reduce__(self) -> tuple:
            return (pytest.fail, ("a pickle was executed",))

    path = tmp_path / "bomb.npz"
    np.savez(path, n_atoms=np.array([Bomb()], dtype=object))
    with pytest.raises(StoreError, match="not a readable NumPy archive"):
        open_archive(path)
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    path.write_bytes(buffer.getvalue())
    with pytest.raises(StoreError, match="not a readable NumPy archive"):
        open_archive(path)


@pytest.mark.parametrize("name", ["atomic_numbers", "bonds", "bond_orders", "positions", "smiles", "energy_b3lyp"])
def test_rows_that_do_not_fit_are_refused(make_archive: MakeArchive, save: Callable[[Archive], Path], name: str):
    archive = {**make_archive(), "energy_b3lyp": np.zeros(N)}
    archive[name] = archive[name][:-1]
    with pytest.raises(StoreError, match=f"{name} has shape .* the archive is inconsistent"):
        open_archive(save(archive))


def test_counts_must_be_counts(make_archive: MakeArchive, save: Callable[[Archive], Path]):
    archive = {**make_archive(), "energy_b3lyp": np.zeros(N)}
    archive["n_atoms"][1] = 0
    with pytest.raises(StoreError, match="n_atoms is not an array of counts"):
        open_archive(save(archive))
    archive["n_atoms"] = archive["n_atoms"].astype(float)
    with pytest.raises(StoreError, match=r"n_atoms is not an array of counts \(float64"):
        open_archive(save(archive))


def test_bond_beyond_the_molecule_names_its_row(make_archive: MakeArchive, save: Callable[[Archive], Path]):
    archive = {**make_archive(), "energy_b3lyp": np.zeros(N)}
    archive["bonds"][2] = [0, 5]  # the first bond of methane, which has five atoms
    with pytest.raises(StoreError, match="row 1 has 5 atoms, but a bond to an atom index out of range"):
        open_archive(save(archive))


def test_bond_to_a_negative_index_names_its_row(make_archive: MakeArchive, save: Callable[[Archive], Path]):
    archive = {**make_archive(), "energy_b3lyp": np.zeros(N)}
    archive["bonds"] = archive["bonds"].astype(np.int32)
    archive["bonds"][2] = [0, -1]
    with pytest.raises(StoreError, match="row 1 has 5 atoms, but a bond to an atom index out of range"):
        open_archive(save(archive))


def test_overlapping_atoms_name_their_row(make_archive: MakeArchive, save: Callable[[Archive], Path]):
    archive = make_archive() | {"energy_b3lyp": np.zeros(N)}
    archive["positions"][4] = archive["positions"][3] + np.float32([0, 0.1, 0])
    with pytest.raises(StoreError, match=r"row 1: atoms 0 \(C\) and 1 \(H\) are 0\.100 Å apart"):
        present_in(save(archive))


def test_missing_structures_are_not_taken_for_absent_ones(make_archive: MakeArchive, save: Callable[[Archive], Path]):
    archive = {**make_archive(), "energy_b3lyp": np.zeros(N)}
    archive["positions"][3:8] = np.nan
    with pytest.raises(StoreError, match="row 1 has positions that are not finite"):
        present_in(save(archive))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_wrong_gfn2_labels_name_their_row(quartet: Archive, save: Callable[[Archive], Path], wrong: float):
    forces = quartet["forces"].copy()
    forces[2, 3] = wrong
    with pytest.raises(LabelError, match="row 1 has gfn2 forces that are not finite"):
        present_in(save({**quartet, "forces": forces}))
    energy = quartet["energy"].copy()
    energy[4, 3] = wrong
    with pytest.raises(LabelError, match=f"row 4 has the gfn2 energy {wrong}"):
        present_in(save({**quartet, "energy": energy}))


def test_infinite_energy_names_its_row(make_archive: MakeArchive, save: Callable[[Archive], Path]):
    energy = np.zeros(N)
    energy[3] = np.inf
    with pytest.raises(LabelError, match="row 3 has the b3lyp_c7h10o2 energy inf"):
        present_in(save({**make_archive(), "energy_b3lyp": energy}))
