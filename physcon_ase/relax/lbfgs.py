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
    """Quasi-Newton step [Å] by the two-loop recursion; Nocedal 1980, doi 10.1090/S0025-5718-1980-0572855-7.

    Each loop is the solution of a triangular system for the coefficients of all past steps: with moves S and changes of
    the gradient Y as rows, D = diag(1 / s·y) and the strictly upper triangle U of S Yᵀ,

        (1 + D U) a = D S F,    r = H⁻¹ (F - Yᵀ a),    (1 + D Uᵀ) c = a - D Y r,    step = r + Sᵀ c.
    """
    metric, moves = reference_hessians(state), state.moves
    changes = damped(state.gradient_changes, moves, moves @ metric)
    products = moves @ changes.mT
    # molecules that did not move have zero curvature and do not contribute
    inverses = _safe_inverse(products.diagonal(dim1=1, dim2=2))[:, :, None]
    forces = state.point.forces.flatten(start_dim=1)[:, :, None]
    first = torch.linalg.solve_triangular(
        inverses * products, inverses * (moves @ forces), upper=True, unitriangular=True
    )
    direction = torch.cholesky_solve(forces - changes.mT @ first, torch.linalg.cholesky(metric))
    second = torch.linalg.solve_triangular(
        inverses * products.mT, first - inverses * (changes @ direction), upper=False, unitriangular=True
    )
    return (direction + moves.mT @ second)[:, :, 0]


def _safe_inverse(values: Tensor) -> Tensor:
    return torch.where(values > 0, 1 / torch.where(values > 0, values, 1), 0)
