import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.lj import LennardJones
from ase.calculators.morse import MorsePotential
from ase.optimize import BFGS, FIRE, LBFGS
from torch import Tensor

from physcon_ase.batch import Batch, make_batch, with_positions
from physcon_ase.errors import PhysConError
from physcon_ase.relax.driver import EXPLODED_DISTANCE, RelaxStatus, relax
from physcon_ase.relax.state import ENERGY_NOISE
from tests.relax.potentials import (
    METHODS,
    SIGMA,
    argon_batch,
    cluster,
    lennard_jones,
    morse,
    pair_forces,
    rattled_ethanol,
    simplex,
    spring_forces,
)
from tests.tiny import ETHANOL, ETHANOL_BONDS, ETHANOL_NUMBERS

ENERGY_TOLERANCE = 1e-6
"""[eV]; the error of the energy at a residual force of 1e-4 eV/Å and a curvature of about 1 eV/Å² is 1e-8."""
TIGHT_FMAX = 1e-4
"""[eV/Å]."""
BATCH_TOLERANCE = 1e-8
"""Å and eV; rounding differs with the padding, and a relaxation amplifies it."""
FLOAT32_TOLERANCE = 1e-4
"""[eV]; float32 forces at fmax .001 eV/Å leave 1e-6, energies of -16 eV carry 2e-6 per operation."""

LJ_FORCES = pair_forces(lennard_jones)
MORSE_FORCES = pair_forces(morse)
LJ_7_MINIMUM = -16.505384
"""[eV] for a well of 1 eV: the pentagonal bipyramid of the Cambridge Cluster Database."""


def ethanol_batch(positions: list[np.ndarray], dtype: torch.dtype = torch.float64) -> Batch:
    return make_batch([ETHANOL_NUMBERS] * len(positions), positions, dtype=dtype)


def nan_where_charged(batch: Batch) -> tuple[Tensor, Tensor]:
    """Lennard-Jones, but a charged molecule has no energy."""
    energies, forces = LJ_FORCES(batch)
    charged = batch.charge != 0
    return torch.where(charged, torch.nan, energies), torch.where(charged[:, None, None], torch.nan, forces)


@pytest.mark.parametrize("method", METHODS)
def test_dimer_and_trimer_reach_their_minima(method: str) -> None:
    batch = argon_batch([cluster(2, seed=0), cluster(3, seed=1)])
    result = relax(LJ_FORCES, batch, method=method, fmax=TIGHT_FMAX)
    assert result.converged.all()
    np.testing.assert_allclose(result.energies, [-1, -3], atol=ENERGY_TOLERANCE)
    length = (result.positions[0, 0] - result.positions[0, 1]).norm().item()
    assert length == pytest.approx(2 ** (1 / 6) * SIGMA, abs=1e-4)  # curvature 5 eV/Å², force 1e-4 eV/Å


@pytest.mark.parametrize("method", METHODS)
def test_pentagonal_bipyramid_is_found_from_a_rattled_one(method: str) -> None:
    angles = 2 * np.pi * np.arange(5) / 5
    ring = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    start = 3.2 * np.concatenate([ring, [[0, 0, 0.55], [0, 0, -0.55]]])
    start += np.random.default_rng(0).normal(scale=0.1, size=start.shape)
    result = relax(LJ_FORCES, argon_batch([start]), method=method, fmax=TIGHT_FMAX)
    assert result.energies.item() == pytest.approx(LJ_7_MINIMUM, abs=ENERGY_TOLERANCE)


@pytest.mark.parametrize(("method", "optimizer"), [("lbfgs", LBFGS), ("fire", FIRE)])
@pytest.mark.parametrize("potential", ["lennard-jones", "morse"])
def test_minima_are_those_of_ase(method: str, optimizer: type, potential: str) -> None:
    # near the minimum: ASE's LBFGS tears clusters apart from farther out
    distance, force_fn = (3.8, LJ_FORCES) if potential == "lennard-jones" else (3.0, MORSE_FORCES)
    starts = [simplex(size, seed=size, distance=distance) for size in (2, 3, 4)]
    result = relax(force_fn, argon_batch(starts), method=method, fmax=TIGHT_FMAX)
    assert result.converged.all()
    for start, energy in zip(starts, result.energies.tolist(), strict=True):
        atoms = Atoms(f"Ar{len(start)}", start)
        if potential == "lennard-jones":
            atoms.calc = LennardJones(sigma=SIGMA, epsilon=1.0, rc=1000.0)
        else:
            atoms.calc = MorsePotential(epsilon=1.0, r0=3.0, rho0=6.0, rcut1=900.0, rcut2=1000.0)
        assert optimizer(atoms, logfile=None).run(fmax=TIGHT_FMAX, steps=1000)
        assert energy == pytest.approx(atoms.get_potential_energy(), abs=ENERGY_TOLERANCE)


@pytest.mark.parametrize("method", METHODS)
def test_springs_come_to_rest(method: str) -> None:
    result = relax(
        spring_forces,
        ethanol_batch([rattled_ethanol(0)]),
        method=method,
        fmax=TIGHT_FMAX,
        bonds=[ETHANOL_BONDS],
    )
    assert result.converged.all()
    assert result.energies.item() == pytest.approx(0, abs=ENERGY_TOLERANCE)
    first, second = np.triu_indices(9, k=1)
    lengths = (result.positions[0, first] - result.positions[0, second]).norm(dim=1).numpy()
    at_rest = np.linalg.norm(ETHANOL[first] - ETHANOL[second], axis=1)
    np.testing.assert_allclose(lengths, at_rest, atol=2e-3)  # the softest combination of springs has .1 eV/Å²


def test_model_hessian_saves_a_third_of_the_steps_of_ase() -> None:
    start = rattled_ethanol(1)

    class Springs(LennardJones):
        def calculate(self, atoms=None, properties=None, system_changes=()) -> None:
            energies, forces = spring_forces(ethanol_batch([atoms.positions]))
            self.results = {"energy": energies.item(), "forces": forces[0].numpy()}

    atoms = Atoms(ETHANOL_NUMBERS, start, calculator=Springs())
    ase = BFGS(atoms, logfile=None)
    assert ase.run(fmax=0.01)
    ours = relax(spring_forces, ethanol_batch([start]), fmax=0.01)
    assert 0 < ours.steps.item() <= 2 * ase.nsteps / 3


@pytest.mark.parametrize("method", METHODS)
def test_neighbours_in_the_batch_change_nothing(method: str) -> None:
    starts = [cluster(size, seed=size) for size in (2, 7, 3, 5)]
    together = relax(LJ_FORCES, argon_batch(starts), method=method)
    assert together.converged.all()
    for row, start in enumerate(starts):
        alone = relax(LJ_FORCES, argon_batch([start]), method=method)
        assert alone.steps.item() == together.steps[row].item()
        np.testing.assert_allclose(together.positions[row, : len(start)], alone.positions[0], atol=BATCH_TOLERANCE)
        np.testing.assert_allclose(together.energies[row], alone.energies[0], atol=BATCH_TOLERANCE)


@pytest.mark.parametrize("method", METHODS)
def test_molecule_without_energy_stops_nobody(method: str) -> None:
    starts = [cluster(3, seed=0), cluster(4, seed=1), cluster(2, seed=2)]
    numbers = [np.full(len(start), 18) for start in starts]
    broken = make_batch(numbers, starts, charges=[0, 1, 0], dtype=torch.float64)
    result = relax(nan_where_charged, broken, method=method)
    healthy = relax(LJ_FORCES, argon_batch([starts[0], starts[2]]), method=method)
    assert result.statuses[1] is RelaxStatus.NOT_FINITE
    assert result.steps[1] == 0
    np.testing.assert_array_equal(result.positions[1, :4], starts[1])
    np.testing.assert_allclose(result.energies[[0, 2]], healthy.energies, atol=BATCH_TOLERANCE)
    np.testing.assert_allclose(result.positions[0, :3], healthy.positions[0], atol=BATCH_TOLERANCE)
    assert result.converged.tolist() == [True, False, True]


@pytest.mark.parametrize("method", METHODS)
def test_nan_positions_become_a_status(method: str) -> None:
    starts = [cluster(3, seed=0), cluster(3, seed=1)]
    starts[0][1, 2] = np.nan
    result = relax(LJ_FORCES, argon_batch(starts), method=method)
    assert result.statuses == (RelaxStatus.NOT_FINITE, RelaxStatus.CONVERGED)


@pytest.mark.parametrize("method", METHODS)
def test_a_hole_in_the_energy_is_walked_around(method: str) -> None:
    """No energy where a Morse pair is shorter than its minimum by more than .05 Å: a bold first step lands there."""

    def with_hole(batch: Batch) -> tuple[Tensor, Tensor]:
        energies, forces = MORSE_FORCES(batch)
        calls.append((batch.positions[:, 0] - batch.positions[:, 1]).norm(dim=1).item())
        in_hole = torch.tensor([calls[-1] < 2.95])
        return torch.where(in_hole, torch.nan, energies), torch.where(in_hole[:, None, None], torch.nan, forces)

    calls: list[float] = []
    result = relax(with_hole, argon_batch([np.array([[0, 0, 0], [0, 0, 3.12]])]), method=method, fmax=TIGHT_FMAX)
    if method != "fire":  # its first steps are too short
        assert min(calls) < 2.95
    assert result.statuses == (RelaxStatus.CONVERGED,)
    assert result.energies.item() == pytest.approx(-1, abs=ENERGY_TOLERANCE)


@pytest.mark.parametrize("method", METHODS)
def test_converged_input_takes_no_step(method: str) -> None:
    start = np.array([[0, 0, 0], [0, 0, 2 ** (1 / 6) * SIGMA]])
    result = relax(LJ_FORCES, argon_batch([start]), method=method)
    assert result.steps.item() == 0
    assert result.statuses == (RelaxStatus.CONVERGED,)
    np.testing.assert_array_equal(result.positions[0], start)


@pytest.mark.parametrize("method", METHODS)
def test_one_atom_and_hydrogen(method: str) -> None:
    def stretch(batch: Batch) -> tuple[Tensor, Tensor]:
        energies, forces = pair_forces(lambda distance: 16 * (distance - 0.74) ** 2)(batch)
        return energies, forces

    numbers, positions = [np.array([6]), np.array([1, 1])], [np.zeros((1, 3)), np.array([[0, 0, 0], [0.9, 0, 0]])]
    result = relax(stretch, make_batch(numbers, positions, dtype=torch.float64), method=method)
    assert result.converged.all()
    assert result.steps[0] == 0
    assert (result.positions[1, 0] - result.positions[1, 1]).norm().item() == pytest.approx(0.74, abs=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_float32_batch_reaches_the_float64_minimum(method: str) -> None:
    starts = [cluster(3, seed=0), cluster(5, seed=3)]
    single = relax(LJ_FORCES, argon_batch(starts, dtype=torch.float32), method=method, fmax=1e-3)
    double = relax(LJ_FORCES, argon_batch(starts), method=method, fmax=1e-3)
    assert single.converged.all()
    assert single.positions.dtype == torch.float32
    assert single.energies.dtype == torch.float64
    np.testing.assert_allclose(single.energies, double.energies, atol=FLOAT32_TOLERANCE)


@pytest.mark.parametrize("method", METHODS)
def test_order_of_the_atoms_and_number_of_slots_do_not_matter(method: str) -> None:
    start, order = rattled_ethanol(3), np.random.default_rng(0).permutation(9)
    # the springs know the order of the atoms, so the permutation is undone for them
    undone = torch.as_tensor(np.argsort(order))

    def permuted_springs(batch: Batch) -> tuple[Tensor, Tensor]:
        energies, forces = spring_forces(ethanol_batch([batch.positions[0, undone].numpy()]))
        padded = torch.full_like(batch.positions, torch.nan)  # what is in empty slots must not matter
        padded[:, :9] = forces[:, order]
        return energies, padded

    plain = relax(spring_forces, ethanol_batch([start]), method=method)
    permuted_batch = make_batch([ETHANOL_NUMBERS[order]], [start[order]], n_slots=13, dtype=torch.float64)
    permuted = relax(permuted_springs, permuted_batch, method=method)
    assert permuted.steps.item() == plain.steps.item()
    np.testing.assert_allclose(permuted.positions[0, :9], plain.positions[0, order], atol=BATCH_TOLERANCE)
    assert not permuted.positions[0, 9:].any()


@pytest.mark.parametrize("method", METHODS)
def test_reported_forces_are_those_at_the_returned_positions(method: str) -> None:
    batch = argon_batch([cluster(5, seed=0), cluster(7, seed=1)])
    result = relax(LJ_FORCES, batch, method=method, max_steps=4)
    energies, forces = LJ_FORCES(with_positions(batch, result.positions))
    assert result.statuses == (RelaxStatus.STEP_LIMIT,) * 2
    assert result.steps.tolist() == [4, 4]
    np.testing.assert_array_equal(result.energies, energies)
    np.testing.assert_array_equal(result.forces, forces)
    np.testing.assert_array_equal(result.fmax, forces.norm(dim=2).amax(dim=1))


@pytest.mark.parametrize("method", METHODS)
def test_atom_that_flies_away_is_an_explosion_and_no_convergence(method: str) -> None:
    def repulsive(distance: Tensor) -> Tensor:
        return 20 * torch.exp(-distance)

    result = relax(pair_forces(repulsive), argon_batch([cluster(2, seed=0)]), method=method)
    assert result.statuses == (RelaxStatus.EXPLODED,)
    assert "better start geometry" in result.statuses[0]


def test_atoms_that_start_far_apart_have_not_exploded() -> None:
    start = np.array([[0, 0, 0], [0, 0, EXPLODED_DISTANCE + 1]])
    result = relax(LJ_FORCES, argon_batch([start]), max_steps=1000)
    assert result.statuses == (RelaxStatus.CONVERGED,)


def test_forces_that_point_uphill_stall() -> None:
    def uphill(batch: Batch) -> tuple[Tensor, Tensor]:
        energies, forces = LJ_FORCES(batch)
        return energies, -forces

    start = cluster(3, seed=0)
    result = relax(uphill, argon_batch([start]))
    assert result.statuses == (RelaxStatus.STALLED,)
    assert "try optimizer='fire', or for optimize_many method='fire'" in result.statuses[0]
    # rises within the noise do not add up
    assert result.energies.item() <= LJ_FORCES(argon_batch([start]))[0].item() + 2 * ENERGY_NOISE


def test_a_minimum_above_the_start_is_no_convergence() -> None:
    def climbing(batch: Batch) -> tuple[Tensor, Tensor]:
        """Forces that lead uphill and vanish one Å higher."""
        heights = batch.positions[:, 0, 0]
        forces = torch.zeros_like(batch.positions)
        forces[:, 0, 0] = (1 - heights).clamp(min=0)
        return heights.double(), forces

    batch = make_batch([[18]], [[[0.0, 0.0, 0.0]]], dtype=torch.float64)
    result = relax(climbing, batch, method="fire")
    assert result.statuses == (RelaxStatus.ABOVE_START,)
    assert not result.converged.any()


@pytest.mark.parametrize("method", METHODS)
def test_converged_molecules_leave_the_batch(method: str) -> None:
    def counting(batch: Batch) -> tuple[Tensor, Tensor]:
        sizes.append(len(batch))
        return LJ_FORCES(batch)

    sizes: list[int] = []
    starts = [cluster(2, seed=0), np.array([[0, 0, 0], [0, 0, 2 ** (1 / 6) * SIGMA]]), cluster(6, seed=1)]
    result = relax(counting, argon_batch(starts), method=method)
    assert sum(sizes) == len(starts) + result.steps.sum().item()
    assert sizes[0] == 3
    assert sizes[-1] == 1


@pytest.mark.parametrize("method", METHODS)
def test_trajectory_runs_from_the_start_to_the_returned_positions(method: str) -> None:
    starts = [cluster(4, seed=0), cluster(2, seed=1)]
    result = relax(LJ_FORCES, argon_batch(starts), method=method, history=True)
    assert result.trajectories is not None
    for row, (start, trajectory) in enumerate(zip(starts, result.trajectories, strict=True)):
        assert len(trajectory.energies) == result.steps[row].item() + 1
        np.testing.assert_array_equal(trajectory.positions[0], start)
        np.testing.assert_array_equal(trajectory.positions[-1], result.positions[row, : len(start)])
        assert trajectory.fmax[-1] == result.fmax[row].item()
        if method != "fire":
            assert np.diff(trajectory.energies).max() <= 2 * ENERGY_NOISE


def test_batch_of_the_caller_is_left_alone() -> None:
    batch = argon_batch([cluster(3, seed=0)])
    before = batch.positions.clone()
    result = relax(LJ_FORCES, batch)
    assert not torch.equal(result.positions, before)
    assert torch.equal(batch.positions, before)


def test_empty_batch_gives_an_empty_result() -> None:
    result = relax(LJ_FORCES, make_batch([], [], dtype=torch.float64))
    assert result.statuses == ()
    assert len(result.converged) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "newton"}, r"'newton': choose one of lbfgs, fire"),
        ({"fmax": 0.0}, r"larger than 0 eV/Å, received 0.0"),
        ({"fmax": float("nan")}, r"received nan"),
        ({"max_steps": -1}, r"0 or more, received -1"),
        ({"bonds": [np.array([[0, 3]])]}, r"molecule 0 has 3 atoms, but a bond to atom 3"),
        ({"bonds": [None, None]}, r"bonds of 2 molecules for a batch of 1"),
    ],
)
def test_senseless_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(PhysConError, match=message):
        relax(LJ_FORCES, argon_batch([cluster(3, seed=0)]), **settings)
