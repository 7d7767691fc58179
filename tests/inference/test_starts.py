import numpy as np
import pytest
import torch
from ase.build import molecule

from physcon_ase.errors import MissingHeadError, PhysConError
from physcon_ase.inference.generator import StructureGenerator
from physcon_ase.inference.many import optimize_many
from physcon_ase.inference.one import optimize
from physcon_ase.inference.starts import STARTS
from physcon_ase.model.physcon import LoadedModel, load_model

EXACT = 1e-8
"""Difference [eV, eV/Å] of float64 energies and forces of the same geometry."""


def test_the_start_is_what_was_asked_for_and_the_result_says_so(double: LoadedModel) -> None:
    starts = {start: optimize("CCO", checkpoint=double, start=start, max_steps=0) for start in STARTS}
    assert {start: result.start for start, result in starts.items()} == {start: start for start in starts}
    assert len({result.energy for result in starts.values()}) == 3
    assert optimize("CCO", checkpoint=double, max_steps=0).energy == starts["mmff94"].energy
    hydrogen = optimize("[H][H]", checkpoint=double, start="mmff94")
    assert hydrogen.start == "etkdg (MMFF94 has no parameters)"


def test_a_guess_can_be_the_start_and_other_atoms_cannot(double: LoadedModel) -> None:
    guess = StructureGenerator(double)("CCO", seed=7)
    result = optimize("CCO", start=guess, checkpoint=double, max_steps=0)
    assert np.allclose(result.atoms.positions, guess.positions)
    with pytest.raises(PhysConError, match=r"start has the atoms .*in the order of the graph"):
        optimize("CCO", start=molecule("CH3CH2OH")[::-1], checkpoint=double)
    with pytest.raises(PhysConError, match="the molecule is already a geometry: omit start"):
        optimize(guess, start="etkdg", checkpoint=double)


def test_a_guess_that_is_relaxed_afterwards_costs_two_evaluations_and_any_other_eight(double: LoadedModel) -> None:
    short, default = StructureGenerator(double, n_steps=2)("CCO"), StructureGenerator(double)
    (record,) = optimize_many(["CCO"], checkpoint=double, start="guess", max_steps=0, n_attempts=1)
    assert record.result is not None
    for result in (optimize("CCO", checkpoint=double, start="guess", max_steps=0), record.result):
        np.testing.assert_allclose(result.atoms.positions, short.positions, atol=EXACT)
    assert len(default.sigmas) == 8
    assert np.abs(default("CCO").positions - short.positions).max() > 1000 * EXACT


def test_without_structure_head_only_a_guess_is_refused(double: LoadedModel) -> None:
    bare = load_model(dtype=torch.float64)
    bare.model.structure = None
    with pytest.raises(MissingHeadError, match="has no structure network"):
        optimize("O", checkpoint=bare, start="guess")
    assert optimize("O", checkpoint=bare, max_steps=0).start == "mmff94"
