import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from physcon_ase.errors import PhysConError
from physcon_ase.inference import batched
from physcon_ase.inference.calculator import PhysConCalculator
from physcon_ase.inference.many import optimize_many
from physcon_ase.inference.one import optimize
from physcon_ase.inference.report import format_record, format_summary
from physcon_ase.inference.results import Result
from physcon_ase.model.physcon import LoadedModel

BATCHED = 1e-5
"""Difference [eV] of energies of the same geometry, or of the same tight minimum, in a batch and alone."""

SINGLE = 2e-3
"""Difference [eV] of float32 total energies, of which some 1e-7 is rounding, from float64 ones."""

DIVERSE = ["O", "CCO", "C[C@H](N)C(=O)O", "c1ccccc1", "C1CC1", "CC#N", r"F/C=C\F", "CS(C)=O", "NC=O"]
BAD = {"foo": "InvalidSmilesError", "C*": "DummyAtomError", "[O-]P([O-])(=O)OP([O-])([O-])=O": "UnsupportedChargeError"}


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
    relax, sizes = batched.relax, []

    def relax_little(force_fn, batch, **options):
        sizes.append(len(batch))
        if len(batch) > 2 or batch.atomic_numbers.shape[1] > 11:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return relax(force_fn, batch, **options)

    monkeypatch.setattr(batched, "relax", relax_little)
    records = optimize_many(["O", "C", "N", "CCO", "c1ccccc1"], checkpoint=double, start="etkdg")
    assert [record.status for record in records] == ["ok"] * 4 + ["failed"]
    assert records[-1].error == "NotEnoughMemoryError"
    assert "not enough memory" in records[-1].reason
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
    assert "a molecule must be a SMILES, an RDKit molecule or a MolGraph, received None" in records[0].reason


def test_no_molecules_are_no_records(double: LoadedModel) -> None:
    assert optimize_many([], checkpoint=double) == []


def test_settings_of_a_batch_are_errors_of_the_call(double: LoadedModel) -> None:
    with pytest.raises(PhysConError, match="unknown method 'magic'"):
        optimize_many(["O"], checkpoint=double, method="magic")
    with pytest.raises(PhysConError, match="unknown start"):
        optimize_many(["O"], checkpoint=double, start="magic")
    with pytest.raises(PhysConError, match="atoms_per_batch is 0"):
        optimize_many(["O"], checkpoint=double, atoms_per_batch=0)
