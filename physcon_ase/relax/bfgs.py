"""BFGS with rational function steps on a model Hessian that follows the molecule.

The Hessian is rebuilt before each step: the model Hessian at the present geometry, then the BFGS updates of all steps
so far. That costs a few small matrix products and saves a twentieth to a sixth of the steps, because a model Hessian of
internal coordinates turns with the groups of the molecule, and a stored Cartesian one does not.
"""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from physcon_ase.relax.quasi_newton import QuasiNewtonState, damped, quasi_newton_init, try_move
from physcon_ase.relax.state import ForceFn
from physcon_ase.valence.model_hessian import model_hessians

SMALLEST_EIGENVALUE: Final = 1e-3
"""Curvature [eV/Å²] below which rounding may have spoilt an eigenvalue."""

_NEWTON_ITERATIONS: Final = 40
"""Enough for forces a million times the ones at convergence: each of the first iterations gains a factor of two."""

bfgs_init = quasi_newton_init


def bfgs_step(state: QuasiNewtonState, force_fn: ForceFn) -> QuasiNewtonState:
    """One evaluation of the force function; see `relax.quasi_newton.try_move`."""
    gradient = -state.point.forces.flatten(start_dim=1)
    return try_move(state, force_fn, rational_step(gradient, hessians(state)))


def hessians(state: QuasiNewtonState) -> Float[Tensor, "molecules coordinates coordinates"]:
    """Model Hessian [eV/Å²] at the present geometry, updated with the curvature met so far; positive definite."""
    start = model_hessians(state.batch, state.point.positions, state.internals)
    gains = losses = torch.zeros_like(state.moves[:, :0])
    # H = H_0 + Σ gain gainᵀ - Σ loss lossᵀ is multiplied out only once, at the end: outer products are memory-bound
    for move, change in zip(state.moves.unbind(dim=1), state.gradient_changes.unbind(dim=1), strict=True):
        column = move[:, :, None]
        expected = (start @ column + gains.mT @ (gains @ column) - losses.mT @ (losses @ column))[:, :, 0]
        gain, loss = _rank_two(move, change, expected)
        gains, losses = torch.cat([gains, gain[:, None]], dim=1), torch.cat([losses, loss[:, None]], dim=1)
    return start + gains.mT @ gains - losses.mT @ losses


def rational_step(
    gradient: Float[Tensor, "molecules coordinates"], hessian: Float[Tensor, "molecules coordinates coordinates"]
) -> Float[Tensor, "molecules coordinates"]:
    """Step [Å] of rational function optimisation, -(H - μ)⁻¹ g with the lowest μ that solves μ = -gᵀ(H - μ)⁻¹ g.

    Banerjee, Adams, Simons and Shepard 1985, doi 10.1021/j100247a015. H is positive definite, so μ < 0.
    """
    eigenvalues, modes = torch.linalg.eigh(hessian)
    eigenvalues = eigenvalues.clamp(min=SMALLEST_EIGENVALUE)
    slopes = torch.einsum("mcv,mc->mv", modes, gradient)
    shift = torch.zeros_like(slopes[:, :1])
    for _ in range(_NEWTON_ITERATIONS):  # f(μ) = μ + Σ g²/(λ - μ) is convex and rising: from μ = 0, no overshoot
        gaps = eigenvalues - shift
        value = shift + (slopes.square() / gaps).sum(dim=1, keepdim=True)
        shift = shift - value / (1 + (slopes / gaps).square().sum(dim=1, keepdim=True))
    return -torch.einsum("mcv,mv->mc", modes, slopes / (eigenvalues - shift))


def _rank_two(
    move: Float[Tensor, "molecules coordinates"],
    gradient_change: Float[Tensor, "molecules coordinates"],
    expected: Float[Tensor, "molecules coordinates"],
) -> tuple[Float[Tensor, "molecules coordinates"], Float[Tensor, "molecules coordinates"]]:
    """Vectors of the BFGS update H + gain gainᵀ - loss lossᵀ; 0 for a molecule with no move."""
    change = damped(gradient_change, move, expected)
    has_moved = (move != 0).any(dim=1, keepdim=True)
    gain = torch.where(has_moved, (move * change).sum(dim=1, keepdim=True), 1).sqrt()
    loss = torch.where(has_moved, (move * expected).sum(dim=1, keepdim=True), 1).sqrt()
    return torch.where(has_moved, change / gain, 0), torch.where(has_moved, expected / loss, 0)
