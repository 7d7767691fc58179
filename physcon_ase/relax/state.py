"""Force function and evaluated geometries, shared by all optimisers."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final, TypeAlias, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from physcon_ase.batch import Batch, select, with_positions
from physcon_ase.relax.constraints import Constraints, project, restore

ForceFn: TypeAlias = Callable[[Batch], tuple[Float[Tensor, " molecules"], Float[Tensor, "molecules slots 3"]]]
"""Energies [eV] and forces [eV/Å] of the molecules of a batch; optimisers do not differentiate."""

ENERGY_NOISE: Final = 1e-5
"""Energy increase [eV] attributed to numerical noise, e.g. of a float32 model or the SCF threshold."""

MAX_STEP: Final = 0.2
"""Maximum displacement [Å] of an atom in one step."""

_EPSILONS_OF_NOISE: Final = 8
"""Rounding error of an energy in units of the machine epsilon of its dtype."""


@dataclass(frozen=True)
class Point:
    """Geometries with energies and forces, in float64 regardless of the dtype of the force function."""

    positions: Float[Tensor, "molecules slots 3"]
    """Exact positions [Å] at which the function was evaluated."""
    energies: Float[Tensor, " molecules"]
    """Energies [eV]."""
    forces: Float[Tensor, "molecules slots 3"]
    """Forces [eV/Å] without the components along constrained coordinates, 0 in empty slots."""
    noise: Float[Tensor, " molecules"]
    """Numerical noise [eV] of the energy."""


_Record = TypeVar("_Record")


def evaluate(
    force_fn: ForceFn, batch: Batch, positions: Float[Tensor, "molecules slots 3"], constraints: Constraints
) -> Point:
    """Energies and forces of the molecules of `batch` at the given positions.

    The constraints are restored before the positions are rounded to the dtype of the batch; the energy is NaN where
    this is not possible.
    """
    positions, are_restored = restore(constraints, positions.double())
    rounded = positions.to(batch.positions.dtype)
    energies, forces = force_fn(with_positions(batch, rounded))
    energies, forces = energies.detach(), forces.detach()
    # where instead of a product, because 0 * NaN = NaN in empty slots
    forces = torch.where(batch.atom_mask[:, :, None], forces, torch.zeros((), dtype=forces.dtype, device=forces.device))
    resolution = _EPSILONS_OF_NOISE * torch.finfo(energies.dtype).eps
    energies = torch.where(are_restored, energies.double(), torch.nan)
    forces = project(constraints, rounded.double(), forces.double())
    return Point(rounded.double(), energies, forces, ENERGY_NOISE + resolution * energies.abs())


def is_finite(point: Point) -> Bool[Tensor, " molecules"]:
    """Whether the energy and all forces of each molecule are finite."""
    return torch.isfinite(point.energies) & torch.isfinite(point.forces).all(dim=2).all(dim=1)


def largest_norm(vectors: Float[Tensor, "molecules slots 3"]) -> Float[Tensor, " molecules"]:
    """Largest norm of the vectors of each molecule."""
    return vectors.norm(dim=2).amax(dim=1)


def shorten(
    step: Float[Tensor, "molecules slots 3"], longest: Float[Tensor, " molecules"]
) -> Float[Tensor, "molecules slots 3"]:
    """Step scaled down such that no atom of molecule i is displaced by more than `longest[i]` [Å]."""
    # the clamp prevents division by zero for zero steps
    return step * (longest / largest_norm(step).clamp(min=1e-300)).clamp(max=1)[:, None, None]


def choose(accepted: Bool[Tensor, " molecules"], new: _Record, old: _Record) -> _Record:
    """Record with the values of `new` for accepted molecules and of `old` for the others; all fields are tensors."""
    chosen = {}
    for field in fields(new):  # pyright: ignore[reportArgumentType]
        value = getattr(new, field.name)
        condition = accepted.reshape(-1, *[1] * (value.dim() - 1))
        chosen[field.name] = torch.where(condition, value, getattr(old, field.name))
    return type(new)(**chosen)


def keep(state: _Record, molecules: Tensor) -> _Record:
    """State of the selected molecules (indices or boolean mask); fields are tensors or records."""
    kept = {}
    for field in fields(state):  # pyright: ignore[reportArgumentType]
        value = getattr(state, field.name)
        if isinstance(value, Tensor):
            kept[field.name] = value[molecules]
        else:
            kept[field.name] = select(value, molecules) if isinstance(value, Batch) else keep(value, molecules)
    return type(state)(**kept)
