"""Coulomb and dispersion energies against formulas written out, and their limits."""

import math

import numpy as np
import pytest
import torch

from physcon_ase.batch import Batch, make_batch
from physcon_ase.model.long_range import LongRange
from physcon_ase.model.pairs import make_pairs
from physcon_ase.units import COULOMB_EV_ANGSTROM
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, WATER, WATER_NUMBERS, charged_tiny_model


def batch_of(*molecules: tuple[np.ndarray, np.ndarray]) -> Batch:
    numbers, positions = zip(*molecules, strict=True)
    return make_batch(numbers, positions, dtype=torch.float64)


def random_charges(batch: Batch) -> torch.Tensor:
    return torch.randn(batch.atomic_numbers.shape, dtype=torch.float64) * batch.atom_mask


def written_out(numbers: np.ndarray, positions: np.ndarray, charges: np.ndarray, roots: np.ndarray) -> float:
    total = 0.0
    for i in range(len(numbers)):
        for j in range(i):
            r = math.dist(positions[i], positions[j])
            total += COULOMB_EV_ANGSTROM * charges[i] * charges[j] * (1 - math.exp(-((r / 3) ** 3))) / r
            total -= roots[numbers[i]] * roots[numbers[j]] / (r**6 + 4.0**6)
    return total


def test_energies_are_those_of_the_formula() -> None:
    term, batch = LongRange().double(), batch_of((ETHANOL_NUMBERS, ETHANOL), (WATER_NUMBERS, WATER))
    charges = random_charges(batch)
    energies = term(batch, make_pairs(batch, None), charges).detach()
    roots = term.root_c6.detach().numpy()
    for row, (numbers, positions) in enumerate([(ETHANOL_NUMBERS, ETHANOL), (WATER_NUMBERS, WATER)]):
        expected = written_out(numbers, positions, charges[row].numpy(), roots)
        assert float(energies[row].sum()) == pytest.approx(expected, abs=1e-12)
    assert not energies[~batch.atom_mask].any()


def test_ions_far_apart_attract_as_point_charges_and_noble_pairs_as_the_sixth_power() -> None:
    term = LongRange().double()
    far = batch_of((np.array([1, 17]), np.array([[0, 0, 0], [0, 0, 20.0]])))
    energies = term(far, make_pairs(far, None), torch.tensor([[1.0, -1.0]], dtype=torch.float64)).detach()
    assert float(energies.sum()) == pytest.approx(-COULOMB_EV_ANGSTROM / 20, rel=1e-4)
    pair = [batch_of((np.array([17, 17]), np.array([[0, 0, 0], [0, 0, r]]))) for r in (10.0, 20.0)]
    near, away = (float(term(batch, make_pairs(batch, None), None).sum().detach()) for batch in pair)
    assert near / away == pytest.approx(64, rel=0.01)
    assert near < 0


def test_little_is_added_where_atoms_are_bonded() -> None:
    term = LongRange().double()
    bonded = batch_of((np.array([6, 8]), np.array([[0, 0, 0], [0, 0, 1.2]])))
    energies = term(bonded, make_pairs(bonded, None), torch.tensor([[0.5, -0.5]], dtype=torch.float64)).detach()
    assert abs(float(energies.sum())) < 0.25  # an undamped Coulomb energy would be -3 eV


def test_derivatives_are_those_of_autograd_also_for_weighted_atoms() -> None:
    term, batch = LongRange().double(), batch_of((ETHANOL_NUMBERS, ETHANOL), (WATER_NUMBERS, WATER))
    positions, charges = batch.positions.clone().requires_grad_(), random_charges(batch).requires_grad_()
    moved = Batch(batch.atomic_numbers, positions, batch.charge, batch.multiplicity)
    pairs = make_pairs(moved, None)
    energies, trace = term.traced(moved, pairs, charges)
    grad = torch.randn_like(energies) * batch.atom_mask
    of_positions, expected = torch.autograd.grad(energies, (positions, charges), grad, retain_graph=True)
    found = term.pull_back(moved, trace, grad)
    torch.testing.assert_close(found.charges, expected)
    (from_distances,) = torch.autograd.grad(pairs.distances, positions, found.distances)
    torch.testing.assert_close(from_distances, of_positions)


def test_blocks_of_large_molecules_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    term, batch = LongRange().double(), batch_of((ETHANOL_NUMBERS, ETHANOL), (WATER_NUMBERS, WATER))
    charges, grad = random_charges(batch), random_charges(batch)
    energies, trace = term.traced(batch, make_pairs(batch, None), charges)
    expected = term.pull_back(batch, trace, grad)
    monkeypatch.setattr("physcon_ase.model.pairs.MATRIX_SLOTS", 0)
    monkeypatch.setattr("physcon_ase.model.long_range._BLOCK", 4)
    positions = batch.positions.clone().requires_grad_()
    moved = Batch(batch.atomic_numbers, positions, batch.charge, batch.multiplicity)
    in_blocks, trace = term.traced(moved, make_pairs(batch, None), charges)
    torch.testing.assert_close(in_blocks, energies)
    found = term.pull_back(batch, trace, grad)
    torch.testing.assert_close(found.charges, expected.charges)
    (of_positions,) = torch.autograd.grad(in_blocks, positions, grad)
    torch.testing.assert_close(found.positions, of_positions)


def test_neighbour_lists_do_not_cut_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    model = charged_tiny_model()
    apart = np.concatenate([ETHANOL_NUMBERS, WATER_NUMBERS]), np.concatenate([ETHANOL, WATER + np.array([9.0, 0, 0])])
    dense = float(model.energies(batch_of(apart), "cheap"))
    monkeypatch.setattr("physcon_ase.model.pairs.DENSE_SLOTS", 0)
    assert float(model.energies(batch_of(apart), "cheap")) == pytest.approx(dense, abs=1e-10)


def test_a_model_gives_the_same_with_and_without_cell_list(monkeypatch: pytest.MonkeyPatch) -> None:
    model, generator = charged_tiny_model(), np.random.default_rng(0)
    places = [
        WATER + 3.1 * np.array(corner) + generator.normal(scale=0.1, size=WATER.shape) for corner in np.ndindex(3, 3, 3)
    ]
    cluster = np.tile(WATER_NUMBERS, len(places)), np.concatenate(places)
    batch = batch_of(cluster, (WATER_NUMBERS, WATER))
    expected = model.evaluate(batch, "cheap", forces=True)
    monkeypatch.setattr("physcon_ase.model.pairs.MATRIX_SLOTS", 0)
    found = model.evaluate(batch, "cheap", forces=True)
    torch.testing.assert_close(found.energies, expected.energies, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=1e-10)
