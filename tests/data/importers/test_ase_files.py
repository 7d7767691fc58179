from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from physcon_ase.chem.overlap import CLOSEST_ATOMS
from physcon_ase.chem.smiles import canonical_key, charge_of_smiles, graph_from_smiles
from physcon_ase.data.importers.ase_files import read_ase_database, read_extxyz, structure_from_atoms
from physcon_ase.data.importers.structures import Structure, store_from_structures
from physcon_ase.data.split import key_hash
from physcon_ase.data.store import check_store
from physcon_ase.errors import (
    InvalidSmilesError,
    LabelError,
    PhysConError,
    SpinParityError,
    StoreError,
    UnsupportedChargeError,
)

XYZ_DIGITS = 1e-8
"""Rounding of the eight decimals that ASE writes to extended XYZ files."""

FLOAT32 = 1e-6
"""Rounding of positions and forces of a few Å and eV/Å to float32."""


def labelled(formula: str, *, energy: float | None = -1.5, forces: bool = True, **info: object) -> Atoms:
    atoms = molecule(formula)
    results = {}
    if energy is not None:
        results["energy"] = energy
    if forces:
        results["forces"] = np.random.default_rng(0).normal(size=(len(atoms), 3))
    atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info.update(info)
    return atoms


def write_xyz(path: Path, frames: list[Atoms]) -> Path:
    ase.io.write(path, frames, format="extxyz")
    return path


def write_database(path: Path, frames: list[Atoms]) -> Path:
    with ase.db.connect(path) as database:
        for atoms in frames:
            database.write(atoms, key_value_pairs=atoms.info)
    return path


READERS = pytest.mark.parametrize(
    ("name", "write", "read"),
    [
        ("small.extxyz", write_xyz, read_extxyz),
        ("small.db", write_database, read_ase_database),
        ("small.json", write_database, read_ase_database),
    ],
)


@READERS
def test_labels_and_identity_are_read(tmp_path: Path, name: str, write, read):
    frames = [
        labelled("CH3CH2OH", name="a", kind="minimum", minimum_of="wb97x"),
        labelled("CH3CH2OH", name="a", energy=None),
        labelled("CH4", forces=False, smiles="[H]C([H])([H])[H]"),
    ]
    store, report = read(write(tmp_path / name, frames), "wb97x")
    check_store(store)
    labels = store.labels["wb97x"]
    assert store.source == "small"
    np.testing.assert_array_equal(labels.energy, [-1.5, np.nan, -1.5])
    np.testing.assert_allclose(labels.forces[:9], frames[0].get_forces(), atol=FLOAT32, rtol=0)
    assert np.isnan(labels.forces[18:]).all()
    np.testing.assert_allclose(store.geometries.positions[:9], frames[0].positions, atol=FLOAT32, rtol=0)
    assert store.geometries.molecule.tolist() == [0, 0, 1]
    assert store.geometries.kind.tolist() == ["minimum", "structure", "structure"]
    assert store.geometries.minimum_of.tolist() == ["wb97x", "", ""]
    assert store.molecules.smiles.tolist() == ["CCO", "[H]C([H])([H])[H]"]
    assert store.molecules.key_hash.tolist() == [key_hash(canonical_key(smiles)) for smiles in ("CCO", "C")]
    assert store.molecules.n_bonds.tolist() == [8, 4]
    assert report.n_rows == report.n_geometries == 3
    assert "wb97x: 2 energies, 2 geometries with forces" in report.notes


def test_energy_keeps_its_precision(tmp_path: Path):
    energy = -14415.384900648389
    store, _ = read_extxyz(write_xyz(tmp_path / "a.xyz", [labelled("CH4", energy=energy)]), "b3lyp")
    assert store.labels["b3lyp"].energy[0] == pytest.approx(energy, abs=XYZ_DIGITS)


def test_labels_may_have_other_keys():
    atoms = labelled("CH4", dft_energy=-7.0)
    atoms.arrays["dft_forces"] = np.full((5, 3), 0.25)
    structure = structure_from_atoms(atoms, energy_key="dft_energy", forces_key="dft_forces")
    assert structure.energy == -7.0
    assert (structure.forces == 0.25).all()
    assert structure_from_atoms(atoms).energy == -1.5


@READERS
def test_keys_that_no_frame_has_are_refused(tmp_path: Path, name: str, write, read):
    path = write(tmp_path / name, [labelled("H2O", dft_energy=-2.5)])
    assert read(path, "dft", energy_key="dft_energy")[0].labels["dft"].energy.tolist() == [-2.5]
    with pytest.raises(StoreError, match=r"no frame has the energy_key 'dft'; keys of the first .*dft_energy"):
        read(path, "dft", energy_key="dft")
    with pytest.raises(StoreError, match="no frame has the forces_key 'force'"):
        read(path, "dft", forces_key="force")


def test_other_results_of_a_calculator_have_keys(tmp_path: Path):
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, free_energy=-1.5)
    store, _ = read_extxyz(write_xyz(tmp_path / "a.xyz", [atoms]), "dft", energy_key="free_energy")
    assert store.labels["dft"].energy.tolist() == [-1.5]


def test_forces_of_a_database_may_have_another_key(tmp_path: Path):
    forces = np.arange(9.0).reshape(3, 3)
    with ase.db.connect(tmp_path / "a.db") as database:
        database.write(molecule("H2O"), data={"dft_forces": forces})
    store, _ = read_ase_database(tmp_path / "a.db", "dft", forces_key="dft_forces")
    np.testing.assert_array_equal(store.labels["dft"].forces, forces)


def test_labels_of_other_positions_are_not_taken():
    atoms = labelled("CH4")
    atoms.positions[0] += 0.1  # the calculator's results no longer belong to the structure
    structure = structure_from_atoms(atoms)
    assert np.isnan(structure.energy)
    assert structure.forces is None


def test_atoms_are_not_changed():
    atoms = labelled("CH4", name="a")
    structure = structure_from_atoms(atoms)
    structure.positions[:] = 0
    assert (atoms.positions == molecule("CH4").positions).all()
    assert atoms.info == {"name": "a"}


def test_charge_and_spin_are_read():
    structure = structure_from_atoms(labelled("CH3", charge=0, spin=2))
    store, _ = store_from_structures([structure], "gfn2", source="x")
    assert store.molecules.multiplicity.tolist() == [2]
    ion = Structure(np.array([7, 1, 1, 1, 1]), _ammonium(), charge=1)
    store, _ = store_from_structures([ion], "gfn2", source="x")
    assert store.molecules.formal_charges.sum() == 1
    assert store.molecules.smiles.tolist() == ["[NH4+]"]


@READERS
def test_charge_beside_initial_charges_is_that_of_the_frame(tmp_path: Path, name: str, write, read):
    """`AtomsRow.charge`, the sum of the initial charges, must not replace the pair of a database row."""
    hydroxide = labelled("OH", charge=-1, smiles="[OH-]")
    hydroxide.set_initial_charges([-0.2, 0.2])
    store, _ = read(write(tmp_path / name, [hydroxide]), "wb97x")
    assert store.molecules.formal_charges.sum() == -1
    assert store.molecules.multiplicity.tolist() == [1]
    assert store.molecules.smiles.tolist() == ["[OH-]"]


@READERS
def test_pairs_named_like_properties_of_a_database_row_are_kept(tmp_path: Path, name: str, write, read):
    frames = [labelled("CH4", mass="heavy"), labelled("H2O", mass="light")]
    store, _ = read(write(tmp_path / name, frames), "wb97x", name_key="mass")
    assert store.molecules.name.tolist() == ["heavy", "light"]


@pytest.mark.parametrize(
    ("smiles", "charge"),
    [("[NH4+]", 1), ("[Ca+2].[O-]C(=O)C(=O)[O-]", 0), ("[O-]S(=O)(=O)[O-]", -2), ("[NH3+:7]CC", 1), ("[Fe+3]", 3),
     ("C[N+](=O)[O-]", 0), ("C[C@H](N)C(=O)[O-]", -1), ("[H+]", 1), ("[2H][O-]", -1), ("CO", 0)],
)  # fmt: skip
def test_charge_of_a_smiles_is_that_of_its_graph(smiles: str, charge: int):
    assert charge_of_smiles(smiles) == graph_from_smiles(smiles, allow_fragments=True).charge == charge


def test_without_a_charge_it_is_that_of_the_smiles():
    ammonium = Atoms("NH4", _ammonium(), info={"smiles": "[NH4+]"})
    store, _ = store_from_structures([structure_from_atoms(ammonium)], "gfn2", source="x")
    assert store.molecules.formal_charges.sum() == 1
    assert structure_from_atoms(Atoms("NH4", _ammonium())).charge == 0
    with pytest.raises(InvalidSmilesError, match="frame 4: "):
        structure_from_atoms(Atoms("NH4", _ammonium(), info={"smiles": "[NH4"}), 4)


@pytest.mark.parametrize(
    "info", [{"charge": -0.99}, {"charge": "none"}, {"charge": np.nan}, {"spin": 1.5}, {"spin": [1, 3]}]
)
def test_charges_and_spins_that_are_no_whole_numbers_are_refused(info: dict):
    (name,) = info
    with pytest.raises(StoreError, match=f"frame 3: {name} is .*; a whole number is needed"):
        structure_from_atoms(labelled("CH4", **info), 3)


@pytest.mark.parametrize("charge", [1, 1.0, np.int64(1), np.float32(1), "1"])
def test_whole_numbers_of_any_type_are_charges(charge: object):
    assert structure_from_atoms(Atoms("NH4", _ammonium(), info={"charge": charge})).charge == 1


@pytest.mark.parametrize(
    ("formula", "info", "error", "message"),
    [
        (
            "CH4",
            {"spin": 0},
            SpinParityError,
            r"10 electrons \(charge \+0\) cannot .* multiplicity 0; .* 1, 3, 5",
        ),
        ("CH4", {"spin": 2}, SpinParityError, "cannot have spin multiplicity 2"),
        ("CH3", {}, SpinParityError, "9 electrons .* must be one of 2, 4, 6"),
        ("H", {"charge": 1, "spin": 3}, SpinParityError, "0 electrons"),
        ("CH4", {"charge": 1}, SpinParityError, "9 electrons"),
        ("NH3", {"smiles": "[NH4+]", "charge": 0}, UnsupportedChargeError, r"charge is \+0, but .*'\[NH4\+\]' is \+1"),
        ("CH4", {"smiles": "C", "charge": 2}, UnsupportedChargeError, "charge is [+]2, but that of the SMILES 'C' is"),
        ("CH3OH", {"smiles": "CC"}, PhysConError, "the atoms are H4C1O1, but those of the SMILES 'CC' are H6C2"),
        ("CH4", {"smiles": "[CH3]"}, PhysConError, r"the atoms are H4C1, but those of the SMILES '\[CH3\]' are H3C1"),
    ],
)
def test_frames_that_contradict_themselves_are_named(
    tmp_path: Path, formula: str, info: dict, error: type, message: str
):
    path = write_xyz(tmp_path / "a.xyz", [labelled("H2O"), labelled(formula, **info)])
    with pytest.raises(error, match=f"structure 1: .*{message}"):
        read_extxyz(path, "gfn2")


def test_open_shells_with_their_multiplicity_are_read(tmp_path: Path):
    frames = [labelled("CH3", spin=2), labelled("O2", spin=3), labelled("OH", charge=1, spin=3, smiles="[OH+]")]
    store, _ = read_extxyz(write_xyz(tmp_path / "a.xyz", frames), "gfn2")
    assert store.molecules.multiplicity.tolist() == [2, 3, 3]


@READERS
def test_frames_with_overlapping_atoms_are_refused(tmp_path: Path, name: str, write, read):
    atoms = labelled("H2O")
    atoms.positions[2] = atoms.positions[0] + [0, 0, 0.9 * CLOSEST_ATOMS]
    with pytest.raises(StoreError, match=r"frame 1: atoms 0 \(O\) and 2 \(H\) are 0\.270 Å apart; at least 0\.3 Å"):
        read(write(tmp_path / name, [labelled("H2O"), atoms]), "gfn2")
    atoms.positions[2] = atoms.positions[0] + [0, 0, 1.1 * CLOSEST_ATOMS]
    assert len(read(write(tmp_path / f"far_{name}", [atoms]), "gfn2")[0].geometries) == 1


def _ammonium() -> np.ndarray:
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    return np.concatenate([np.zeros((1, 3)), 1.02 * corners])


def test_same_molecule_in_another_atom_order_is_another_row_of_the_same_split():
    atoms = molecule("CH3OH")
    turned = atoms[[1, 0, *range(2, len(atoms))]]
    store, _ = store_from_structures([structure_from_atoms(a) for a in (atoms, turned, atoms)], "gfn2", source="x")
    assert store.geometries.molecule.tolist() == [0, 1, 0]
    assert store.molecules.key_hash[0] == store.molecules.key_hash[1]


def test_named_frames_share_a_molecule_however_hot_they_are():
    cold, hot = (molecule("CH3CH2OH") for _ in range(2))
    hot.positions *= 2  # nothing is bonded any more
    for atoms in (cold, hot):
        atoms.info["name"] = "run 1"
    store, _ = store_from_structures([structure_from_atoms(a) for a in (cold, hot)], "gfn2", source="x")
    assert store.geometries.molecule.tolist() == [0, 0]
    assert len(store.molecules) == 1


def _difluoroethene(cis: bool) -> Atoms:
    turn = 1 if cis else -1
    fluorine, hydrogen = [[1.36, 1.15], [1.23, -0.93]]
    ends = [[-fluorine[0], fluorine[1]], [-hydrogen[0], hydrogen[1]], [fluorine[0], turn * fluorine[1]]]
    flat = np.array([[-0.665, 0], [0.665, 0], *ends, [hydrogen[0], turn * hydrogen[1]]])
    return Atoms("CCFHFH", np.pad(flat, ((0, 0), (0, 1))))


@pytest.mark.parametrize("info", [{}, {"smiles": "FC=CF"}, {"name": "a", "smiles": "FC=CF"}])
def test_minima_of_another_configuration_are_a_molecule_of_the_same_split(info: dict):
    frames = [_difluoroethene(cis) for cis in (True, False, True)]
    for atoms in frames:
        atoms.info.update(info, minimum_of="gfn2")
    store, _ = store_from_structures([structure_from_atoms(atoms) for atoms in frames], "gfn2", source="x")
    assert store.geometries.molecule.tolist() == [0, 1, 0]
    assert store.molecules.double_bond_is_cis.tolist() == [True, False]
    assert store.molecules.key_hash[0] == store.molecules.key_hash[1]


def test_isomers_with_their_own_smiles_are_molecules_of_their_own():
    frames = [_difluoroethene(cis) for cis in (True, False)]
    for atoms, smiles in zip(frames, ("F/C=C\\F", "F/C=C/F"), strict=True):
        atoms.info["smiles"] = smiles
    store, _ = store_from_structures([structure_from_atoms(atoms) for atoms in frames], "gfn2", source="x")
    assert store.molecules.double_bond_is_cis.tolist() == [True, False]
    assert store.molecules.smiles.tolist() == ["F/C=C\\F", "F/C=C/F"]


def test_structure_without_recognisable_bonds_goes_by_its_formula():
    atoms = molecule("CH3CH2OH")
    atoms.positions *= 3
    store, report = store_from_structures([structure_from_atoms(atoms)] * 2, "gfn2", source="x")
    check_store(store)
    assert store.molecules.n_bonds.tolist() == [0]
    assert store.molecules.key_hash.tolist() == [key_hash("H6C2O1")]
    assert "1 molecule identified by formula and name, perception failed" in report.notes
    assert "1 molecule without bonds: the structure task cannot use them" in report.notes


def test_forces_that_do_not_match_the_atoms_name_their_structure():
    good = structure_from_atoms(molecule("CH4"))
    wrong = Structure(good.atomic_numbers, good.positions, forces=np.zeros((5, 3)) * np.nan)
    with pytest.raises(LabelError, match="structure 1: the forces are not finite"):
        store_from_structures([good, wrong], "gfn2", source="x")
    wrong = Structure(good.atomic_numbers, good.positions, energy=np.inf)
    with pytest.raises(LabelError, match="structure 1: the energy is inf"):
        store_from_structures([good, wrong], "gfn2", source="x")


def test_force_array_of_the_wrong_shape_is_refused():
    atoms = molecule("CH4")
    atoms.arrays["dft"] = np.zeros((5, 2))
    structures = [structure_from_atoms(molecule("CH4")), structure_from_atoms(atoms, 1, forces_key="dft")]
    with pytest.raises(LabelError, match=r"structure 1: forces have shape \(5, 2\), expected \(5, 3\)"):
        store_from_structures(structures, "gfn2", source="x")


def test_energy_that_is_no_number_is_refused():
    with pytest.raises(LabelError, match="frame 3: the energy is 'low', expected a number"):
        structure_from_atoms(labelled("CH4", dft="low"), 3, energy_key="dft")


def test_periodic_empty_and_infinite_structures_are_refused():
    with pytest.raises(StoreError, match=r"frame 2 is periodic \(\[True, True, True\]\)"):
        structure_from_atoms(Atoms("H", pbc=True, cell=[5, 5, 5]), 2)
    with pytest.raises(StoreError, match="frame 2 has 0 atoms"):
        structure_from_atoms(Atoms(), 2)
    with pytest.raises(StoreError, match="frame 2 has 1 atom, or positions that are not finite"):
        structure_from_atoms(Atoms("H", positions=[[np.nan, 0, 0]]), 2)


def test_broken_files_are_refused(tmp_path: Path):
    path = write_xyz(tmp_path / "a.xyz", [labelled("CH4")])
    path.write_text(path.read_text()[:-100])
    with pytest.raises(StoreError, match="not a readable extended XYZ file"):
        read_extxyz(path, "gfn2")
    path = tmp_path / "a.db"
    path.write_bytes(b"SQLite format 3\0 and then nothing")
    with pytest.raises(StoreError, match="not a readable ASE database"):
        read_ase_database(path, "gfn2")
    path = tmp_path / "a.json"
    path.write_text("{")
    with pytest.raises(StoreError, match="not a readable ASE database"):
        read_ase_database(path, "gfn2")


def test_spin_that_is_stated_outlives_the_perception_of_bonds():
    store, _ = store_from_structures([structure_from_atoms(labelled("O2", spin=3))], "dft", source="small")
    assert store.molecules.n_bonds.tolist() == [1]
    assert store.molecules.multiplicity.tolist() == [3]


@pytest.mark.parametrize("info", [{"total_charge": -2}, {"Multiplicity": 3}, {"charge": 0, "net_charge": 2}])
def test_states_under_other_names_are_refused(info: dict):
    with pytest.raises(StoreError, match=r"frame 3: atoms.info\['.*'\] is .* read from atoms.info\['(charge|spin)'\]"):
        structure_from_atoms(labelled("CH4", **info), 3)
    assert structure_from_atoms(labelled("CH4", total_charge=0, multiplicity=1)).charge == 0
