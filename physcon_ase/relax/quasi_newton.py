"""State and step acceptance of L-BFGS: a step is accepted only if the energy does not increase."""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from physcon_ase.batch import Batch
from physcon_ase.relax.constraints import Constraints, make_constraints, project, project_hessians
from physcon_ase.relax.state import MAX_STEP, ForceFn, Point, choose, evaluate, is_finite, largest_norm, shorten
from physcon_ase.valence.internals import Internals
from physcon_ase.valence.model_hessian import model_hessians

MEMORY: Final = 30
"""Number of past steps whose curvature is stored; more has no effect, 20 costs a few extra steps for soft molecules."""

LEAST_CURVATURE: Final = 0.2
"""Fraction of the expected curvature below which the measured curvature is damped (Powell)."""

_SHRINK: Final = 0.25
_GROW: Final = 2.0


@dataclass(frozen=True)
class QuasiNewtonState:
    """State of L-BFGS; the first axis of every tensor is the molecule."""

    batch: Batch
    """The molecules, at their start geometries."""
    internals: Internals
    """Stretches, bends and torsions of the model Hessian."""
    constraints: Constraints
    """Fixed atoms and dihedral angles."""
    point: Point
    """Last accepted geometry of each molecule."""
    lowest: Float[Tensor, " molecules"]
    """Lowest energy [eV] so far; reference for the acceptance of steps, so that increases within the noise do not
    accumulate."""
    moves: Float[Tensor, "molecules memory coordinates"]
    """Past steps [Å], the latest last; 0 for molecules that did not move."""
    gradient_changes: Float[Tensor, "molecules memory coordinates"]
    """Changes [eV/Å] of the gradient in these steps."""
    longest: Float[Tensor, " molecules"]
    """Trust radius: maximum displacement [Å] of an atom in the next step."""
    idle: Int[Tensor, " molecules"]
    """Number of steps since the energy last decreased."""
    last_was_finite: Bool[Tensor, " molecules"]
    """Whether the last evaluation was finite."""


def quasi_newton_init(
    force_fn: ForceFn, batch: Batch, internals: Internals, constraints: Constraints | None = None
) -> QuasiNewtonState:
    """State before the first step; evaluates the force function once."""
    constraints = make_constraints(batch) if constraints is None else constraints
    point = evaluate(force_fn, batch, batch.positions, constraints)
    none = torch.zeros(len(batch), 0, 3 * batch.positions.shape[1], dtype=torch.float64, device=batch.positions.device)
    return QuasiNewtonState(
        batch=batch,
        internals=internals,
        constraints=constraints,
        point=point,
        lowest=point.energies,
        moves=none,
        gradient_changes=none,
        longest=torch.full_like(point.energies, MAX_STEP),
        idle=torch.zeros_like(batch.charge),
        last_was_finite=is_finite(point),
    )


def try_move(
    state: QuasiNewtonState, force_fn: ForceFn, move: Float[Tensor, "molecules coordinates"]
) -> QuasiNewtonState:
    """Tries a step, shortened to the trust radius; it is rejected, and the radius reduced, if the energy increases.

    The measured curvature is stored in either case.
    """
    place = state.point.positions
    allowed = project(state.constraints, place, move.view_as(place))
    step = shorten(allowed, state.longest) * state.batch.atom_mask[:, :, None]
    new = evaluate(force_fn, state.batch, place + step, state.constraints)
    finite = is_finite(new)
    accepted = finite & (new.energies <= state.lowest + new.noise)
    tried = new.positions - place  # as restored and rounded to the dtype of the batch
    change = torch.where(finite[:, None, None], state.point.forces - new.forces, torch.zeros_like(tried))
    tried = torch.where(finite[:, None, None], tried, torch.zeros_like(tried))
    longest = torch.where(accepted, (_GROW * state.longest).clamp(max=MAX_STEP), _SHRINK * largest_norm(step))
    return QuasiNewtonState(
        batch=state.batch,
        internals=state.internals,
        constraints=state.constraints,
        point=choose(accepted, new, state.point),
        lowest=torch.where(accepted, torch.minimum(state.lowest, new.energies), state.lowest),
        moves=_remember(state.moves, tried),
        gradient_changes=_remember(state.gradient_changes, change),
        longest=longest,
        idle=torch.where(accepted & (new.energies < state.lowest), 0, state.idle + 1),
        last_was_finite=finite,
    )


def reference_hessians(state: QuasiNewtonState) -> Float[Tensor, "molecules coordinates coordinates"]:
    """Model Hessian [eV/Å²] at the current geometry, projected onto the unconstrained coordinates."""
    model = model_hessians(state.batch, state.point.positions, state.internals)
    return project_hessians(state.constraints, state.point.positions, model)


def damped(
    gradient_change: Float[Tensor, "*steps coordinates"],
    move: Float[Tensor, "*steps coordinates"],
    expected: Float[Tensor, "*steps coordinates"],
) -> Float[Tensor, "*steps coordinates"]:
    """Gradient change with Powell damping: mixed with the expected change to keep the curvature positive.

    Powell 1978, doi 10.1007/BFb0067703; `expected` is the Hessian before the update times the move.
    """
    measured_curvature = (move * gradient_change).sum(dim=-1)
    expected_curvature = (move * expected).sum(dim=-1)
    is_low = measured_curvature < LEAST_CURVATURE * expected_curvature
    difference = torch.where(is_low, expected_curvature - measured_curvature, 1)
    share = torch.where(is_low, (1 - LEAST_CURVATURE) * expected_curvature / difference, 1)[..., None]
    return share * gradient_change + (1 - share) * expected


def _remember(past: Float[Tensor, "molecules memory coordinates"], latest: Tensor) -> Tensor:
    return torch.cat([past, latest.flatten(start_dim=1)[:, None]], dim=1)[:, -MEMORY:]
