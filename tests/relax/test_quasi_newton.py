from dataclasses import replace

import numpy as np
import torch

from physcon_ase.batch import make_batch
from physcon_ase.relax.fire import fire_init, fire_step
from physcon_ase.relax.lbfgs import lbfgs_init, lbfgs_step, two_loop_step
from physcon_ase.relax.quasi_newton import LEAST_CURVATURE, MEMORY, QuasiNewtonState, damped
from physcon_ase.relax.state import MAX_STEP, largest_norm, shorten
from physcon_ase.valence.internals import make_internals
from physcon_ase.valence.model_hessian import model_hessians
from tests.relax.potentials import (
    ETHANOL_NUMBERS,
    argon_batch,
    cluster,
    lennard_jones,
    pair_forces,
    rattled_ethanol,
    spring_forces,
)

ROUNDING = 1e-9
"""Of steps [Å]."""


def spring_state(n_steps: int) -> QuasiNewtonState:
    batch = make_batch([ETHANOL_NUMBERS] * 2, [rattled_ethanol(0), rattled_ethanol(1)], dtype=torch.float64)
    state = lbfgs_init(spring_forces, batch, make_internals(batch))
    for _ in range(n_steps):
        state = lbfgs_step(state, spring_forces)
    return state


def test_the_step_is_that_of_the_textbook_updates_of_the_model_hessian() -> None:
    state = spring_state(4)
    model = model_hessians(state.batch, state.point.positions, state.internals).numpy()
    for row in range(2):
        hessian = model[row]
        for s, y in zip(state.moves[row].numpy(), state.gradient_changes[row].numpy(), strict=True):
            assert s @ y > LEAST_CURVATURE * (s @ model[row] @ s)  # else the damping would act
            hessian = hessian + np.outer(y, y) / (s @ y) - np.outer(hessian @ s, hessian @ s) / (s @ hessian @ s)
        expected = np.linalg.solve(hessian, state.point.forces[row].flatten().numpy())
        np.testing.assert_allclose(two_loop_step(state)[row], expected, atol=ROUNDING)


def test_damped_curvature_is_a_fifth_of_the_expected_one() -> None:
    move, expected = torch.tensor([[1.0, 2.0], [1.0, 0.0]]), torch.tensor([[3.0, 1.0], [2.0, 0.0]])
    change = torch.tensor([[-4.0, 0.5], [1.0, 5.0]])
    result = damped(change, move, expected)
    torch.testing.assert_close((result * move).sum(dim=1), torch.tensor([LEAST_CURVATURE * 5.0, 1.0]))
    torch.testing.assert_close(result[1], change[1])


def test_memory_is_bounded() -> None:
    state = spring_state(2)
    many = state.moves[:, :1].repeat(1, MEMORY, 1)
    full = replace(state, moves=many, gradient_changes=many)
    assert lbfgs_step(full, spring_forces).moves.shape[1] == MEMORY


def test_no_atom_moves_farther_than_the_trust_radius() -> None:
    batch = argon_batch([cluster(5, seed=0, spacing=3.0)])
    state = lbfgs_init(pair_forces(lennard_jones), batch, make_internals(batch))
    after = lbfgs_step(state, pair_forces(lennard_jones))
    assert largest_norm(state.point.forces).item() > 10
    assert largest_norm(after.point.positions - batch.positions).item() <= MAX_STEP * (1 + 1e-12)


def test_refused_step_stays_and_shortens_the_next() -> None:
    batch = argon_batch([cluster(2, seed=0)])
    state = lbfgs_init(pair_forces(lambda distance: -lennard_jones(distance)), batch, make_internals(batch))
    after = lbfgs_step(state, pair_forces(lennard_jones))
    assert after.idle.item() == 1
    assert after.longest.item() < MAX_STEP
    assert torch.equal(after.point.positions, state.point.positions)


def test_zero_step_stays_zero() -> None:
    assert not shorten(torch.zeros(2, 3, 3, dtype=torch.float64), torch.ones(2, dtype=torch.float64)).any()


def test_fire_does_not_underflow_on_forces_whose_squares_are_zero_in_float32() -> None:
    faint = pair_forces(lambda distance: 1e-24 * (distance - 3.0) ** 2)
    batch = argon_batch([cluster(3, seed=0)], dtype=torch.float32)
    state = fire_init(faint, batch)
    for _ in range(20):
        state = fire_step(state, faint)
    assert torch.isfinite(state.point.positions).all()
    assert torch.isfinite(state.velocities).all()
    assert (state.velocities.norm(dim=(1, 2)) > 0).all()
