import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from physcon_ase.chem.graph import MolGraph, make_graph
from physcon_ase.data.store import (
    FORMAT_VERSION,
    LevelLabels,
    Store,
    check_store,
    geometry_offsets,
    molecule_graph,
    n_with_forces,
    open_store,
    pack_molecules,
    select_geometries,
    write_store,
)
from physcon_ase.errors import LabelError, StoreError

MakeStore = Callable[..., Store]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "small.h5"


def assert_equal_records(a: object, b: object) -> None:
    for field in fields(a):
        first, second = getattr(a, field.name), getattr(b, field.name)
        if first is None:
            assert second is None
            continue
        assert first.dtype.kind == second.dtype.kind
        np.testing.assert_array_equal(first, second, err_msg=field.name)


def with_labels(store: Store, level: str, **changes: np.ndarray) -> Store:
    return replace(store, labels={**store.labels, level: replace(store.labels[level], **changes)})


def test_what_is_written_is_read(make_store: MakeStore, path: Path):
    store = make_store()
    write_store(path, store)
    read = open_store(path)
    assert_equal_records(read.molecules, store.molecules)
    assert_equal_records(read.geometries, store.geometries)
    assert list(read.labels) == ["cheap", "dft"]
    for level in store.labels:
        assert_equal_records(read.labels[level], store.labels[level])
    for name in ("source", "licence", "doi", "provenance"):
        assert getattr(read, name) == getattr(store, name)


def test_labels_keep_their_precision(make_store: MakeStore, path: Path):
    store = make_store()
    energy = store.labels["cheap"].energy - 14_000.123456789
    write_store(path, with_labels(store, "cheap", energy=energy))
    assert open_store(path).labels["cheap"].energy.dtype == np.float64
    assert (open_store(path).labels["cheap"].energy == energy).all()


def test_a_level_is_read_without_the_others(make_store: MakeStore, path: Path):
    write_store(path, make_store())
    assert list(open_store(path, levels=("dft", "mp2")).labels) == ["dft"]


def test_names_may_be_any_text(make_store: MakeStore, path: Path):
    store = make_store()
    names = np.array([f"Å-{row}" for row in range(len(store.molecules))])
    write_store(path, replace(store, molecules=replace(store.molecules, name=names)))
    assert open_store(path).molecules.name.tolist() == names.tolist()


def test_graphs_survive_packing(graphs: list[MolGraph], path: Path, make_store: MakeStore):
    butene = make_graph(
        np.array([6, 6, 6, 6]),
        np.array([[0, 1], [1, 2], [2, 3]]),
        np.array([1, 2, 1]),
        np.array([0, 0, 0, -1]),
        double_bonds=np.array([[0, 1, 2, 3]]),
        double_bond_is_cis=np.array([True]),
        multiplicity=3,
    )
    chosen = [butene, *graphs, butene]
    texts = ["x"] * len(chosen)
    packed = pack_molecules(chosen, smiles=texts, names=texts, key_hashes=[1] * len(chosen))
    store = replace(make_store(), molecules=packed)
    for row, graph in enumerate(chosen):
        unpacked = molecule_graph(store, row)
        for field in fields(MolGraph):
            np.testing.assert_array_equal(getattr(unpacked, field.name), getattr(graph, field.name))


def test_geometries_with_forces_are_counted(make_store: MakeStore):
    store = make_store()
    assert n_with_forces(store, "cheap") == len(store.geometries) - 1
    assert n_with_forces(store, "dft") == 0


def test_failed_write_leaves_the_old_store(make_store: MakeStore, path: Path, monkeypatch: pytest.MonkeyPatch):
    write_store(path, make_store())

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StoreError, match="no space left"):
        write_store(path, make_store(copies=2))
    assert len(open_store(path).molecules) == len(make_store().molecules)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_missing_file_is_named(path: Path):
    with pytest.raises(StoreError, match=r"there is no store .*small\.h5"):
        open_store(path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_truncated_file_is_refused(make_store: MakeStore, path: Path, part: float):
    write_store(path, make_store(copies=5))
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(StoreError, match="not a readable HDF5 file"):
        open_store(path)


def test_other_files_are_refused(path: Path):
    path.write_text("<html>not found</html>")
    with pytest.raises(StoreError, match="not a readable HDF5 file"):
        open_store(path)
    with h5py.File(path, "w") as file:
        file["x"] = 1
    with pytest.raises(StoreError, match="not a physcon_ase store"):
        open_store(path)


def test_newer_format_is_refused(make_store: MakeStore, path: Path):
    write_store(path, make_store())
    with h5py.File(path, "a") as file:
        file.attrs["format_version"] = FORMAT_VERSION + 1
    with pytest.raises(StoreError, match=rf"store format {FORMAT_VERSION + 1} is newer .* update physcon_ase"):
        open_store(path)


@pytest.mark.parametrize("name", ["molecules/bonds", "geometries/kind", "labels/cheap/energy"])
def test_missing_field_is_named(make_store: MakeStore, path: Path, name: str):
    write_store(path, make_store())
    with h5py.File(path, "a") as file:
        del file[name]
    with pytest.raises(StoreError, match=f"lacks the field '{name}'"):
        open_store(path)


def test_missing_attribute_is_named(make_store: MakeStore, path: Path):
    write_store(path, make_store())
    with h5py.File(path, "a") as file:
        del file.attrs["levels"]
    with pytest.raises(StoreError, match=r"lacks the field .*levels"):
        open_store(path)


def test_bond_to_an_atom_of_another_molecule_is_refused(make_store: MakeStore):
    store = make_store()
    bonds = store.molecules.bonds.copy()
    bonds[1, 1] = 3
    with pytest.raises(StoreError, match=r"bonds\[1\] = \[0, 3\] is out of range for 3 atoms"):
        check_store(replace(store, molecules=replace(store.molecules, bonds=bonds)))


def test_arrays_that_do_not_fit_are_refused(make_store: MakeStore):
    store = make_store()
    longer = replace(store.molecules, n_atoms=store.molecules.n_atoms + 1)
    with pytest.raises(StoreError, match=r"atomic_numbers has shape \(36,\), expected \(42,\) from the counts"):
        check_store(replace(store, molecules=longer))
    beyond = replace(store.geometries, molecule=store.geometries.molecule + 1)
    with pytest.raises(StoreError, match="geometries/molecule contains index 6, but there are 6 molecules"):
        check_store(replace(store, geometries=beyond))


def test_positions_that_are_not_finite_name_their_geometry(make_store: MakeStore):
    store = make_store()
    positions = store.geometries.positions.copy()
    positions[3, 2] = np.inf  # the first atom of the second geometry: water before it has three
    with pytest.raises(StoreError, match="positions of geometry 1 are not finite"):
        check_store(replace(store, geometries=replace(store.geometries, positions=positions)))


def test_infinite_energy_names_its_geometry(make_store: MakeStore):
    store = make_store()
    energy = store.labels["cheap"].energy.copy()
    energy[4] = -np.inf
    with pytest.raises(LabelError, match="cheap: the energy of geometry 4 is infinite"):
        check_store(with_labels(store, "cheap", energy=energy))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_forces_missing_on_one_atom_name_their_geometry(make_store: MakeStore, wrong: float):
    store = make_store()
    forces = store.labels["cheap"].forces.copy()
    forces[4] = wrong
    with pytest.raises(LabelError, match="cheap: the forces of geometry 1 are not finite on every atom"):
        check_store(with_labels(store, "cheap", forces=forces))


def test_infinite_charge_names_its_geometry(make_store: MakeStore):
    store = make_store()
    charges = np.full(len(store.geometries.positions), np.nan, dtype=np.float32)
    charges[geometry_offsets(store)[4]] = -np.inf
    with pytest.raises(LabelError, match="cheap: a charge of geometry 4 is infinite"):
        check_store(with_labels(store, "cheap", charges=charges))


def test_forces_on_all_atoms_must_not_be_infinite(make_store: MakeStore):
    store = make_store()
    forces = store.labels["cheap"].forces.copy()
    forces[:3] = np.inf
    with pytest.raises(LabelError, match="cheap: the forces of geometry 0 are not finite"):
        check_store(with_labels(store, "cheap", forces=forces))


def test_labels_of_the_wrong_shape_are_refused(make_store: MakeStore):
    store = make_store()
    with pytest.raises(LabelError, match=r"cheap: forces have shape .* give three components for each atom"):
        check_store(with_labels(store, "cheap", forces=store.labels["cheap"].forces[:-1]))
    with pytest.raises(LabelError, match="dft: energies have shape"):
        check_store(with_labels(store, "dft", energy=store.labels["dft"].energy[:-1]))


def test_level_name_must_not_break_the_layout(make_store: MakeStore, path: Path):
    store = make_store()
    wrong = replace(store, labels={"b3lyp/6-31G": LevelLabels(store.labels["dft"].energy)})
    with pytest.raises(StoreError, match="level name 'b3lyp/6-31G'"):
        write_store(path, wrong)
    assert not path.exists()


def test_chosen_geometries_keep_their_molecules_and_labels(make_store: MakeStore):
    store = make_store()
    chosen = np.array([11, 1, 5])  # hot halomethane, methane and halomethane at rest
    part = select_geometries(store, chosen)
    check_store(part)
    assert part.molecules.smiles.tolist() == store.molecules.smiles[[1, 5]].tolist()
    assert part.geometries.molecule.tolist() == [1, 0, 1]
    assert part.geometries.kind.tolist() == ["thermal", "minimum", "minimum"]
    assert part.molecules.key_hash.tolist() == store.molecules.key_hash[[1, 5]].tolist()
    assert molecule_graph(part, 1).tetrahedra.tolist() == molecule_graph(store, 5).tetrahedra.tolist() != []
    before, after = geometry_offsets(store), geometry_offsets(part)
    for row, old in enumerate(chosen):
        new, former = slice(*after[row : row + 2]), slice(*before[old : old + 2])
        np.testing.assert_array_equal(part.geometries.positions[new], store.geometries.positions[former])
        for level, labels in store.labels.items():
            np.testing.assert_array_equal(part.labels[level].energy[row], labels.energy[old])
            if labels.forces is not None:
                np.testing.assert_array_equal(part.labels[level].forces[new], labels.forces[former])
    assert part.labels["dft"].forces is None


def test_chosen_geometries_keep_their_starts_charges_and_spreads(make_store: MakeStore, path: Path):
    store = make_store()
    n_geometries, n_atoms = len(store.geometries), len(store.geometries.positions)
    start = np.full(n_geometries, -1)
    start[[3, 4, 5]] = 0, 0, 2
    store = replace(store, geometries=replace(store.geometries, start=start))
    charges, spread = np.arange(n_atoms, dtype=np.float32), np.arange(n_geometries, dtype=np.float32)
    store = with_labels(store, "cheap", charges=charges, force_spread=spread)
    write_store(path, store)
    store = open_store(path)
    part = select_geometries(store, np.array([4, 5, 0]))
    check_store(part)
    assert part.geometries.start is not None
    assert part.geometries.start.tolist() == [2, -1, -1], "the start of the second was not chosen"
    offsets = geometry_offsets(store)
    expected = np.concatenate([charges[offsets[row] : offsets[row + 1]] for row in (4, 5, 0)])
    np.testing.assert_array_equal(part.labels["cheap"].charges, expected)
    assert part.labels["cheap"].force_spread.tolist() == [4, 5, 0]
    start[3] = n_geometries
    with pytest.raises(StoreError, match=f"start contains index {n_geometries}, but there are {n_geometries}"):
        check_store(replace(store, geometries=replace(store.geometries, start=start)))


def test_a_store_that_another_process_writes_is_not_called_damaged(make_store: MakeStore, path: Path):
    write_store(path, make_store())
    script = f"import h5py, sys; file = h5py.File({str(path)!r}, 'a'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "open\n"
        with pytest.raises(StoreError, match="is open for writing in another process; try again when that process"):
            open_store(path)
        process.stdin.close()
    assert len(open_store(path).geometries) == len(make_store().geometries)


def test_no_geometry_can_be_chosen(make_store: MakeStore):
    part = select_geometries(make_store(), np.arange(0))
    check_store(part)
    assert len(part.molecules) == len(part.geometries) == 0
