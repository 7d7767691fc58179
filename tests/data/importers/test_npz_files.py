import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from physcon_ase.chem.smiles import canonical_key
from physcon_ase.data.importers.npz_files import read_archive
from physcon_ase.data.importers.report import format_import_report
from physcon_ase.data.split import key_hash
from physcon_ase.data.store import LevelLabels, Store, check_store, geometry_offsets, molecule_graph, select_geometries
from physcon_ase.errors import StoreError

Archive = dict[str, np.ndarray]
MakeArchive = Callable[..., Archive]

RECIPE = Path(__file__).resolve().parents[3] / "recipes" / "b3lyp-thermal" / "pack.py"

N = 6
"""Molecules of the archives: see `examples`."""


def geometries_of(store: Store, geometry: int) -> np.ndarray:
    begin, end = geometry_offsets(store)[geometry : geometry + 2]
    return store.geometries.positions[begin:end]


def test_qm9_has_three_levels_of_energies_and_b3lyp_minima(make_archive: MakeArchive, save: Callable[[Archive], Path]):
    energies = {level: np.arange(N) - 1000.0 for level in ("energy_b3lyp", "energy_mp2", "energy_hf")}
    energies["energy_mp2"][2] = np.nan
    store, report = read_archive(save({**make_archive(), **energies, "gdb": np.arange(N) + 7}))
    check_store(store)
    assert store.source == "qm9_b3lyp"
    assert sorted(store.labels) == ["b3lyp", "hf", "mp2"]
    assert np.isfinite(store.labels["mp2"].energy).tolist() == [True, True, False, True, True, True]
    assert (store.labels["hf"].energy == energies["energy_hf"]).all()
    assert store.labels["b3lyp"].forces is None  # zero force at a minimum is derived, never stored
    assert set(store.geometries.minimum_of) == {"b3lyp"}
    assert set(store.geometries.kind) == {"minimum"}
    assert store.molecules.name.tolist() == [str(7 + row) for row in range(N)]
    assert report.n_rows == report.n_molecules == report.n_geometries == N
    assert "mp2: 5 energies (1 absent), no forces" in report.notes


def test_molecules_and_positions_are_kept(make_archive: MakeArchive, save: Callable[[Archive], Path]):
    archive = {**make_archive(), "energy_b3lyp": np.zeros(N)}
    store, _ = read_archive(save(archive))
    assert store.source == "c7h10o2_b3lyp"
    for name in ("atomic_numbers", "positions", "formal_charges", "n_atoms", "n_bonds", "smiles", "bond_orders"):
        kept = store.geometries.positions if name == "positions" else getattr(store.molecules, name)
        np.testing.assert_array_equal(kept, archive[name])
    np.testing.assert_array_equal(store.molecules.bonds, np.sort(archive["bonds"], axis=1))


def test_stereo_comes_from_the_structure_and_not_into_the_split(
    make_archive: MakeArchive, save: Callable[[Archive], Path]
):
    archive = {**make_archive(), "energy_b3lyp": np.zeros(N)}
    mirrored = {**archive, "positions": archive["positions"] * np.float32([1, 1, -1])}
    stores = [read_archive(save(chosen))[0] for chosen in (archive, mirrored)]
    for store in stores:
        corners = molecule_graph(store, N - 1).tetrahedra
        assert len(corners) == 1
        a, b, c, d = geometries_of(store, N - 1)[corners[0]]
        assert np.dot(a - d, np.cross(b - d, c - d)) > 0
    assert molecule_graph(stores[0], N - 1).tetrahedra.tolist() != molecule_graph(stores[1], N - 1).tetrahedra.tolist()
    assert (stores[0].molecules.key_hash == stores[1].molecules.key_hash).all()
    assert len(np.unique(stores[0].molecules.key_hash)) == N


@pytest.mark.parametrize(
    ("identifier", "source", "level"), [("gdb", "gfn2_qm9", "b3lyp"), ("id", "gfn2_dft8k", "m062x")]
)
def test_gfn2_archives_have_four_labelled_geometries(
    quartet: Archive, save: Callable[[Archive], Path], identifier: str, source: str, level: str
):
    quartet[identifier] = quartet.pop("gdb").astype(str) if identifier == "id" else quartet.pop("gdb")
    store, report = read_archive(save(quartet))
    check_store(store)
    assert store.source == source
    assert len(store.geometries) == 4 * N
    assert store.geometries.molecule.tolist() == list(range(N)) * 4
    assert store.geometries.kind.tolist() == ["minimum"] * 2 * N + ["thermal"] * N + ["conformer"] * N
    assert store.geometries.minimum_of.tolist() == [level] * N + ["gfn2"] * N + [""] * 2 * N
    np.testing.assert_array_equal(store.labels["gfn2"].energy, quartet["energy"].T.reshape(-1))
    np.testing.assert_array_equal(store.labels["gfn2"].forces, quartet["forces"].reshape(-1, 3).astype(np.float32))
    # the labels were computed at these positions, so they must be exact
    np.testing.assert_array_equal(store.geometries.positions * 2048.0, quartet["positions_q"].reshape(-1, 3))
    assert f"gfn2: {4 * N} energies (0 absent), {4 * N} geometries with forces" in report.notes


def test_minimum_that_did_not_converge_is_none(quartet: Archive, save: Callable[[Archive], Path]):
    quartet["converged"][2] = False
    store, report = read_archive(save(quartet))
    assert store.geometries.kind[N + 2] == "unconverged"
    assert store.geometries.minimum_of[N + 2] == ""
    assert np.isfinite(store.labels["gfn2"].energy[N + 2])
    assert "minima: 6 of b3lyp, 5 of gfn2" in report.notes


def test_minimum_with_other_bonds_is_none(quartet: Archive, save: Callable[[Archive], Path]):
    quartet["positions_q"][1, 0] += 4 * 2048  # the oxygen of water, 4 Å away
    quartet["positions_q"][1, -5:, 2] *= -1  # the mirror image of the halomethane
    store, report = read_archive(save(quartet))
    assert store.geometries.kind[N] == store.geometries.kind[2 * N - 1] == "rearranged"
    assert store.geometries.minimum_of[N : 2 * N].tolist() == ["", *["gfn2"] * 4, ""]
    assert any("2 rearranged" in note for note in report.notes)


def test_missing_mmff94_minima_are_counted(make_archive: MakeArchive, save: Callable[[Archive], Path]):
    archive = make_archive()
    cheap = archive["positions"] + np.float32(0.01)
    cheap[3:8] = np.nan  # the second molecule
    archive |= {"positions_mmff94": cheap, "id": np.array([f"id{row}" for row in range(N)])}
    store, report = read_archive(save(archive))
    assert store.source == "dft8k_m062x"
    assert store.geometries.minimum_of.tolist() == ["m062x"] * N + ["mmff94"] * (N - 1)
    assert store.geometries.molecule.tolist() == [*range(N), 0, *range(2, N)]
    np.testing.assert_array_equal(geometries_of(store, N + 1), cheap[8 : 8 + store.molecules.n_atoms[2]])
    assert report.left_out == {"mmff94 minima that the archive marks as missing": 1}
    assert "left out: 1 mmff94 minima" in format_import_report(report)
    assert store.labels == {}


def test_atomisation_energies_are_a_level_of_their_own(make_archive: MakeArchive, save: Callable[[Archive], Path]):
    store, _ = read_archive(save({**make_archive(), "atomization_energy_pbe0": -np.arange(N) - 1.0}))
    assert store.source == "qm7_pbe0"
    assert list(store.labels) == ["pbe0_atomization"]
    assert set(store.geometries.minimum_of) == {"pbe0"}


@pytest.fixture
def conformers(make_archive: MakeArchive) -> Archive:
    """Every molecule twice: as it is, and displaced; rows 0 and 1 are methane with its atoms in two orders."""
    archive, generator = make_archive(), np.random.default_rng(0)
    ends = np.cumsum(archive["n_atoms"])
    shared = {name: np.concatenate([values, values]) for name, values in archive.items()}
    displaced = archive["positions"] + generator.normal(scale=0.01, size=(ends[-1], 3)).astype(np.float32)
    shared["positions"] = np.concatenate([archive["positions"], displaced])
    rows = np.arange(2 * N)
    meta = np.array('{"level": "B3LYP-D3BJ/DZVP"}')
    return {**shared, "energy": rows - 1e4, "charge": np.zeros(2 * N, dtype=np.int8), "record": rows + 70, "meta": meta}


def test_conformers_of_equal_graphs_are_one_molecule(conformers: Archive, save: Callable[[Archive], Path]):
    store, report = read_archive(save(conformers))
    check_store(store)
    assert (report.n_rows, report.n_molecules, report.n_geometries) == (2 * N, N, 2 * N)
    assert store.source == "openff_minima_dzvp"
    assert store.geometries.molecule.tolist() == [*range(N), *range(N)]
    assert store.molecules.name.tolist() == [str(70 + row) for row in range(N)]
    assert set(store.geometries.minimum_of.tolist()) == {"b3lyp-d3"}
    assert (store.labels["b3lyp-d3"].energy == conformers["energy"]).all()
    np.testing.assert_array_equal(store.geometries.positions, conformers["positions"])


def test_conformers_with_another_atom_order_or_configuration_are_molecules_of_their_own(
    conformers: Archive, save: Callable[[Archive], Path]
):
    starts = np.concatenate([[0], np.cumsum(conformers["n_atoms"])])
    mirrored = slice(starts[2 * N - 1], starts[2 * N])
    assert conformers["smiles"][-1] == conformers["smiles"][N - 1]
    first_bond = np.concatenate([[0], np.cumsum(conformers["n_bonds"])])[N]
    original, _ = read_archive(save(conformers))
    conformers["bonds"][first_bond] = conformers["bonds"][first_bond][::-1]  # the same bond
    same, _ = read_archive(save(conformers))
    assert len(same.molecules) == len(original.molecules) == N
    conformers["positions"][mirrored, 2] *= -1
    other, _ = read_archive(save(conformers))
    is_chiral = len(molecule_graph(original, N - 1).tetrahedra) > 0
    assert len(other.molecules) == N + is_chiral
    assert is_chiral
    assert other.molecules.key_hash[-1] == other.molecules.key_hash[N - 1], "the split does not know stereo"


def test_torsion_drives_have_energies_and_forces(conformers: Archive, save: Callable[[Archive], Path]):
    forces = np.random.default_rng(1).normal(size=conformers["positions"].shape).astype(np.float32)
    del conformers["record"]
    drive = {"drive": np.arange(2 * N) % N, "angle": np.zeros(2 * N), "dihedral": np.zeros((2 * N, 4), dtype=np.int16)}
    store, _ = read_archive(save({**conformers, **drive, "forces": forces}))
    assert store.source == "openff_torsions_dzvp"
    assert set(store.geometries.kind.tolist()) == {"torsion-drive"}
    assert set(store.geometries.minimum_of.tolist()) == {""}
    np.testing.assert_array_equal(store.labels["b3lyp-d3"].forces, forces)


def test_a_charge_that_the_atoms_do_not_have_names_its_row(conformers: Archive, save: Callable[[Archive], Path]):
    conformers["charge"][3] = 1
    with pytest.raises(StoreError, match=r"row 3 .*formal charges sum to \+0, expected a total charge of \+1"):
        read_archive(save(conformers))


def test_what_the_recipe_packs_comes_back(make_store: Callable[..., Store], save: Callable[[Archive], Path]):
    spec = importlib.util.spec_from_file_location("pack", RECIPE)
    assert spec is not None
    assert spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    made = make_store()
    hot = select_geometries(made, np.flatnonzero(made.geometries.kind == "thermal"))
    forces = np.random.default_rng(1).normal(size=hot.geometries.positions.shape).astype(np.float32)
    hot = replace(hot, labels={"b3lyp": LevelLabels(np.arange(N) - 1000.0, forces)})
    parts = [select_geometries(hot, np.arange(4)), select_geometries(hot, np.arange(4, N))]
    store, report = read_archive(save(recipe.pack(parts, ["0-00", "1-00"])))
    check_store(store)
    assert store.source == "b3lyp_thermal"
    assert store.licence == "CC0"
    assert set(store.geometries.kind) == {"thermal"}
    assert set(store.geometries.minimum_of) == {""}
    assert "minima: none" in report.notes
    assert store.molecules.name.tolist() == ["0-00-0", "0-00-1", "0-00-2", "0-00-3", "1-00-0", "1-00-1"]
    np.testing.assert_array_equal(store.geometries.positions, hot.geometries.positions)
    np.testing.assert_array_equal(store.labels["b3lyp"].energy, hot.labels["b3lyp"].energy)
    np.testing.assert_array_equal(store.labels["b3lyp"].forces, forces)
    for name in ("atomic_numbers", "formal_charges", "bonds", "bond_orders", "smiles"):
        np.testing.assert_array_equal(getattr(store.molecules, name), getattr(hot.molecules, name))
    keys = [key_hash(canonical_key(smiles)) for smiles in hot.molecules.smiles.tolist()]
    assert store.molecules.key_hash.tolist() == keys


def test_every_store_says_where_it_comes_from(make_archive: MakeArchive, save: Callable[[Archive], Path]):
    store, _ = read_archive(save({**make_archive(), "energy_b3lyp": np.zeros(N)}))
    assert store.licence == "CC0"
    assert store.doi == "10.1038/sdata.2014.22"
    assert "B3LYP/6-31G(2df,p)" in store.provenance


def test_a_smiles_of_other_atoms_names_its_row(make_archive: MakeArchive, save: Callable[[Archive], Path]):
    archive = {**make_archive(), "energy_b3lyp": np.zeros(N)}
    archive["smiles"] = np.where(np.arange(N) == 1, "CC", archive["smiles"])
    with pytest.raises(StoreError, match=r"row 1 \(CC\) .*the atoms are H4C1, but those of the SMILES 'CC' are H6C2"):
        read_archive(save(archive))


def test_impossible_bonds_name_their_row(make_archive: MakeArchive, save: Callable[[Archive], Path]):
    archive = {**make_archive(), "energy_b3lyp": np.zeros(N)}
    archive["bond_orders"][2] = 3
    with pytest.raises(StoreError, match=r"row 1 \(C\) has no valid molecular graph"):
        read_archive(save(archive))


def test_wrong_positions_name_their_row(make_archive: MakeArchive, save: Callable[[Archive], Path]):
    archive = {**make_archive(), "energy_b3lyp": np.zeros(N)}
    archive["positions"][4, 1] = np.inf
    with pytest.raises(StoreError, match="row 1 has positions that are not finite"):
        read_archive(save(archive))


def test_progress_is_reported(make_archive: MakeArchive, save: Callable[[Archive], Path]):
    calls = []
    path = save({**make_archive(), "energy_b3lyp": np.zeros(N)})
    read_archive(path, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(0, N)]
