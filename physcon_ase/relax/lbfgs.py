"""L-BFGS preconditioned with the model Hessian, which is computed again at each geometry."""

import torch
from jaxtyping import Float
from torch import Tensor

from physcon_ase.relax.quasi_newton import QuasiNewtonState, damped, quasi_newton_init, reference_hessians, try_move
from physcon_ase.relax.state import ForceFn

lbfgs_init = quasi_newton_init


def lbfgs_step(state: QuasiNewtonState, force_fn: ForceFn) -> QuasiNewtonState:
    """Performs one step with one evaluation of the force function; see `relax.quasi_newton.try_move`."""
    return try_move(state, force_fn, two_loop_step(state))


def two_loop_step(state: QuasiNewtonState) -> Float[Tensor, "molecules coordinates"]:
    """Quasi-Newton step [Å] by the two-loop recursion; Nocedal 1980, doi 10.1090/S0025-5718-1980-0572855-7."""
    metric = reference_hessians(state)
    factor = torch.linalg.cholesky(metric)
    moves = state.moves.unbind(dim=1)
    changes = [
        damped(change, move, torch.einsum("mcd,md->mc", metric, move))
        for move, change in zip(moves, state.gradient_changes.unbind(dim=1), strict=True)
    ]
    # molecules that did not move have zero curvature and do not contribute
    inverses = [
        _safe_inverse((move * change).sum(dim=1, keepdim=True)) for move, change in zip(moves, changes, strict=True)
    ]
    direction = state.point.forces.flatten(start_dim=1)
    shares = []
    for move, change, inverse in zip(reversed(moves), reversed(changes), reversed(inverses), strict=True):
        shares.append(inverse * (move * direction).sum(dim=1, keepdim=True))
        direction = direction - shares[-1] * change
    direction = torch.cholesky_solve(direction[:, :, None], factor)[:, :, 0]
    for move, change, inverse in zip(moves, changes, inverses, strict=True):
        direction = direction + (shares.pop() - inverse * (change * direction).sum(dim=1, keepdim=True)) * move
    return direction


def _safe_inverse(values: Tensor) -> Tensor:
    return torch.where(values > 0, 1 / torch.where(values > 0, values, 1), 0)
