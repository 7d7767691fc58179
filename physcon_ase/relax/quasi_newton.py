"""What BFGS and L-BFGS share: the curvature met so far, and a step that is taken only if the energy does not rise."""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from physcon_ase.batch import Batch
from physcon_ase.relax.state import MAX_STEP, ForceFn, Point, choose, evaluate, is_finite, largest_norm, shorten
from physcon_ase.valence.internals import Internals

MEMORY: Final = 30
"""Number of past steps whose curvature is remembered: more changes nothing, 20 costs a few steps on soft molecules."""

LEAST_CURVATURE: Final = 0.2
"""Share of the expected curvature below which a measured one is not believed (Powell's damping)."""

_SHRINK: Final = 0.25
_GROW: Final = 2.0


@dataclass(frozen=True)
class QuasiNewtonState:
    """Where BFGS or L-BFGS stands; molecules come first in every tensor."""

    batch: Batch
    """The molecules; their positions are those of the start."""
    internals: Internals
    """Stretches, bends and torsions of the model Hessian."""
    point: Point
    """Latest geometry of each molecule that was accepted."""
    lowest: Float[Tensor, " molecules"]
    """Lowest energy [eV] so far; rises within the noise are measured from here, so that they do not add up."""
    moves: Float[Tensor, "molecules memory coordinates"]
    """Past steps [Å], the latest last; 0 means none."""
    gradient_changes: Float[Tensor, "molecules memory coordinates"]
    """Changes [eV/Å] of the gradient in these steps."""
    longest: Float[Tensor, " molecules"]
    """Trust radius: longest move [Å] of an atom in the next step."""
    idle: Int[Tensor, " molecules"]
    """Steps since the energy last fell; rises within the noise do not count as progress."""
    last_was_finite: Bool[Tensor, " molecules"]
    """Whether the latest evaluation returned numbers."""


def quasi_newton_init(force_fn: ForceFn, batch: Batch, internals: Internals) -> QuasiNewtonState:
    """The state before the first step; evaluates the force function once."""
    point = evaluate(force_fn, batch, batch.positions)
    none = torch.zeros(len(batch), 0, 3 * batch.positions.shape[1], dtype=torch.float64, device=batch.positions.device)
    return QuasiNewtonState(
        batch=batch,
        internals=internals,
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
    """Moves the molecules, cut to the trust radius; those whose energy rises stay, and will move less far.

    The curvature met on the way is remembered in either case.
    """
    step = shorten(move.view_as(state.point.positions), state.longest) * state.batch.atom_mask[:, :, None]
    new = evaluate(force_fn, state.batch, state.point.positions + step)
    finite = is_finite(new)
    accepted = finite & (new.energies <= state.lowest + new.noise)
    tried = new.positions - state.point.positions  # as rounded to the number format of the batch
    change = torch.where(finite[:, None, None], state.point.forces - new.forces, torch.zeros_like(tried))
    tried = torch.where(finite[:, None, None], tried, torch.zeros_like(tried))
    longest = torch.where(accepted, (_GROW * state.longest).clamp(max=MAX_STEP), _SHRINK * largest_norm(step))
    return QuasiNewtonState(
        batch=state.batch,
        internals=state.internals,
        point=choose(accepted, new, state.point),
        lowest=torch.where(accepted, torch.minimum(state.lowest, new.energies), state.lowest),
        moves=_remember(state.moves, tried),
        gradient_changes=_remember(state.gradient_changes, change),
        longest=longest,
        idle=torch.where(accepted & (new.energies < state.lowest), 0, state.idle + 1),
        last_was_finite=finite,
    )


def damped(
    gradient_change: Float[Tensor, "molecules coordinates"],
    move: Float[Tensor, "molecules coordinates"],
    expected: Float[Tensor, "molecules coordinates"],
) -> Float[Tensor, "molecules coordinates"]:
    """Mixes in as much of the expected change as keeps the curvature positive.

    Powell 1978, doi 10.1007/BFb0067703; `expected` is the Hessian before the update times the move.
    """
    measured_curvature = (move * gradient_change).sum(dim=1)
    expected_curvature = (move * expected).sum(dim=1)
    is_low = measured_curvature < LEAST_CURVATURE * expected_curvature
    difference = torch.where(is_low, expected_curvature - measured_curvature, 1)
    share = torch.where(is_low, (1 - LEAST_CURVATURE) * expected_curvature / difference, 1)[:, None]
    return share * gradient_change + (1 - share) * expected


def _remember(past: Float[Tensor, "molecules memory coordinates"], latest: Tensor) -> Tensor:
    return torch.cat([past, latest.flatten(start_dim=1)[:, None]], dim=1)[:, -MEMORY:]
