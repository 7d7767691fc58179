from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.optimize import BFGS, FIRE2

from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.errors import MissingHeadError, PhysConError, SpinParityError, UnsupportedChargeError
from physcon_ase.inference import optimization
from physcon_ase.inference.calculator import PhysConCalculator
from physcon_ase.inference.generator import StructureGenerator
from physcon_ase.inference.optimization import CHANGED_BONDS, STARTS, SafeBFGS, optimize, optimize_many
from physcon_ase.inference.results import Result, format_record, format_result, format_summary
from physcon_ase.model.physcon import LoadedModel, load_model
from tests.tiny import calibrated_model

EXACT = 1e-8
"""Difference [eV, eV/Å] of float64 energies and forces of the same geometry."""

BATCHED = 1e-5
"""Difference [eV] of energies of the same geometry, or of the same tight minimum, in a batch and alone."""

SINGLE = 2e-3
"""Difference [eV] of float32 total energies, of which some 1e-7 is rounding, from float64 ones."""

DIVERSE = ["O", "CCO", "C[C@H](N)C(=O)O", "c1ccccc1", "C1CC1", "CC#N", r"F/C=C\F", "CS(C)=O", "NC=O"]
BAD = {"foo": "InvalidSmilesError", "C*": "DummyAtomError", "[NH3+]CC[NH3+]": "UnsupportedChargeError"}


@pytest.fixture(scope="module")
def double() -> LoadedModel:
    return load_model(dtype=torch.float64)


@pytest.fixture(scope="module")
def alanine(double: LoadedModel) -> Result:
    return optimize("C[C@H](N)C(=O)O", checkpoint=double)


@pytest.fixture(scope="module")
def water(double: LoadedModel) -> Result:
    return optimize("O", checkpoint=double)


def test_a_hessian_that_the_update_has_ruined_is_forgotten() -> None:
    run = SafeBFGS(Atoms("H2", [[0, 0, 0], [0.8, 0, 0]], calculator=EMT()), logfile=None)
    first, origin, step = run.H0.copy(), np.zeros(6), np.eye(6)[0]
    run.update(origin, origin, None, None)
    run.update(step, -np.array([8.0, 1, 0, 0, 0, 0]), origin, origin)
    assert np.abs(run.state.hessian - first).max() > 1
    run.update(2 * step, -np.array([8.0 + 1e-9, 2, 0, 0, 0, 0]), step, -np.array([8.0, 1, 0, 0, 0, 0]))
    np.testing.assert_array_equal(run.state.hessian, first)  # and not 1e9 eV/Å² for ever after


def test_the_result_is_a_minimum_of_the_molecule_asked_for(alanine: Result) -> None:
    assert alanine.converged
    assert alanine.is_ok
    assert alanine.status == "converged"
    assert alanine.bonds_intact
    assert alanine.stereo_intact
    assert alanine.fmax < 0.01
    assert (alanine.model, alanine.level, alanine.seed) == ("physcon-1", "gfn2", 0)
    assert (alanine.smiles, alanine.undefined_stereo) == ("C[C@H](N)C(=O)O", ())
    assert alanine.atoms.info["level"] == "gfn2"


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


def test_the_model_hessian_saves_half_of_the_steps(double: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with_hessian = optimize("CCO", checkpoint=double, start="mmff94")
    monkeypatch.setattr(optimization, "_use_model_hessian", lambda run, job: None)
    without = optimize("CCO", checkpoint=double, start="mmff94")
    assert without.converged
    assert with_hessian.steps <= without.steps / 2


@pytest.mark.parametrize("optimizer", ["lbfgs", "FIRE", FIRE2, BFGS])
def test_any_ase_optimiser_finds_the_minimum_of_water(optimizer, double: LoadedModel, water: Result) -> None:
    result = optimize("O", checkpoint=double, optimizer=optimizer, fmax=0.001)
    assert result.converged
    name = optimizer if isinstance(optimizer, str) else optimizer.__name__
    assert result.optimizer.lower() == name.lower()
    assert result.energy == pytest.approx(water.energy, abs=1e-3)  # what fmax .01 leaves
    assert 0.9 < result.atoms.get_distance(0, 1) < 1.0


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
    assert record.status == "failed"
    assert "constraints" in record.reason


def test_the_start_is_what_was_asked_for_and_the_result_says_so(double: LoadedModel) -> None:
    starts = {start: optimize("CCO", checkpoint=double, start=start, max_steps=0) for start in STARTS}
    assert {start: result.start for start, result in starts.items()} == {start: start for start in starts}
    assert len({result.energy for result in starts.values()}) == 3
    assert optimize("CCO", checkpoint=double, max_steps=0).energy == starts["guess"].energy
    hydrogen = optimize("[H][H]", checkpoint=double, start="mmff94")
    assert hydrogen.start == "etkdg (MMFF94 has no parameters)"


def test_a_guess_can_be_the_start_and_other_atoms_cannot(double: LoadedModel) -> None:
    guess = StructureGenerator(double)("CCO", seed=7)
    result = optimize("CCO", start=guess, checkpoint=double, max_steps=0)
    assert np.allclose(result.atoms.positions, guess.positions)
    with pytest.raises(PhysConError, match=r"start has the atoms .*in the order of the graph"):
        optimize("CCO", start=molecule("CH3CH2OH")[::-1], checkpoint=double)
    with pytest.raises(PhysConError, match="the molecule is a geometry already: leave start out"):
        optimize(guess, start="etkdg", checkpoint=double)


def test_a_guess_that_is_relaxed_afterwards_costs_two_evaluations_and_any_other_eight(double: LoadedModel) -> None:
    short, default = StructureGenerator(double, n_steps=2)("CCO"), StructureGenerator(double)
    (record,) = optimize_many(["CCO"], checkpoint=double, max_steps=0, n_attempts=1)
    assert record.result is not None
    for result in (optimize("CCO", checkpoint=double, max_steps=0), record.result):
        np.testing.assert_allclose(result.atoms.positions, short.positions, atol=EXACT)
    assert len(default.sigmas) == 8
    assert np.abs(default("CCO").positions - short.positions).max() > 1000 * EXACT


def test_without_structure_head_a_guess_is_refused_and_the_default_is_etkdg(double: LoadedModel) -> None:
    bare = load_model(dtype=torch.float64)
    bare.model.structure = None
    with pytest.raises(MissingHeadError, match="has no structure head"):
        optimize("O", checkpoint=bare, start="guess")
    assert optimize("O", checkpoint=bare, max_steps=0).start == "etkdg"


def test_too_few_steps_are_a_status_with_a_remedy(double: LoadedModel) -> None:
    result = optimize("CCO", checkpoint=double, start="etkdg", max_steps=1)
    assert not result.converged
    assert not result.is_ok
    assert result.steps == 1
    assert result.status.startswith("step limit reached: raise max_steps")


def test_a_level_has_its_own_energies(double: LoadedModel, water: Result) -> None:
    b3lyp = optimize("O", level="b3lyp", checkpoint=double)
    assert b3lyp.level == "b3lyp"
    assert b3lyp.energy < water.energy - 1000  # all electrons against valence electrons


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
    assert "another molecule" in result.status
    assert "bonds      CHANGED" in format_result(result)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fmax": 0.0}, "fmax must be a force larger than 0"),
        ({"max_steps": -1}, "max_steps must be 0 or more"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"optimizer": "magic"}, "unknown optimizer 'magic'; choose one of bfgs, lbfgs, fire"),
        ({"start": "magic"}, "unknown start 'magic'; choose one of guess, etkdg, mmff94"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict, message: str, double: LoadedModel) -> None:
    with pytest.raises(PhysConError, match=message):
        optimize("O", checkpoint=double, **options)


def test_many_molecules_give_a_record_each_in_their_order(double: LoadedModel) -> None:
    molecules = [*DIVERSE[:4], *BAD, *DIVERSE[4:]]
    progress = []
    records = optimize_many(
        molecules, checkpoint=double, on_progress=lambda done, total: progress.append((done, total)), progress_bar=False
    )
    assert [record.index for record in records] == list(range(12))
    assert [record.name for record in records] == molecules
    assert {record.name: record.error for record in records if record.status == "failed"} == BAD
    good = [record for record in records if record.name in DIVERSE]
    assert all(record.status == "ok" and record.result is not None and record.seconds > 0 for record in good)
    assert progress[-1] == (12, 12)
    assert progress == sorted(progress)
    assert format_summary(records).startswith("12 molecules: 9 ok, 3 failed;")
    assert all("\n" not in format_record(record) for record in records)
    calculator = PhysConCalculator(double)
    for record in good:
        assert record.result is not None
        atoms = Atoms(record.result.atoms.numbers, record.result.atoms.positions, calculator=calculator)
        assert record.result.energy == pytest.approx(atoms.get_potential_energy(), abs=BATCHED)
        assert record.result.fmax == pytest.approx(np.linalg.norm(atoms.get_forces(), axis=1).max(), abs=BATCHED)
        assert record.result.fmax < 0.01


def test_batched_minima_are_those_of_ase_one_by_one(double: LoadedModel) -> None:
    molecules = ["O", "C1CC1", "c1ccccc1"]
    tight = {"checkpoint": double, "start": "mmff94", "fmax": 1e-3}
    for record in optimize_many(molecules, **tight):
        assert record.result is not None
        assert record.result.energy == pytest.approx(optimize(record.name, **tight).energy, abs=BATCHED)


def test_single_precision_far_from_the_origin_changes_nothing(water: Result) -> None:
    far = water.atoms.copy()
    far.positions += 1000.0
    (record,) = optimize_many([far])
    assert record.result is not None
    assert record.result.converged
    assert record.result.energy == pytest.approx(water.energy, abs=SINGLE)
    assert np.allclose(record.result.atoms.positions.mean(axis=0), far.positions.mean(axis=0), atol=0.01)


def test_too_little_memory_means_smaller_batches_and_never_a_lost_molecule(
    double: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    relax, sizes = optimization.relax, []

    def relax_little(force_fn, batch, **options):
        sizes.append(len(batch))
        if len(batch) > 2 or batch.atomic_numbers.shape[1] > 11:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return relax(force_fn, batch, **options)

    monkeypatch.setattr(optimization, "relax", relax_little)
    records = optimize_many(["O", "C", "N", "CCO", "c1ccccc1"], checkpoint=double, start="etkdg")
    assert [record.status for record in records] == ["ok"] * 4 + ["failed"]
    assert records[-1].error == "MemoryError"
    assert "too large for the memory" in records[-1].reason
    assert max(sizes) > 2


def test_what_does_not_end_well_gets_another_start(double: LoadedModel) -> None:
    (record,) = optimize_many(["CCO"], checkpoint=double, max_steps=1, n_attempts=3)
    assert record.status == "not converged"
    assert record.attempts == 3
    assert "raise max_steps" in record.reason
    (record,) = optimize_many([molecule("CH3CH2OH")], checkpoint=double, max_steps=1, n_attempts=3)
    assert record.attempts == 1  # a geometry given as such has no other start


def test_a_gap_in_a_table_is_a_record_too(double: LoadedModel) -> None:
    records = optimize_many(iter([None, "O", float("nan")]), checkpoint=double)  # pyright: ignore[reportArgumentType]
    assert [record.status for record in records] == ["failed", "ok", "failed"]
    assert "a molecule is a SMILES or a MolGraph, received None" in records[0].reason


def test_no_molecules_are_no_records(double: LoadedModel) -> None:
    assert optimize_many([], checkpoint=double) == []


def test_settings_of_a_batch_are_errors_of_the_call(double: LoadedModel) -> None:
    with pytest.raises(PhysConError, match="unknown method 'magic'"):
        optimize_many(["O"], checkpoint=double, method="magic")
    with pytest.raises(PhysConError, match="unknown start"):
        optimize_many(["O"], checkpoint=double, start="magic")
    with pytest.raises(PhysConError, match="atoms_per_batch is 0"):
        optimize_many(["O"], checkpoint=double, atoms_per_batch=0)


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


def test_a_proton_that_goes_back_is_told(double: LoadedModel) -> None:
    """Glycine's zwitterion is no minimum in the gas phase, for GFN2-xTB neither."""
    assert optimize("[NH3+]CC(=O)[O-]", checkpoint=double).status == CHANGED_BONDS


def test_the_charge_of_a_given_geometry_counts(double: LoadedModel) -> None:
    acetate = optimize("CC(=O)[O-]", checkpoint=double).atoms
    neutral = acetate.copy()
    neutral.info.clear()
    assert optimize(acetate, checkpoint=double).steps <= 1
    with pytest.raises(SpinParityError):
        optimize(neutral, checkpoint=double)
    with pytest.raises(UnsupportedChargeError, match="level 'b3lyp' does not cover charge -1"):
        optimize("CC(=O)[O-]", level="b3lyp", checkpoint=double)
