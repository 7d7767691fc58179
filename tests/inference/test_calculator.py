import copy
import pickle
import subprocess
import sys
import threading
from itertools import combinations_with_replacement
from pathlib import Path
from time import process_time

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.mixing import SumCalculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import Trajectory
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS, FIRE, LBFGS
from ase.optimize.optimize import Optimizer
from ase.units import fs, kB
from ase.vibrations import Vibrations

from physcon_ase.batch import ONE_THREAD_SLOTS, Batch
from physcon_ase.errors import (
    CheckpointNotFoundError,
    EmptyStructureError,
    MissingHeadError,
    NonFinitePositionsError,
    OverlappingAtomsError,
    PeriodicCellError,
    PhysConError,
    SpinParityError,
    UnknownElementError,
    UnknownLevelError,
    UnsupportedChargeError,
    UnsupportedElementError,
)
from physcon_ase.inference.calculator import PhysConCalculator
from physcon_ase.inference.intake import check_atoms
from physcon_ase.inference.results import UNITS
from physcon_ase.model import physcon as physcon_module
from physcon_ase.model.physcon import LoadedModel, Outputs
from physcon_ase.units import COVALENT_RADII, FALLBACK_RADIUS
from tests.tiny import calibrated_model, charged_tiny_model, evaluate, pack, tiny_loaded

PACKAGE = Path(__file__).resolve().parents[2]

CENTRED_TOLERANCE = 1e-5
"""Forces [eV/Å] of float32 at the origin and 1000 Å away; without centring in float64 first they differ by 2e-4."""

BATCH_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}
"""Energies [eV] and forces [eV/Å] in a batch against alone: the order of sums differs."""

DRIFT_TOLERANCE = 1e-3
"""Change of the total energy [eV/atom] of an NVE run."""


@pytest.fixture
def calculator() -> PhysConCalculator:
    return PhysConCalculator(tiny_loaded())


@pytest.fixture(scope="module")
def shipped() -> PhysConCalculator:
    return PhysConCalculator(dtype="float64")


def ethanol(**info: object) -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.info.update(info)
    return atoms


# ---- results


def test_all_advertised_properties_are_always_there(calculator: PhysConCalculator) -> None:
    atoms = ethanol()
    atoms.calc = calculator
    atoms.get_potential_energy()
    assert set(calculator.results) == set(calculator.implemented_properties)
    assert isinstance(calculator.results["energy"], float)
    assert calculator.results["energy"] == calculator.results["free_energy"] == pytest.approx(atoms.get_total_energy())
    assert calculator.results["energies"].sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    assert calculator.results["forces"].dtype == calculator.results["energies"].dtype == np.float64
    assert atoms.get_forces().shape == (9, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_do_not_depend_on_where_the_molecule_is(dtype: torch.dtype) -> None:
    calculator = PhysConCalculator(tiny_loaded(dtype=dtype))
    near, far = ethanol(), ethanol()
    far.positions += [1000, -1000, 500]
    near.calc = far.calc = calculator
    np.testing.assert_allclose(far.get_forces(), near.get_forces(), atol=CENTRED_TOLERANCE)


def test_moving_changing_and_going_back_gives_fresh_results(calculator: PhysConCalculator) -> None:
    atoms = ethanol()
    atoms.calc = calculator
    first = atoms.get_potential_energy()
    atoms.positions[0, 0] += 0.05
    second = atoms.get_potential_energy()
    atoms.positions[0, 0] -= 0.05
    assert abs(second - first) > 1e-3
    assert atoms.get_potential_energy() == pytest.approx(first, abs=1e-9)


def test_provenance_names_model_revision_level_and_units(calculator: PhysConCalculator) -> None:
    calculator.get_potential_energy(ethanol())
    provenance = calculator.provenance
    assert (provenance.model, provenance.level, provenance.units) == ("tiny", "cheap", UNITS)
    assert provenance.revision == "0" * 64
    assert calculator.todict()["level"] == "cheap"
    other = PhysConCalculator(tiny_loaded(), level="dft")
    assert other.provenance.level == "dft"
    assert abs(other.get_potential_energy(ethanol()) - calculator.get_potential_energy(ethanol())) > 100


def test_direct_forces_come_with_the_same_energy_and_say_what_they_are() -> None:
    loaded = tiny_loaded(output_vectors=3)
    conservative, direct = PhysConCalculator(loaded), PhysConCalculator(loaded, forces="direct")
    water, both = molecule("H2O"), (ethanol(), molecule("H2O"))
    assert direct.get_potential_energy(water) == pytest.approx(conservative.get_potential_energy(water), abs=1e-9)
    _, expected = loaded.model.energies_and_direct_forces(
        pack(loaded.model, [(water.numbers, water.positions)]), "cheap"
    )
    np.testing.assert_allclose(direct.get_forces(water), expected[0].numpy(), atol=1e-9)
    assert np.abs(direct.get_forces(water) - conservative.get_forces(water)).max() > 0.01
    np.testing.assert_allclose(direct.predict(both)[1].forces, expected[0].numpy(), atol=1e-9)
    assert (conservative.provenance.forces_from, direct.provenance.forces_from) == (
        "the derivative of the energy",
        "a direct head, no energy",
    )
    assert (
        direct.todict()["forces_from"] == direct.predict(both)[0].provenance.forces_from == "a direct head, no energy"
    )


def test_direct_forces_need_a_direct_head() -> None:
    with pytest.raises(
        MissingHeadError, match=r"tiny has no direct-force heads: train a model with encoder\.output_vectors"
    ):
        PhysConCalculator(tiny_loaded(), forces="direct")
    with pytest.raises(PhysConError, match="unknown kind of forces 'swift'; choose conservative or direct"):
        PhysConCalculator(tiny_loaded(), forces="swift")


def test_direct_forces_build_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, seen = tiny_loaded(output_vectors=3), []
    evaluate_model = loaded.model.evaluate

    def spy(batch: Batch, level: str, **options: bool) -> Outputs:
        seen.append((options, torch.is_inference_mode_enabled(), batch.positions.requires_grad))
        return evaluate_model(batch, level, **options)

    monkeypatch.setattr(loaded.model, "evaluate", spy)
    PhysConCalculator(loaded, forces="direct").get_forces(ethanol())
    assert seen == [({"direct_forces": True}, True, False)], "one pass for energy and forces"


def test_atomization_energy_is_references_minus_total(calculator: PhysConCalculator) -> None:
    references = 2 * -50.2 - 100.4 + 6 * -10.5
    atoms = ethanol()
    atoms.calc = calculator
    expected = references - atoms.get_potential_energy()
    assert calculator.atomization_energy(atoms) == pytest.approx(expected, abs=1e-9)


def test_parameters_cannot_be_changed_afterwards(calculator: PhysConCalculator) -> None:
    with pytest.raises(PhysConError, match="level of a PhysConCalculator cannot be changed; create a new one"):
        calculator.set(level="dft")
    before = calculator.get_potential_energy(ethanol())
    for name, value in {"level": "dft", "charge": -2, "multiplicity": 3, "model": calculator.model}.items():
        with pytest.raises(PhysConError, match=f"{name} of a PhysConCalculator cannot be changed; create a new one"):
            setattr(calculator, name, value)
    for other in (copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator))):
        with pytest.raises(PhysConError, match="charge of a PhysConCalculator cannot be changed"):
            other.charge = -2
        assert other.get_potential_energy(ethanol()) == before


# ---- uncertainty


@pytest.fixture
def calibrated() -> PhysConCalculator:
    return PhysConCalculator(LoadedModel(calibrated_model(), "tiny", "0" * 64))


def test_a_calibrated_model_says_how_uncertain_its_results_are(calibrated: PhysConCalculator) -> None:
    atoms = ethanol()
    atoms.calc = calibrated
    energy = atoms.get_potential_energy()
    assert isinstance(calibrated.results["energy_uncertainty"], float)
    assert calibrated.results["energy_uncertainty"] > 0
    uncertainty = calibrated.results["forces_uncertainty"]
    assert (uncertainty.shape, uncertainty.dtype) == ((9,), np.float64)
    assert (uncertainty > 0).all()
    first = dict(calibrated.results)
    atoms.positions[8] += 0.3
    assert atoms.get_potential_energy() != energy
    assert calibrated.results["energy_uncertainty"] != first["energy_uncertainty"]


def test_a_model_without_tables_says_nothing_of_uncertainty(calculator: PhysConCalculator) -> None:
    calculator.get_potential_energy(ethanol())
    assert not {"energy_uncertainty", "forces_uncertainty"} & set(calculator.results)
    (prediction,) = calculator.predict([ethanol()])
    assert prediction.energy_uncertainty is None
    assert prediction.forces_uncertainty is None


def test_uncertainties_of_a_batch_are_those_of_its_structures_alone(calibrated: PhysConCalculator) -> None:
    structures = [ethanol(), molecule("H2O"), molecule("CH3OH")]
    calibrated.warns = False
    for atoms, prediction, bare in zip(
        structures, calibrated.predict(structures), calibrated.predict(structures, ["energy"]), strict=True
    ):
        calibrated.get_potential_energy(atoms)
        alone = calibrated.results
        assert prediction.energy_uncertainty == pytest.approx(alone["energy_uncertainty"], rel=1e-9)
        assert bare.energy_uncertainty == pytest.approx(alone["energy_uncertainty"], rel=1e-9)
        assert bare.forces_uncertainty is None
        np.testing.assert_allclose(prediction.forces_uncertainty, alone["forces_uncertainty"], rtol=1e-9)


def test_results_that_ase_has_no_name_for_do_not_trouble_it(calibrated: PhysConCalculator, tmp_path: Path) -> None:
    atoms = ethanol()
    atoms.calc = calibrated
    energy = atoms.get_potential_energy()
    assert set(calibrated.export_properties()) == {*calibrated.implemented_properties, "natoms"}
    assert atoms.get_properties(["energy"])["energy"] == pytest.approx(energy)
    ase.io.write(tmp_path / "one.traj", atoms)
    ase.io.write(tmp_path / "one.xyz", atoms)
    for name in ("one.traj", "one.xyz"):
        back = ase.io.read(tmp_path / name)
        assert isinstance(back, Atoms)
        assert back.get_potential_energy() == pytest.approx(energy)
    both = SumCalculator([calibrated, PhysConCalculator(tiny_loaded())])
    assert both.get_potential_energy(atoms) == pytest.approx(2 * energy)
    assert "energy_uncertainty" not in both.results  # standard deviations do not add up like energies


# ---- ASE's machinery


def test_trajectories_keep_results_and_provenance(calculator: PhysConCalculator, tmp_path: Path) -> None:
    atoms = ethanol()
    atoms.calc = calculator
    forces = atoms.get_forces()
    with Trajectory(tmp_path / "one.traj", "w") as trajectory:
        trajectory.write(atoms)
    back = ase.io.read(tmp_path / "one.traj")
    assert isinstance(back, Atoms)
    np.testing.assert_array_equal(back.get_forces(), forces)
    assert back.calc.name == "physconcalculator"
    assert back.calc.parameters["model"] == "tiny"


def test_extended_xyz_and_single_point_copies_work(calculator: PhysConCalculator, tmp_path: Path) -> None:
    atoms = ethanol()
    atoms.calc = calculator
    energy = atoms.get_potential_energy()
    ase.io.write(tmp_path / "one.xyz", atoms, format="extxyz")
    back = ase.io.read(tmp_path / "one.xyz")
    assert isinstance(back, Atoms)
    assert back.get_potential_energy() == pytest.approx(energy)
    copy = ethanol()
    copy.calc = SinglePointCalculator(copy, **calculator.results)
    np.testing.assert_array_equal(copy.get_forces(), atoms.get_forces())


# ---- charge and spin


def test_a_charge_stated_in_info_is_noticed_after_a_calculation(calculator: PhysConCalculator) -> None:
    atoms = ethanol()
    atoms.calc = calculator
    energy = atoms.get_potential_energy()
    atoms.info.update(charge=1, spin=2)
    with pytest.raises(UnsupportedChargeError, match=r"charge \+1 with spin multiplicity 2 is not supported"):
        atoms.get_potential_energy()
    with pytest.raises(UnsupportedChargeError):  # and it stays refused
        atoms.get_potential_energy()
    atoms.info.clear()
    assert atoms.get_potential_energy() == energy


def test_ions_are_computed_where_the_level_covers_their_charge() -> None:
    loaded = LoadedModel(charged_tiny_model(), "tiny", "0" * 64)
    hydroxide, water = molecule("OH"), molecule("H2O")
    hydroxide.info["charge"] = -1
    calculator = PhysConCalculator(loaded)
    hydroxide.calc = water.calc = calculator
    energies = [atoms.get_potential_energy() for atoms in (hydroxide, water, hydroxide)]
    assert energies[0] == energies[2]  # nothing is carried over
    assert energies[0] == PhysConCalculator(loaded, charge=-1).get_potential_energy(molecule("OH"))
    assert energies[0] == pytest.approx(calculator.predict([water, hydroxide])[1].energy, abs=1e-9)
    with pytest.raises(UnsupportedChargeError, match=r"does not cover charge -1; it covers 0: use level 'cheap'"):
        PhysConCalculator(loaded, level="dft").get_potential_energy(hydroxide)
    hydroxide.info["charge"] = -3
    with pytest.raises(UnsupportedChargeError, match=r"it covers -1, 0, \+1: no level of this model covers it"):
        hydroxide.get_potential_energy()


def test_info_overrides_the_defaults_for_this_structure_only(calculator: PhysConCalculator) -> None:
    cation = PhysConCalculator(tiny_loaded(), charge=1, multiplicity=2)
    neutral, silent = ethanol(charge=0, spin=1), ethanol()
    assert np.isfinite(cation.get_potential_energy(neutral))
    with pytest.raises(UnsupportedChargeError):
        cation.get_potential_energy(silent)
    assert (neutral.info, silent.info) == ({"charge": 0, "spin": 1}, {})
    with pytest.raises(UnsupportedChargeError):
        calculator.get_potential_energy(ethanol(charge=-1, spin=2))
    assert np.isfinite(calculator.get_potential_energy(silent))


@pytest.mark.parametrize("info", [{"total_charge": -1}, {"multiplicity": 3}, {"charge": 0, "total_charge": 2}])
def test_states_under_other_names_are_not_ignored(calculator: PhysConCalculator, info: dict) -> None:
    with pytest.raises(UnsupportedChargeError, match=r"read from atoms.info\['(charge|spin)'\] and is [01]: set"):
        calculator.get_potential_energy(ethanol(**info))


@pytest.mark.parametrize(
    ("info", "allowed"), [({"spin": 2}, "1, 3, 5"), ({"charge": 1}, "2, 4, 6"), ({"spin": 0}, "1, 3")]
)
def test_electrons_and_multiplicity_must_fit(calculator: PhysConCalculator, info: dict, allowed: str) -> None:
    with pytest.raises(SpinParityError, match=f"it must be one of {allowed}"):
        calculator.get_potential_energy(ethanol(**info))


def test_a_radical_is_refused(calculator: PhysConCalculator) -> None:
    with pytest.raises(SpinParityError, match=r"9 electrons .* cannot have spin multiplicity 1"):
        calculator.get_potential_energy(molecule("CH3"))


@pytest.mark.parametrize("charge", [0.5, "one", None, True])
def test_a_charge_must_be_a_whole_number(calculator: PhysConCalculator, charge: object) -> None:
    if charge is None:  # the same as not stated
        assert np.isfinite(calculator.get_potential_energy(ethanol(charge=None)))
        return
    with pytest.raises(UnsupportedChargeError, match="is not an integer"):
        calculator.get_potential_energy(ethanol(charge=charge))


# ---- bad structures


def nan_position() -> Atoms:
    atoms = ethanol()
    atoms.positions[3, 1] = np.nan
    return atoms


def periodic() -> Atoms:
    atoms = ethanol()
    atoms.set_cell([9, 9, 9])
    atoms.pbc = (False, False, True)
    return atoms


BAD = [
    (Atoms(), EmptyStructureError, "has no atoms"),
    (periodic(), PeriodicCellError, r"pbc \[False, False, True\].*atoms\.pbc = False"),
    (nan_position(), NonFinitePositionsError, r"atom 3 \(H\) is at \[.*nan"),
    (
        Atoms("OHH", [[0, 0, 0], [0, 0, 1], [0.05, 0, 1]]),
        OverlappingAtomsError,
        r"atoms 1 \(H\) and 2 \(H\) are 0\.050 Å",
    ),
    (Atoms("XH2", [[0, 0, 0], [0, 0, 1], [1, 0, 0]]), UnknownElementError, "unknown atomic number 0.*dummy"),
    (Atoms("Fe"), UnsupportedElementError, r"level 'cheap' does not cover Fe; it covers H C N O F Cl: no level"),
]
BAD_IDS = ["empty", "periodic", "NaN", "overlap", "dummy", "iron"]


@pytest.mark.parametrize(("atoms", "error", "message"), BAD, ids=BAD_IDS)
def test_a_bad_structure_is_one_named_error(
    calculator: PhysConCalculator, atoms: Atoms, error: type[PhysConError], message: str
) -> None:
    with pytest.raises(error, match=message):
        calculator.get_property("energy", atoms)


def test_an_element_that_another_level_covers_is_answered_with_that_level() -> None:
    with pytest.raises(
        UnsupportedElementError, match="level 'dft' does not cover Cl; it covers H C N O: use level 'cheap'"
    ):
        PhysConCalculator(tiny_loaded(), level="dft").get_potential_energy(molecule("CH3Cl"))


def test_a_cell_without_periodicity_is_no_error(calculator: PhysConCalculator) -> None:
    atoms = ethanol()
    energy = calculator.get_potential_energy(atoms)
    atoms.set_cell([9, 9, 9])
    assert calculator.get_potential_energy(atoms) == energy


def test_unknown_level_checkpoint_and_dtype_are_named() -> None:
    with pytest.raises(UnknownLevelError, match="unknown level 'pm6'; this model has cheap, dft"):
        PhysConCalculator(tiny_loaded(), level="pm6")
    with pytest.raises(CheckpointNotFoundError, match=r"'nowhere' does not exist"):
        PhysConCalculator("nowhere")
    with pytest.raises(PhysConError, match="dtype 'float16' is not supported; use float32 or float64"):
        PhysConCalculator(dtype="float16")


def test_checking_costs_next_to_nothing() -> None:
    atoms = Atoms("C21", np.random.default_rng(0).normal(size=(21, 3)) * 30)
    check_atoms(atoms)
    began = process_time()
    for _ in range(100):
        check_atoms(atoms)
    # 13 to 140 µs measured on several machines; the whole evaluation takes some milliseconds.
    assert (process_time() - began) / 100 < 300e-6


# ---- many structures


def some_structures() -> list[Atoms]:
    return [molecule(name) for name in ("CH3CH2OH", "H2O", "C6H6", "CH4", "H2", "CH3CONH2")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_predict_gives_what_the_calculator_gives_one_by_one(dtype: torch.dtype) -> None:
    calculator = PhysConCalculator(tiny_loaded(dtype=dtype))
    structures = some_structures()
    for atoms, found in zip(structures, calculator.predict(structures, atoms_per_batch=25), strict=True):
        assert found.error is None
        tolerance = BATCH_TOLERANCE[dtype]
        assert found.energy == pytest.approx(calculator.get_potential_energy(atoms), abs=tolerance)
        np.testing.assert_allclose(found.forces, calculator.get_forces(atoms), atol=10 * tolerance)
        np.testing.assert_allclose(found.energies, calculator.get_property("energies", atoms), atol=tolerance)
        assert found.atomization_energy == pytest.approx(calculator.atomization_energy(atoms), abs=tolerance)
        assert found.provenance == calculator.provenance


def test_predict_without_forces_computes_none(calculator: PhysConCalculator, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [record.energy for record in calculator.predict(some_structures())]
    monkeypatch.setattr(physcon_module, "energies_and_gradient", None)
    found = calculator.predict(some_structures(), properties=["energy"])
    assert [record.energy for record in found] == pytest.approx(expected, abs=1e-9)
    assert all(record.forces is None for record in found)


def test_bad_structures_are_records_that_stop_nobody(calculator: PhysConCalculator) -> None:
    structures = [ethanol(), *[atoms for atoms, _, _ in BAD], ethanol(charge=1, spin=2), ethanol()]
    found = calculator.predict(structures)
    kinds = [type(record.error) for record in found]
    assert kinds == [type(None), *[error for _, error, _ in BAD], UnsupportedChargeError, type(None)]
    assert found[1].energy is found[1].forces is None
    assert found[0].energy == pytest.approx(calculator.get_potential_energy(ethanol()), abs=1e-9)
    with pytest.raises(EmptyStructureError):
        calculator.predict(structures, on_error="raise")


def test_predict_takes_a_generator(calculator: PhysConCalculator) -> None:
    water = molecule("H2O")
    (record,) = calculator.predict(atoms for atoms in [water])
    assert record.energy == pytest.approx(calculator.get_potential_energy(water), abs=1e-4)


def test_predict_of_nothing_is_nothing_and_unknown_properties_are_refused(calculator: PhysConCalculator) -> None:
    assert calculator.predict([]) == []
    with pytest.raises(PhysConError, match="unknown properties stress; allowed are energy"):
        calculator.predict([ethanol()], properties=["energy", "stress"])


def test_batches_shrink_when_memory_runs_out(calculator: PhysConCalculator, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [record.energy for record in calculator.predict(some_structures())]
    compute, sizes, limit = physcon_module.energies_and_gradient, [], 12

    def short_of_memory(network, batch, *arguments):
        sizes.append(batch.atomic_numbers.numel())
        if batch.atomic_numbers.numel() > limit:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return compute(network, batch, *arguments)

    monkeypatch.setattr(physcon_module, "energies_and_gradient", short_of_memory)
    found = calculator.predict(some_structures()[:2] + some_structures()[3:])
    assert [record.energy for record in found] == pytest.approx(expected[:2] + expected[3:], abs=1e-9)
    assert sizes[0] > 12
    limit = 11
    (record,) = calculator.predict([molecule("C6H6")])
    assert "not enough memory for 12 atoms" in str(record.error)


def test_other_failures_are_not_taken_for_lack_of_memory(
    calculator: PhysConCalculator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(physcon_module, "energies_and_gradient", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        calculator.predict(some_structures())


# ---- side effects

SNAPSHOT = """
import os, sys, torch, numpy, random
def snapshot():
    return (torch.get_default_dtype(), torch.get_num_threads(), torch.get_num_interop_threads(), dict(os.environ),
        torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled(),
        torch.get_rng_state().tolist(), str(numpy.random.get_state()), random.getstate(), numpy.geterr(), os.getcwd())
torch.set_num_threads(2)
before = snapshot()
from physcon_ase import PhysConCalculator
assert snapshot() == before, "import"
calculator = PhysConCalculator()
assert snapshot() == before, "construction"
from ase.build import molecule
atoms = molecule("CH3CH2OH")
atoms.calc = calculator
atoms.get_forces()
calculator.predict([atoms, molecule("H2O")])
assert snapshot() == before, "use"
heavy = {"rdkit", "h5py", "e3nn", "huggingface_hub", "matplotlib", "tblite"} & set(sys.modules)
assert not heavy, heavy
"""


def test_import_construction_and_use_change_nothing_outside() -> None:
    subprocess.run(
        [sys.executable, "-c", SNAPSHOT], env={"PYTHONPATH": str(PACKAGE), "PATH": ""}, check=True, timeout=300
    )


def test_small_batches_use_one_thread_and_give_the_others_back(
    calculator: PhysConCalculator, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    compute = physcon_module.energies_and_gradient

    def watch(*arguments):
        seen.append(torch.get_num_threads())
        return compute(*arguments)

    monkeypatch.setattr(physcon_module, "energies_and_gradient", watch)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        calculator.get_forces(ethanol())
        calculator.predict([ethanol() for _ in range(ONE_THREAD_SLOTS // 9 + 1)], atoms_per_batch=10 * ONE_THREAD_SLOTS)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2]


# ---- the shipped model at work


@pytest.mark.parametrize("optimizer", [BFGS, LBFGS, FIRE])
def test_ase_optimizers_run_on_it(shipped: PhysConCalculator, optimizer: type[Optimizer]) -> None:
    atoms = molecule("CH3OH")
    atoms.rattle(0.03, seed=1)
    atoms.calc = shipped
    assert optimizer(atoms, logfile=None).run(fmax=0.02, steps=200)
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 0.02
    assert atoms.get_distance(0, 1) == pytest.approx(1.41, abs=0.05)


def test_vibrations_run_on_it(shipped: PhysConCalculator, tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.calc = shipped
    BFGS(atoms, logfile=None).run(fmax=0.001, steps=100)
    vibrations = Vibrations(atoms, name=str(tmp_path / "vib"))
    vibrations.run()
    wavenumbers = vibrations.get_frequencies().real[-3:]
    # Experiment [1/cm]. The tolerance is for the level and the model; a wrong sign, unit or mass is outside.
    np.testing.assert_allclose(wavenumbers, [1595, 3657, 3756], rtol=0.25)


def hexane() -> Atoms:
    """20 atoms, all-trans, close to relaxed."""
    symbols, positions = [], []
    for k in range(6):
        side = 1 if k % 2 else -1
        carbon = np.array([1.27 * k, 0.43 * side, 0.0])
        symbols += ["C", "H", "H"]
        positions += [carbon + np.array([0, 0.63 * side, z]) * (z != 0) for z in (0, 0.89, -0.89)]
    for end, outwards, side in ((0, -1, 1), (5, 1, -1)):
        symbols.append("H")
        positions.append(np.array([1.27 * end + 0.89 * outwards, -0.43 * side + 0.63 * side, 0.0]))
    return Atoms(symbols, positions)


def total_energy_drift(calculator: PhysConCalculator, steps: int) -> float:
    """Change [eV/atom] of the total energy between the first and the last tenth of an NVE run at 300 K."""
    atoms = hexane()
    atoms.calc = calculator
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=300)
    # Twice the temperature: half of the energy goes into the bonds.
    spread = np.sqrt(2 * 300 * kB / atoms.get_masses())[:, None]
    atoms.set_velocities(spread * np.random.default_rng(3).normal(size=(len(atoms), 3)))
    energies = []
    dynamics = VelocityVerlet(atoms, timestep=0.5 * fs)
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()))
    dynamics.run(steps)
    assert 150 < atoms.get_temperature() < 600
    # Means over tenths: velocity Verlet conserves a neighbour of the energy, which itself fluctuates with the bonds.
    tenth = len(energies) // 10
    return abs(np.mean(energies[-tenth:]) - np.mean(energies[:tenth])) / len(atoms)


def test_a_picosecond_of_dynamics_conserves_the_energy(shipped: PhysConCalculator) -> None:
    assert total_energy_drift(shipped, 2000) < DRIFT_TOLERANCE


@pytest.mark.slow
def test_ten_picoseconds_of_dynamics_conserve_the_energy(shipped: PhysConCalculator) -> None:
    assert total_energy_drift(shipped, 20000) < DRIFT_TOLERANCE


@pytest.mark.parametrize("level", ["b3lyp-d3", "wb97m", "b3lyp"])
def test_the_shipped_model_has_no_holes_at_short_range(shipped: PhysConCalculator, level: str) -> None:
    elements = shipped.model.level(level).elements
    fractions = np.linspace(0.2, 0.7, 11)
    for first, second in combinations_with_replacement(elements, 2):
        lengths = sum(COVALENT_RADII.get(number, FALLBACK_RADIUS) for number in (first, second)) * fractions
        pairs = [(np.array([first, second]), np.array([[0.0, 0, 0], [0, 0, length]])) for length in lengths]
        energies, forces = evaluate(shipped.model, *pairs, level=level)
        assert (np.diff(energies) < 0).all(), f"{first}-{second}: {energies}"
        assert all(force[1, 2] > 0 for force in forces), f"{first}-{second}"


def test_partial_charges_sum_to_the_total_charge_and_make_the_dipole() -> None:
    calculator = PhysConCalculator(dtype="float64")
    for atoms, total in ((molecule("H2O"), 0), (Atoms("NH4", _AMMONIUM, info={"charge": 1}), 1)):
        atoms.calc = calculator
        charges, dipole = atoms.get_charges(), atoms.get_dipole_moment()
        assert charges.sum() == pytest.approx(total, abs=1e-10)
        np.testing.assert_allclose(dipole, charges @ (atoms.positions - atoms.get_center_of_mass()))
        (found,) = calculator.predict([atoms])
        np.testing.assert_allclose(found.charges, charges)
        np.testing.assert_allclose(found.dipole, dipole, atol=1e-12)
    water = molecule("H2O")
    water.calc = calculator
    assert water.get_charges()[0] < -0.2 < 0.1 < water.get_charges()[1]
    assert water.get_dipole_moment() @ (water.positions[1:].mean(axis=0) - water.positions[0]) > 0


_AMMONIUM = np.array([[0, 0, 0], [1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]]) * np.array([[1.0]] + 4 * [[0.59]])


def test_threads_may_share_a_calculator(calculator: PhysConCalculator) -> None:
    structures = [molecule(name) for name in ("H2O", "CH4", "NH3", "CH3OH")]
    expected = [calculator.predict([atoms])[0] for atoms in structures]
    wrong = []

    def check(atoms: Atoms, energy: float, forces: np.ndarray) -> None:
        for _ in range(25):
            atoms.positions += 0.01  # a translation: the same energy, but a new calculation
            if abs(atoms.get_potential_energy() - energy) > 1e-8 or np.abs(atoms.get_forces() - forces).max() > 1e-8:
                wrong.append(atoms)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = []
        for atoms, found in zip(structures, expected, strict=True):
            atoms.calc = calculator
            threads.append(threading.Thread(target=check, args=(atoms, found.energy, found.forces)))
            threads[-1].start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


def test_a_calculator_can_be_copied_and_sent_to_another_process(calculator: PhysConCalculator) -> None:
    atoms = molecule("H2O")
    energy = calculator.get_potential_energy(atoms)
    for other in (copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator))):
        assert other.get_potential_energy(atoms) == energy
