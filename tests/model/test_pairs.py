"""Pairs of atoms, and the functions of their distance and direction."""

import math

import pytest
import torch

from physcon_ase.model.pairs import (
    N_MONOMIALS,
    bessel,
    envelope,
    make_pairs,
    monomials,
    of_neighbours,
    sum_to_neighbours,
)
from tests.model.harmonics import random_directions
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, WATER, WATER_NUMBERS, pack, tiny_model

ROUNDING = 1e-12
"""float64 rounding of numbers of order 1."""


def test_monomials_are_all_products_up_to_degree_two_but_the_trace() -> None:
    directions = random_directions()
    x, y, z = directions.T
    expected = torch.stack([torch.ones_like(x), x, y, z, x * x - z * z, y * y - z * z, x * y, y * z, z * x])
    torch.testing.assert_close(monomials(directions.T), expected, rtol=0, atol=ROUNDING)
    assert len(expected) == N_MONOMIALS


def test_the_envelope_is_one_at_zero_and_flat_at_one() -> None:
    assert envelope(torch.tensor(0.0)) == 1
    assert envelope(torch.tensor(2.0)) == 0
    x = torch.tensor(1.0 - 1e-9, dtype=torch.float64, requires_grad=True)
    value = envelope(x)
    (slope,) = torch.autograd.grad(value, x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, x)
    # Cubic in the gap of 1e-9: value 56e-27, slope 168e-18, curvature 336e-9; the first two drown in rounding.
    assert abs(value) < 1e-13
    assert abs(slope) < 1e-12
    assert abs(curvature) < 1e-6


def test_bessel_functions_are_those_of_the_paper() -> None:
    distances = torch.tensor([0.5, 1.3, 4.9], dtype=torch.float64)
    found = bessel(distances, 5.0, 3)
    for k in range(3):
        for n, r in enumerate(distances.tolist()):
            x = r / 5
            smooth = 1 - 28 * x**6 + 48 * x**7 - 21 * x**8
            expected = math.sqrt(2 / 5) * math.sin((k + 1) * math.pi * x) / r * smooth
            assert found[k, n].item() == pytest.approx(expected, abs=ROUNDING)


# ---- pairs


@pytest.mark.parametrize("cutoff", [None, 5.0])
def test_pairs_are_those_of_the_same_molecule(cutoff: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if cutoff is not None:
        monkeypatch.setattr("physcon_ase.model.pairs.DENSE_SLOTS", 0)
    batch = pack(tiny_model(), [(ETHANOL_NUMBERS, ETHANOL), (WATER_NUMBERS, WATER)])
    pairs = make_pairs(batch, cutoff)
    assert (pairs.neighbours is None) == (cutoff is None)
    assert pairs.mask.sum(dim=(1, 2)).tolist() == [9 * 8, 3 * 2]
    places = torch.as_tensor(WATER)
    expected = torch.cdist(places, places)[~torch.eye(3, dtype=torch.bool)].sort().values
    found = pairs.distances[1][pairs.mask[1]].sort().values
    torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING)


def test_neighbours_beyond_the_cutoff_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("physcon_ase.model.pairs.DENSE_SLOTS", 0)
    places = torch.tensor([[0.0, 0, 0], [1, 0, 0], [9, 0, 0]], dtype=torch.float64).numpy()
    pairs = make_pairs(pack(tiny_model(), [(WATER_NUMBERS, places)]), 5.0)
    assert pairs.mask[0].tolist() == [[True], [True], [False]]
    assert pairs.neighbours is not None
    assert pairs.neighbours[0, :2].tolist() == [[1], [0]]
    assert torch.isfinite(pairs.distances).all()


def test_neighbours_are_rows_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("physcon_ase.model.pairs.DENSE_SLOTS", 0)
    batch = pack(tiny_model(), [(ETHANOL_NUMBERS, ETHANOL), (WATER_NUMBERS, WATER)])
    pairs = make_pairs(batch, 5.0)
    assert pairs.neighbours is not None
    assert pairs.neighbours[1, :3, :2].sort(dim=1).values.tolist() == [[10, 11], [9, 11], [9, 10]]
    others = of_neighbours(batch.positions, pairs.neighbours)
    expected = (others - batch.positions[:, :, None]).norm(dim=3)
    torch.testing.assert_close(pairs.distances[pairs.mask], expected[pairs.mask], rtol=0, atol=ROUNDING)


def test_what_neighbours_get_back_is_the_derivative_of_what_they_sent() -> None:
    generator = torch.Generator().manual_seed(0)
    neighbours = torch.randint(8, (2, 4, 3), generator=generator)
    features = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    received = of_neighbours(features, neighbours)
    assert torch.equal(received[1, 2, 0], features.flatten(0, 1)[neighbours[1, 2, 0]])
    grad = torch.randn(received.shape, generator=generator, dtype=torch.float64)
    (expected,) = torch.autograd.grad(received, features, grad)
    torch.testing.assert_close(sum_to_neighbours(grad, neighbours), expected, rtol=0, atol=ROUNDING)
