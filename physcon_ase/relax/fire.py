"""FIRE, the fast inertial relaxation engine: slower than the quasi-Newton methods, but robust.

Bitzek, Koskinen, Gähler, Moseler and Gumbsch 2006, doi 10.1103/PhysRevLett.97.170201, with the parameters of ASE.
All computations are in float64, since products of small velocities underflow in float32.
"""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from physcon_ase.batch import Batch
from physcon_ase.relax.constraints import Constraints, make_constraints
from physcon_ase.relax.state import MAX_STEP, ForceFn, Point, choose, evaluate, is_finite, shorten
from physcon_ase.valence.internals import Internals

FIRST_TIME_STEP: Final = 0.1
"""Initial time step; with unit masses, force [eV/Å] times time² is a length [Å]."""

LARGEST_TIME_STEP: Final = 1.0
"""Maximum time step."""

FIRST_MIXING: Final = 0.1
"""Mixing parameter α at the start and after each uphill step."""

STEPS_BEFORE_GROWTH: Final = 5
"""Number of downhill steps before the time step grows."""

_GROW, _SHRINK, _MIXING_DECAY = 1.1, 0.5, 0.99


@dataclass(frozen=True)
class FireState:
    """State of FIRE; the first axis of every tensor is the molecule."""

    batch: Batch
    """The molecules, at their start geometries."""
    constraints: Constraints
    """Fixed atoms and dihedral angles."""
    point: Point
    """Current geometry of each molecule."""
    velocities: Float[Tensor, "molecules slots 3"]
    """Velocities."""
    time_step: Float[Tensor, " molecules"]
    """Time step of each molecule."""
    mixing: Float[Tensor, " molecules"]
    """Mixing parameter α: fraction of the velocity redirected along the force."""
    downhill: Int[Tensor, " molecules"]
    """Number of steps since the velocity last pointed uphill."""
    idle: Int[Tensor, " molecules"]
    """Number of successive steps with a non-finite energy or force."""
    last_was_finite: Bool[Tensor, " molecules"]
    """Whether the last evaluation was finite."""


def fire_init(
    force_fn: ForceFn, batch: Batch, internals: Internals | None = None, constraints: Constraints | None = None
) -> FireState:
    """State before the first step; evaluates the force function once. Internal coordinates are not used."""
    constraints = make_constraints(batch) if constraints is None else constraints
    point = evaluate(force_fn, batch, batch.positions, constraints)
    return FireState(
        batch=batch,
        constraints=constraints,
        point=point,
        velocities=torch.zeros_like(point.positions),
        time_step=torch.full_like(point.energies, FIRST_TIME_STEP),
        mixing=torch.full_like(point.energies, FIRST_MIXING),
        downhill=torch.zeros_like(batch.charge),
        idle=torch.zeros_like(batch.charge),
        last_was_finite=is_finite(point),
    )


def fire_step(state: FireState, force_fn: ForceFn) -> FireState:
    """Performs one step with one evaluation of the force function; the energy may increase temporarily."""
    forces = state.point.forces
    goes_down = (forces * state.velocities).sum(dim=(1, 2)) >= 0
    # 1. time step and mixing: accelerate after several downhill steps, stop and slow down after an uphill one
    faster = (_GROW * state.time_step).clamp(max=LARGEST_TIME_STEP)
    patient = goes_down & (state.downhill > STEPS_BEFORE_GROWTH)
    time_step = torch.where(patient, faster, torch.where(goes_down, state.time_step, _SHRINK * state.time_step))
    mixing = torch.where(patient, _MIXING_DECAY * state.mixing, torch.where(goes_down, state.mixing, FIRST_MIXING))
    # 2. velocities: mixed with the direction of the force, then accelerated
    share = state.mixing[:, None, None]
    turned = (1 - share) * state.velocities + share * _total_norm(state.velocities) * forces / _total_norm(forces)
    velocities = torch.where(goes_down[:, None, None], turned, 0) + time_step[:, None, None] * forces
    # 3. move
    step = shorten(time_step[:, None, None] * velocities, torch.full_like(time_step, MAX_STEP))
    new = evaluate(force_fn, state.batch, state.point.positions + step, state.constraints)
    finite = is_finite(new)
    return FireState(
        batch=state.batch,
        constraints=state.constraints,
        point=choose(finite, new, state.point),
        velocities=torch.where(finite[:, None, None], velocities, 0),
        time_step=torch.where(finite, time_step, _SHRINK * time_step),
        mixing=mixing,
        downhill=torch.where(goes_down & finite, state.downhill + 1, 0),
        idle=torch.where(finite, 0, state.idle + 1),
        last_was_finite=finite,
    )


def _total_norm(vectors: Float[Tensor, "molecules slots 3"]) -> Float[Tensor, "molecules 1 1"]:
    # the clamp prevents 0/0 for zero forces
    return vectors.norm(dim=(1, 2), keepdim=True).clamp(min=1e-300)
