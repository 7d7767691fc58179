"""What every energy must obey, whatever the weights: both encoders, both ways to find pairs, both number formats."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from physcon_ase.batch import with_positions
from physcon_ase.model import pairs as pair_module
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import PhysCon
from physcon_ase.units import COVALENT_RADII
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, WATER, WATER_NUMBERS, evaluate, pack, tiny_model

FORCE_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8}
"""Forces [eV/Å] that physics says are equal; the former is a tenth of a tight optimisation threshold."""

ENERGY_TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-10}
"""Energies [eV] that physics says are equal: rounding of a sum of some hundred terms of order 1."""

GRADIENT_TOLERANCE = 1e-6
"""Force [eV/Å] against central differences of .001 Å with the fourth-order formula, float64."""

ethanol, water = (ETHANOL_NUMBERS, ETHANOL), (WATER_NUMBERS, WATER)


@pytest.fixture(params=[0, 4], ids=["scalar", "vector"])
def source_vectors(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(params=[40, 0], ids=["all-pairs", "neighbour-list"])
def _pairs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_module, "DENSE_SLOTS", request.param)


@pytest.fixture(params=[False, True], ids=["local", "charged"])
def charged(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def model(source_vectors: int, charged: bool, request: pytest.FixtureRequest, _pairs: None) -> PhysCon:
    return tiny_model(source_vectors, request.param, charged=charged, long_range=charged)


@pytest.fixture
def local(source_vectors: int, _pairs: None) -> PhysCon:
    """A model without charges and long-range energies, which knows nothing beyond the cutoff."""
    return tiny_model(source_vectors, torch.float64)


@pytest.fixture
def exact(source_vectors: int, charged: bool, _pairs: None) -> PhysCon:
    return tiny_model(source_vectors, torch.float64, charged=charged, long_range=charged)


def tolerances(model: PhysCon) -> tuple[float, float]:
    dtype = model.energy.embedding.weight.dtype
    return ENERGY_TOLERANCE[dtype], FORCE_TOLERANCE[dtype]


def assert_same(model: PhysCon, found: tuple, expected: tuple) -> None:
    energy_tolerance, force_tolerance = tolerances(model)
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=energy_tolerance)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=force_tolerance)


# ---- symmetry


def test_the_tiny_model_has_forces_worth_testing(model: PhysCon) -> None:
    assert 0.3 < np.abs(evaluate(model, ethanol)[1][0]).max() < 30


@pytest.mark.parametrize("mirror", [1, -1], ids=["rotation", "rotated reflection"])
def test_forces_turn_with_the_molecule(model: PhysCon, mirror: int) -> None:
    turn = mirror * Rotation.from_euler("xyz", [0.4, 1.1, -2.0]).as_matrix()
    energies, forces = evaluate(model, ethanol)
    assert_same(model, evaluate(model, (ETHANOL_NUMBERS, ETHANOL @ turn.T)), (energies, [forces[0] @ turn.T]))


def test_a_thousand_angstrom_away_nothing_changes(exact: PhysCon) -> None:
    # float32 has no digits left for the bonds there; the calculator centres first, see test_calculator.
    moved = ETHANOL + np.array([1000.0, -1000.0, 500.0])
    assert_same(exact, evaluate(exact, (ETHANOL_NUMBERS, moved)), evaluate(exact, ethanol))


def test_the_order_of_the_atoms_does_not_matter(model: PhysCon) -> None:
    order = np.random.default_rng(0).permutation(len(ETHANOL))
    energies, forces = evaluate(model, ethanol)
    permuted = evaluate(model, (ETHANOL_NUMBERS[order], ETHANOL[order]))
    assert_same(model, permuted, (energies, [forces[0][order]]))


# ---- batches


def test_empty_slots_change_nothing(model: PhysCon) -> None:
    assert_same(model, evaluate(model, ethanol, n_slots=23), evaluate(model, ethanol))


def test_empty_slots_have_neither_energy_nor_force(model: PhysCon) -> None:
    batch = pack(model, [ethanol], n_slots=12)
    _, forces = energies_and_forces(model.energy_fn("cheap"), batch)
    assert (model.evaluate(batch, "cheap").atomic_energies[0, 9:] == 0).all()
    assert (forces[0, 9:] == 0).all()


def test_a_batch_gives_what_its_molecules_give_alone(model: PhysCon) -> None:
    alone = [evaluate(model, molecule) for molecule in (ethanol, water)]
    expected = np.concatenate([energies for energies, _ in alone]), [forces[0] for _, forces in alone]
    assert_same(model, evaluate(model, ethanol, water), expected)


def test_molecules_of_a_batch_do_not_feel_each_other(model: PhysCon) -> None:
    before = evaluate(model, ethanol, water)
    after = evaluate(model, ethanol, (WATER_NUMBERS, 0.9 * WATER + 0.2))
    assert_same(model, (after[0][:1], after[1][:1]), (before[0][:1], before[1][:1]))
    assert abs(after[0][1] - before[0][1]) > 1e-3


def test_far_fragments_add_up(local: PhysCon) -> None:
    both = np.concatenate([ETHANOL_NUMBERS, WATER_NUMBERS]), np.concatenate([ETHANOL, WATER + 40.0])
    (first,), (second,) = evaluate(local, ethanol)[0], evaluate(local, water)[0]
    forces = np.concatenate([evaluate(local, ethanol)[1][0], evaluate(local, water)[1][0]])
    assert_same(local, evaluate(local, both), (np.array([first + second]), [forces]))


@pytest.mark.parametrize("source_vectors", [0, 4])
def test_both_ways_to_find_pairs_agree(source_vectors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(source_vectors)
    scattered = np.random.default_rng(1).normal(size=(41, 3)) * 4
    molecule = np.full(41, 6), scattered
    assert pair_module.DENSE_SLOTS < 41
    listed = evaluate(model, molecule)
    monkeypatch.setattr(pair_module, "DENSE_SLOTS", 41)
    assert_same(model, listed, evaluate(model, molecule))


# ---- derivatives


def test_forces_are_the_negative_gradient(exact: PhysCon) -> None:
    rng = np.random.default_rng(2)
    _, (forces,) = evaluate(exact, ethanol)
    for _ in range(4):
        direction = rng.normal(size=ETHANOL.shape)
        step = 1e-3

        def energy(k: int, direction: np.ndarray = direction, step: float = step) -> float:
            return evaluate(exact, (ETHANOL_NUMBERS, ETHANOL + k * step * direction))[0][0]

        slope = (8 * (energy(1) - energy(-1)) - (energy(2) - energy(-2))) / (12 * step)
        assert abs(slope + (forces * direction).sum()) < GRADIENT_TOLERANCE


def test_first_and_second_derivatives_pass_gradcheck(exact: PhysCon) -> None:
    # Two hydrogens so close that the core repulsion takes part.
    squeezed = np.array([[0.0, 0.0, 0.1], [0.1, 0.2, -0.3], [0.1, -0.2, -0.3]])
    batch = pack(exact, [(WATER_NUMBERS, squeezed)])

    def energy(positions: torch.Tensor) -> torch.Tensor:
        # the references are left out: their thousands of eV would hide differences of the rest
        moved = with_positions(batch, positions)
        return exact.energies(moved, "dft") - exact.references["dft"](moved).sum()

    positions = batch.positions.clone().requires_grad_()
    assert torch.autograd.gradcheck(energy, positions)
    assert torch.autograd.gradgradcheck(energy, positions)


def test_a_force_loss_trains_the_weights(exact: PhysCon) -> None:
    exact.requires_grad_(True)
    batch = pack(exact, [ethanol])
    weight = exact.energy.interactions[0].mix[1]

    def loss() -> torch.Tensor:
        return energies_and_forces(exact.energy_fn("cheap"), batch, create_graph=True)[1].square().sum()

    loss().backward()
    assert weight.grad is not None
    slope, step = weight.grad[0, 0].item(), 1e-5
    with torch.no_grad():
        weight[0, 0] += step
    higher = loss().item()
    with torch.no_grad():
        weight[0, 0] -= 2 * step
    assert (higher - loss().item()) / (2 * step) == pytest.approx(slope, rel=1e-5)


def test_energy_and_force_fade_out_at_the_cutoff(local: PhysCon) -> None:
    cutoff = local.config.encoder.cutoff

    def pair(distance: float) -> tuple[float, float]:
        energies, forces = evaluate(local, (np.array([6, 8]), np.array([[0.0, 0, 0], [distance, 0, 0]])))
        return energies[0], forces[0][0, 0]

    (beyond, no_force), (closer, force), (close, _) = pair(cutoff + 0.1), pair(cutoff - 0.2), pair(cutoff - 0.1)
    assert no_force == 0
    assert pair(cutoff)[0] == pytest.approx(beyond, abs=1e-12)
    assert abs(force) > 1e-9, "a pair without any interaction proves nothing"
    # Two continuous derivatives: the rest of the energy falls at least with the third power of the gap (factor 8).
    assert abs(closer - beyond) > 7 * abs(close - beyond)


# ---- small and broken


def test_a_lone_atom_has_a_finite_energy_and_no_force(model: PhysCon) -> None:
    energies, (force,) = evaluate(model, (np.array([1]), np.array([[0.3, 0.1, 2.0]])))
    assert np.isfinite(energies).all()
    assert (force == 0).all()


def test_h2_is_pulled_along_its_axis_only(model: PhysCon) -> None:
    energies, (forces,) = evaluate(model, (np.array([1, 1]), np.array([[0.0, 0, 0], [0, 0, 0.74]])))
    assert np.isfinite(energies).all()
    np.testing.assert_allclose(forces[0], -forces[1], atol=tolerances(model)[1])
    np.testing.assert_allclose(forces[:, :2], 0, atol=tolerances(model)[1])
    assert abs(forces[0, 2]) > 1e-3


@pytest.mark.parametrize("pair", [(1, 1), (1, 6), (6, 6), (6, 8), (17, 17)])
def test_atoms_cannot_fall_into_each_other(exact: PhysCon, pair: tuple[int, int]) -> None:
    covalent = COVALENT_RADII[pair[0]] + COVALENT_RADII[pair[1]]
    distances = covalent * np.linspace(0.1, 0.5, 9)
    molecules = [(np.array(pair), np.array([[0.0, 0, 0], [0, distance, 0]])) for distance in distances]
    energies, forces = evaluate(exact, *molecules)
    assert (np.diff(energies) < 0).all()
    assert all(force[1, 1] > 0 for force in forces)
