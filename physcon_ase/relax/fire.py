"""FIRE, the fast inertial relaxation engine: slow, and hard to upset.

Bitzek, Koskinen, Gähler, Moseler and Gumbsch 2006, doi 10.1103/PhysRevLett.97.170201, with the settings of ASE.
Everything is float64: products of small velocities underflow in float32.
"""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from physcon_ase.batch import Batch
from physcon_ase.relax.state import MAX_STEP, ForceFn, Point, choose, evaluate, is_finite, shorten
from physcon_ase.valence.internals import Internals

FIRST_TIME_STEP: Final = 0.1
"""Time step of the start; the unit of mass is such that force times time² is a length."""

LARGEST_TIME_STEP: Final = 1.0
"""Time step that is never exceeded."""

FIRST_MIXING: Final = 0.1
"""Share of the velocity that is turned into the direction of the force, after the start and after each stop."""

STEPS_BEFORE_GROWTH: Final = 5
"""Downhill steps before the time step grows."""

_GROW, _SHRINK, _MIXING_DECAY = 1.1, 0.5, 0.99


@dataclass(frozen=True)
class FireState:
    """Where FIRE stands; molecules come first in every tensor."""

    batch: Batch
    """The molecules; their positions are those of the start."""
    point: Point
    """Present geometry of each molecule."""
    velocities: Float[Tensor, "molecules slots 3"]
    """Velocities."""
    time_step: Float[Tensor, " molecules"]
    """Time step of each molecule."""
    mixing: Float[Tensor, " molecules"]
    """Share of the velocity turned into the direction of the force."""
    downhill: Int[Tensor, " molecules"]
    """Steps since the velocity last pointed uphill."""
    idle: Int[Tensor, " molecules"]
    """Steps in a row that ended where the force function returns no numbers."""
    last_was_finite: Bool[Tensor, " molecules"]
    """Whether the latest evaluation returned numbers."""


def fire_init(force_fn: ForceFn, batch: Batch, internals: Internals | None = None) -> FireState:
    """The state before the first step; evaluates the force function once. FIRE needs no internal coordinates."""
    point = evaluate(force_fn, batch, batch.positions)
    return FireState(
        batch=batch,
        point=point,
        velocities=torch.zeros_like(point.positions),
        time_step=torch.full_like(point.energies, FIRST_TIME_STEP),
        mixing=torch.full_like(point.energies, FIRST_MIXING),
        downhill=torch.zeros_like(batch.charge),
        idle=torch.zeros_like(batch.charge),
        last_was_finite=is_finite(point),
    )


def fire_step(state: FireState, force_fn: ForceFn) -> FireState:
    """One evaluation of the force function; the energy may rise for a while."""
    forces = state.point.forces
    goes_down = (forces * state.velocities).sum(dim=(1, 2)) >= 0
    # 1. time step and mixing: faster after a while of going down, stop and slower after going up
    faster = (_GROW * state.time_step).clamp(max=LARGEST_TIME_STEP)
    patient = goes_down & (state.downhill > STEPS_BEFORE_GROWTH)
    time_step = torch.where(patient, faster, torch.where(goes_down, state.time_step, _SHRINK * state.time_step))
    mixing = torch.where(patient, _MIXING_DECAY * state.mixing, torch.where(goes_down, state.mixing, FIRST_MIXING))
    # 2. velocities: turned towards the force, then accelerated
    share = state.mixing[:, None, None]
    turned = (1 - share) * state.velocities + share * _total_norm(state.velocities) * forces / _total_norm(forces)
    velocities = torch.where(goes_down[:, None, None], turned, 0) + time_step[:, None, None] * forces
    # 3. move
    step = shorten(time_step[:, None, None] * velocities, torch.full_like(time_step, MAX_STEP))
    new = evaluate(force_fn, state.batch, state.point.positions + step)
    finite = is_finite(new)
    return FireState(
        batch=state.batch,
        point=choose(finite, new, state.point),
        velocities=torch.where(finite[:, None, None], velocities, 0),
        time_step=torch.where(finite, time_step, _SHRINK * time_step),
        mixing=mixing,
        downhill=torch.where(goes_down & finite, state.downhill + 1, 0),
        idle=torch.where(finite, 0, state.idle + 1),
        last_was_finite=finite,
    )


def _total_norm(vectors: Float[Tensor, "molecules slots 3"]) -> Float[Tensor, "molecules 1 1"]:
    # the clamp keeps zero forces from dividing zero by zero
    return vectors.norm(dim=(1, 2), keepdim=True).clamp(min=1e-300)
