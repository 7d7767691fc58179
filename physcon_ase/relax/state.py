"""What all optimisers share: the function they minimise and the geometries where it was evaluated."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final, TypeAlias, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from physcon_ase.batch import Batch, select, with_positions

ForceFn: TypeAlias = Callable[[Batch], tuple[Float[Tensor, " molecules"], Float[Tensor, "molecules slots 3"]]]
"""Energies [eV] and forces [eV/Å] of the molecules of a batch; an optimiser never differentiates itself."""

ENERGY_NOISE: Final = 1e-5
"""Rise of the energy [eV] that is rounding, not a bad step: a float32 model or an SCF threshold reaches it."""

MAX_STEP: Final = 0.2
"""Longest move [Å] of an atom in one step, unless the optimiser has learnt that it can do better."""

_EPSILONS_OF_NOISE: Final = 8
"""Rounding of a returned energy in units of the spacing of its number format."""


@dataclass(frozen=True)
class Point:
    """Geometries with their energies and forces, in float64 whatever the force function computes in."""

    positions: Float[Tensor, "molecules slots 3"]
    """Positions [Å] at which the function was evaluated, to the last bit."""
    energies: Float[Tensor, " molecules"]
    """Energies [eV]."""
    forces: Float[Tensor, "molecules slots 3"]
    """Forces [eV/Å], 0 in empty slots."""
    noise: Float[Tensor, " molecules"]
    """Difference of energies [eV] that means nothing."""


_Record = TypeVar("_Record")


def evaluate(force_fn: ForceFn, batch: Batch, positions: Float[Tensor, "molecules slots 3"]) -> Point:
    """Energies and forces of the molecules of `batch` at other positions, rounded to the batch's number format."""
    rounded = positions.to(batch.positions.dtype)
    energies, forces = force_fn(with_positions(batch, rounded))
    energies, forces = energies.detach(), forces.detach()
    # where, not a product: 0 * NaN = NaN would carry what a model writes into empty slots
    forces = torch.where(batch.atom_mask[:, :, None], forces, torch.zeros((), dtype=forces.dtype, device=forces.device))
    resolution = _EPSILONS_OF_NOISE * torch.finfo(energies.dtype).eps
    energies = energies.double()
    return Point(rounded.double(), energies, forces.double(), ENERGY_NOISE + resolution * energies.abs())


def is_finite(point: Point) -> Bool[Tensor, " molecules"]:
    """Whether the energy and every force of a molecule are numbers."""
    return torch.isfinite(point.energies) & torch.isfinite(point.forces).all(dim=2).all(dim=1)


def largest_norm(vectors: Float[Tensor, "molecules slots 3"]) -> Float[Tensor, " molecules"]:
    """Largest norm of the vectors of a molecule."""
    return vectors.norm(dim=2).amax(dim=1)


def shorten(
    step: Float[Tensor, "molecules slots 3"], longest: Float[Tensor, " molecules"]
) -> Float[Tensor, "molecules slots 3"]:
    """The step scaled down so that no atom of molecule i moves farther than `longest[i]` [Å]."""
    # the clamp keeps a zero step from dividing zero by zero
    return step * (longest / largest_norm(step).clamp(min=1e-300)).clamp(max=1)[:, None, None]


def choose(accepted: Bool[Tensor, " molecules"], new: _Record, old: _Record) -> _Record:
    """The record `new` for the molecules that accepted it, `old` for the others; all fields are tensors."""
    chosen = {}
    for field in fields(new):  # pyright: ignore[reportArgumentType]
        value = getattr(new, field.name)
        condition = accepted.reshape(-1, *[1] * (value.dim() - 1))
        chosen[field.name] = torch.where(condition, value, getattr(old, field.name))
    return type(new)(**chosen)


def keep(state: _Record, molecules: Tensor) -> _Record:
    """The state of the molecules with these indices (or where this mask is true); fields are tensors or records."""
    kept = {}
    for field in fields(state):  # pyright: ignore[reportArgumentType]
        value = getattr(state, field.name)
        if isinstance(value, Tensor):
            kept[field.name] = value[molecules]
        else:
            kept[field.name] = select(value, molecules) if isinstance(value, Batch) else keep(value, molecules)
    return type(state)(**kept)
