from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms, FixCom, FixSubsetCom, Hookean
from ase.optimize import BFGS, FIRE2, LBFGS, CellAwareBFGS
from ase.optimize.sciopt import SciPyFminBFGS, SciPyFminCG
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.errors import (
    BondPerceptionError,
    ConstraintError,
    PhysConError,
    SpinParityError,
    UnsupportedChargeError,
)
from physcon_ase.inference.calculator import PhysConCalculator
from physcon_ase.inference.many import optimize_many
from physcon_ase.inference.one import optimize
from physcon_ase.inference.outcome import CHANGED_BONDS
from physcon_ase.inference.report import format_result, write_results
from physcon_ase.inference.results import Result
from physcon_ase.model.physcon import LoadedModel
from tests.tiny import calibrated_model

EXACT = 1e-8
"""Difference [eV, eV/Å] of float64 energies and forces of the same geometry."""


@pytest.fixture(scope="module")
def alanine(double: LoadedModel) -> Result:
    return optimize("C[C@H](N)C(=O)O", checkpoint=double)


def test_the_result_is_a_minimum_of_the_molecule_asked_for(alanine: Result) -> None:
    assert alanine.converged
    assert alanine.is_ok
    assert alanine.status == "converged"
    assert alanine.bonds_intact
    assert alanine.stereo_intact
    assert alanine.fmax < 0.01
    assert (alanine.model, alanine.level, alanine.seed) == ("physcon-2", "b3lyp-d3", 0)
    assert (alanine.smiles, alanine.undefined_stereo) == ("C[C@H](N)C(=O)O", ())
    assert alanine.atoms.info["level"] == "b3lyp-d3"


def test_energy_and_forces_are_those_of_the_final_geometry(alanine: Result, double: LoadedModel) -> None:
    atoms = Atoms(alanine.atoms.numbers, alanine.atoms.positions, calculator=PhysConCalculator(double))
    largest = np.linalg.norm(atoms.get_forces(), axis=1).max()
    assert alanine.energy == pytest.approx(atoms.get_potential_energy(), abs=EXACT)
    assert alanine.fmax == pytest.approx(largest, abs=EXACT)
    assert alanine.atoms.get_potential_energy() == alanine.energy
    assert np.allclose(alanine.atoms.get_forces(), atoms.get_forces(), atol=EXACT)


def test_the_uncertainty_is_that_of_the_final_geometry() -> None:
    calibrated = LoadedModel(calibrated_model(), "tiny", "0" * 64)
    for result in (
        optimize(molecule("CH3OH"), checkpoint=calibrated, max_steps=2),
        optimize_many([molecule("CH3OH")], checkpoint=calibrated, max_steps=2, progress_bar=False)[0].result,
    ):
        assert result is not None
        calculator = PhysConCalculator(calibrated)
        calculator.get_potential_energy(result.atoms)
        assert result.energy_uncertainty == pytest.approx(calculator.results["energy_uncertainty"], rel=1e-6)
        assert result.atoms.info["energy_uncertainty"] == result.energy_uncertainty
        assert f" ± {result.energy_uncertainty:.3f} eV" in format_result(result)


def test_the_history_pairs_energy_and_force_of_the_same_geometries(tmp_path: Path, double: LoadedModel) -> None:
    trajectory = tmp_path / "way.traj"
    result = optimize("CCO", checkpoint=double, start="etkdg", trajectory=trajectory, logfile=tmp_path / "log")
    frames = ase.io.read(trajectory, index=":")
    assert len(frames) == len(result.energies) == len(result.fmax_history) == result.steps + 1
    calculator = PhysConCalculator(double)
    for frame, energy, fmax in zip(frames, result.energies, result.fmax_history, strict=True):
        atoms = Atoms(frame.numbers, frame.positions, calculator=calculator)
        assert energy == pytest.approx(atoms.get_potential_energy(), abs=EXACT)
        assert fmax == pytest.approx(np.linalg.norm(atoms.get_forces(), axis=1).max(), abs=EXACT)
    assert "BFGS" in (tmp_path / "log").read_text()


def test_the_model_hessian_saves_half_of_the_steps(double: LoadedModel) -> None:
    of_ase = optimize("CCO", checkpoint=double, optimizer=LBFGS)
    default, with_hessian = (optimize("CCO", checkpoint=double, optimizer=name) for name in ("lbfgs", "bfgs"))
    assert max(default.steps, with_hessian.steps) <= 0.5 * of_ase.steps


@pytest.mark.parametrize("optimizer", ["lbfgs", "bfgs", "FIRE", FIRE2, LBFGS, SciPyFminBFGS, SciPyFminCG])
def test_any_ase_optimiser_finds_the_minimum_of_water(optimizer, double: LoadedModel, water: Result) -> None:
    result = optimize("O", checkpoint=double, optimizer=optimizer, fmax=0.001)
    assert result.converged
    name = optimizer if isinstance(optimizer, str) else optimizer.__name__
    assert name.lower() in result.optimizer.lower()  # the package has an L-BFGS of its own
    assert result.energy == pytest.approx(water.energy, abs=1e-3)  # what fmax .01 leaves
    assert 0.9 < result.atoms.get_distance(0, 1) < 1.0


def test_optimisers_that_cannot_be_driven_are_one_error(double: LoadedModel) -> None:
    class Silent(BFGS):
        def run(self, fmax: float = 0.05, steps: int = 1) -> bool:
            return True

    for optimizer, message in ((CellAwareBFGS, "has no attribute 'mask'"), (Silent, "does not call its observers")):
        with pytest.raises(PhysConError, match=f"optimizer {optimizer.__name__} .*{message}.*; choose one of lbfgs"):
            optimize("O", checkpoint=double, optimizer=optimizer)


def test_a_geometry_is_copied_and_never_modified(double: LoadedModel) -> None:
    atoms = molecule("CH3CH2OH")
    atoms.info["name"] = "mine"
    before = atoms.copy()
    result = optimize(atoms, checkpoint=double, max_steps=3)
    assert atoms == before
    assert atoms.info == {"name": "mine"}
    assert atoms.calc is None
    assert result.start == "geometry"
    assert result.smiles == "CCO"
    assert result.atoms.info["name"] == "mine"
    assert not np.allclose(result.atoms.positions, before.positions)


def test_constraints_of_a_geometry_hold(double: LoadedModel) -> None:
    atoms = molecule("CH3CH2OH")
    atoms.set_constraint(FixAtoms([0, 1]))
    result = optimize(atoms, checkpoint=double)
    assert result.converged
    assert np.array_equal(result.atoms.positions[:2], atoms.positions[:2])
    (record,) = optimize_many([atoms], checkpoint=double)
    assert record.result is not None
    assert record.result.energy == pytest.approx(result.energy, abs=1e-3)
    np.testing.assert_allclose(record.result.atoms.positions[:2], atoms.positions[:2], atol=1e-6)


@pytest.mark.parametrize("constraint", [FixCom(), FixSubsetCom([0, 1, 2])])
def test_constraints_that_leave_a_net_force_do_not_change_the_minimum(constraint, double: LoadedModel) -> None:
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    free = optimize(atoms, checkpoint=double)
    atoms.set_constraint(constraint)
    result = optimize(atoms, checkpoint=double)
    assert result.converged
    assert result.steps < 60
    assert result.energy == pytest.approx(free.energy, abs=1e-3)  # what fmax leaves
    own = getattr(constraint, "index", slice(None))
    before, after = (a[own].get_center_of_mass() for a in (atoms, result.atoms))
    np.testing.assert_allclose(after, before, atol=1e-6)


@pytest.mark.parametrize(("smiles", "level"), [("[OH-]", "wb97m"), ("[C-]#N", "wb97m")])
def test_a_relaxation_goes_downhill_and_ends_where_that_in_batches_does(
    smiles: str, level: str, double: LoadedModel
) -> None:
    result = optimize(smiles, level=level, checkpoint=double)
    (record,) = optimize_many([smiles], level=level, checkpoint=double, progress_bar=False)
    assert record.result is not None
    assert result.converged
    assert result.energy < result.energies[0]
    assert result.energy == pytest.approx(record.result.energy, abs=1e-3)


def test_a_minimum_above_the_start_is_no_success(double: LoadedModel) -> None:
    ether = optimize("COC", checkpoint=double).atoms[[0, 2, 1, 3, 4, 5, 6, 7, 8]]
    start = optimize("CCO", checkpoint=double).atoms
    start.rattle(0.02, seed=0)

    class Jumper(BFGS):
        def step(self, gradient: np.ndarray | None = None) -> None:
            self.optimizable.set_x(ether.positions.ravel())

    result = optimize(Atoms(start.numbers, start.positions), checkpoint=double, optimizer=Jumper)
    assert not result.is_ok
    assert result.status.startswith("ended in a minimum above its start")
    assert result.energy == result.energies[0]
    np.testing.assert_array_equal(result.atoms.positions, start.positions)


def test_several_molecules_are_relaxed_together_or_the_largest_alone(double: LoadedModel) -> None:
    both = optimize("O.O", checkpoint=double)
    (record,) = optimize_many(["O.O"], checkpoint=double, progress_bar=False)
    assert record.result is not None
    for result in (both, record.result):
        assert result.is_ok, result.status
        assert result.smiles == "O.O"
        assert result.start == "mmff94"
    (record,) = optimize_many(["O.O"], checkpoint=double, fragments="largest", max_steps=0, progress_bar=False)
    assert record.result is not None
    assert record.result.smiles == optimize("O.O", checkpoint=double, fragments="largest", max_steps=0).smiles == "O"
    with pytest.raises(PhysConError, match="unknown choice of fragments 'some'; choose 'all' or 'largest'"):
        optimize("O.O", checkpoint=double, fragments="some")


def test_the_largest_molecule_of_a_geometry_is_taken_alone(double: LoadedModel) -> None:
    options: dict = {"checkpoint": double, "fragments": "largest", "max_steps": 0}
    salt = Chem.AddHs(Chem.MolFromSmiles("[Na+].CC(=O)[O-]"))
    rdDistGeom.EmbedMolecule(salt, randomSeed=1)
    (record,) = optimize_many([salt], progress_bar=False, **options)
    for result in (optimize(salt, **options), record.result):
        assert result is not None
        assert (result.smiles, result.atoms.info["charge"], result.start) == ("CC(=O)[O-]", -1, "geometry")
        np.testing.assert_allclose(result.atoms.positions, salt.GetConformer().GetPositions()[1:])
    acid, water = molecule("CH3COOH"), molecule("H2O")
    water.translate([8, 0, 0])
    result = optimize(water + acid, **options)
    assert result.smiles == "CC(=O)O"
    np.testing.assert_array_equal(result.atoms.positions, acid.positions)
    fixed = water + acid
    fixed.set_constraint(FixAtoms([0]))
    with pytest.raises(ConstraintError, match="constraints, which are not kept for fragments='largest'"):
        optimize(fixed, **options)
    with pytest.raises(BondPerceptionError, match="the largest cannot be taken alone: give an SD file"):
        optimize(acid + Atoms("Na", [[8, 0, 0]]), **options)


def test_isotopes_stay_in_the_smiles_the_masses_and_the_files(double: LoadedModel, tmp_path: Path) -> None:
    result = optimize("[13CH3]O[2H]", checkpoint=double, max_steps=1)
    assert result.smiles == "[2H]O[13CH3]"
    assert result.atoms.get_masses()[:3] == pytest.approx([13.00335, 15.999, 2.0141], abs=1e-3)
    write_results(result, tmp_path / "methanol.xyz")
    again = ase.io.read(tmp_path / "methanol.xyz")
    np.testing.assert_allclose(again.get_masses(), result.atoms.get_masses(), atol=1e-6)
    assert optimize(again, checkpoint=double, max_steps=0).smiles == result.smiles


def test_too_few_steps_are_a_status_with_a_remedy(double: LoadedModel) -> None:
    result = optimize("CCO", checkpoint=double, start="etkdg", max_steps=1)
    assert not result.converged
    assert not result.is_ok
    assert result.steps == 1
    assert result.status.startswith("step limit reached: raise max_steps")


def test_a_level_has_its_own_energies(double: LoadedModel, water: Result) -> None:
    wb97m = optimize("O", level="wb97m", checkpoint=double)
    assert wb97m.level == "wb97m"
    assert wb97m.energy < water.energy - 0.3  # the larger basis set alone makes it lower
    atoms = Atoms(wb97m.atoms.numbers, wb97m.atoms.positions, calculator=PhysConCalculator(double, level="wb97m"))
    assert wb97m.energy == pytest.approx(atoms.get_potential_energy(), abs=EXACT)


def test_open_stereo_is_reported(double: LoadedModel) -> None:
    result = optimize("CC(N)C(=O)O", checkpoint=double, max_steps=0)
    assert result.undefined_stereo == ("tetrahedral centre C1 is neither @ nor @@",)
    assert "C1 is neither @ nor @@: decided by the seed" in format_result(result)


def test_bonds_that_change_are_said(double: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_from_smiles("CCO")
    other = optimize("COC", checkpoint=double).atoms[[0, 2, 1, 3, 4, 5, 6, 7, 8]]
    result = optimize(graph, start=other, checkpoint=double)
    assert result.converged
    assert result.bonds_intact is False
    assert not result.is_ok
    assert result.status == CHANGED_BONDS
    assert "bonds      CHANGED" in format_result(result)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fmax": 0.0}, "fmax must be a force larger than 0"),
        ({"fmax": float("inf")}, "larger than 0 eV/Å and finite"),
        ({"max_steps": -1}, "max_steps must be 0 or more"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"max_seconds": float("nan")}, "max_seconds is nan; a time larger than 0 s is needed"),
        ({"max_seconds": 0.0}, "max_seconds is 0.0"),
        ({"optimizer": "magic"}, "unknown optimizer 'magic'; choose one of lbfgs, bfgs, fire"),
        ({"start": "magic"}, "unknown start 'magic'; choose one of mmff94, etkdg, guess"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict, message: str, double: LoadedModel) -> None:
    with pytest.raises(PhysConError, match=message):
        optimize("O", checkpoint=double, **options)


def test_the_energy_of_a_restraint_is_not_that_of_the_molecule(double: LoadedModel) -> None:
    atoms = molecule("CH3CH2OH")
    atoms.set_constraint(Hookean(0, 1, rt=1.0, k=5.0))
    result = optimize(atoms, checkpoint=double)
    free = result.atoms.copy()
    free.set_constraint()
    assert result.energy == pytest.approx(PhysConCalculator(double).get_potential_energy(free), abs=1e-6)
    assert result.atoms.get_distance(0, 1) < 1.5  # the restraint acts


def test_a_charge_of_none_is_none(double: LoadedModel, tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.info["charge"] = None
    result = optimize(atoms, max_steps=0, checkpoint=double)
    assert result.to_dict()["charge"] == 0
    write_results(result, tmp_path / "out.csv")
    write_results(result, tmp_path / "out.xyz")
    assert "charge" not in ase.io.read(tmp_path / "out.xyz").info


def test_nothing_global_changes(double: LoadedModel) -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    settings = torch.get_default_dtype(), torch.get_num_threads()
    optimize("O", checkpoint=double)
    optimize_many(["O", "C"], checkpoint=double)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert (torch.get_default_dtype(), torch.get_num_threads()) == settings


@pytest.mark.parametrize("smiles", ["CC(=O)[O-]", "[NH4+]", "C[NH3+]", "[O-]c1ccccc1", "c1cc[nH+]cc1"])
def test_ions_relax_with_their_bonds_intact(smiles: str, double: LoadedModel) -> None:
    result = optimize(smiles, checkpoint=double)
    assert result.is_ok, result.status
    assert result.atoms.info["charge"] == graph_from_smiles(smiles).charge
    (record,) = optimize_many([smiles], checkpoint=double)
    assert record.status == "ok"
    assert record.result is not None
    assert record.result.energy == pytest.approx(result.energy, abs=0.05)  # another minimum of a rotor is no failure


def test_a_proton_that_has_gone_back_is_told(double: LoadedModel) -> None:
    """Glycine's zwitterion, one proton of which is on its way to the oxygen atom."""
    graph = graph_from_smiles("[NH3+]CC(=O)[O-]")
    nitrogen, oxygen, hydrogens = 0, 4, [5, 6, 7]
    zwitterion = optimize(graph, checkpoint=double, max_steps=0, fmax=100.0).atoms
    proton = hydrogens[zwitterion.get_distances(oxygen, hydrogens).argmin()]
    across = zwitterion.get_distance(nitrogen, oxygen, vector=True)
    zwitterion.positions[proton] = zwitterion.positions[oxygen] - 1.1 * across / np.linalg.norm(across)
    result = optimize(graph, start=zwitterion, checkpoint=double)
    assert result.converged
    assert result.status == CHANGED_BONDS


def test_the_charge_of_a_given_geometry_counts(double: LoadedModel) -> None:
    acetate = optimize("CC(=O)[O-]", checkpoint=double).atoms
    neutral = acetate.copy()
    neutral.info.clear()
    assert optimize(acetate, checkpoint=double).steps <= 1
    with pytest.raises(SpinParityError):
        optimize(neutral, checkpoint=double)
    with pytest.raises(UnsupportedChargeError, match="level 'b3lyp' does not cover charge -1"):
        optimize("CC(=O)[O-]", level="b3lyp", checkpoint=double)
