"""A batch with its labels: what the loader hands to the losses."""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from physcon_ase import batch as packed
from physcon_ase.batch import Batch


@dataclass(frozen=True)
class LabelledBatch:
    """Geometries, each with its labels at one level of theory; an absent label is NaN, never zero."""

    batch: Batch
    """The geometries."""
    level: Int[Tensor, " molecules"]
    """Level of the labels, int64 index into the level names that the loader was given."""
    energy: Float64[Tensor, " molecules"]
    """Total energy [eV], NaN if absent; float64 because total energies need more than seven digits."""
    forces: Float[Tensor, "molecules slots 3"]
    """Forces [eV/Å]; NaN on the atoms if absent, 0 in empty slots."""
    is_minimum: Bool[Tensor, " molecules"]
    """Whether the geometry is a minimum that the structure task learns, of `level` or of another method."""
    weight: Float[Tensor, " molecules"]
    """Weight of the data set that the geometry comes from."""
    charges: Float[Tensor, "molecules slots"]
    """Partial charges [e]; NaN on the atoms if absent, 0 in empty slots."""

    @property
    def has_energy(self) -> Bool[Tensor, " molecules"]:
        """True where there is an energy label."""
        return self.energy.isfinite()

    @property
    def has_forces(self) -> Bool[Tensor, " molecules"]:
        """True where there are force labels; zero force at a minimum counts."""
        return self.forces.isfinite().flatten(start_dim=1).all(dim=1)

    @property
    def has_charges(self) -> Bool[Tensor, " molecules"]:
        """True where there are labels of partial charges."""
        return self.charges.isfinite().all(dim=1)

    def __len__(self) -> int:
        return len(self.batch)


def to(
    labelled: LabelledBatch, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> LabelledBatch:
    """The batch on another device; `dtype` is that of positions, forces and weights, energies stay float64."""
    tensors = {f.name: getattr(labelled, f.name) for f in fields(labelled) if f.name != "batch"}
    tensors = {name: value.to(device=device) for name, value in tensors.items()}
    for name in ("forces", "weight", "charges"):
        tensors[name] = tensors[name].to(dtype=dtype)
    return LabelledBatch(batch=packed.to(labelled.batch, device=device, dtype=dtype), **tensors)


def select(labelled: LabelledBatch, molecules: Tensor) -> LabelledBatch:
    """The samples with these indices (or where this mask is true), in the same slots."""
    tensors = {f.name: getattr(labelled, f.name)[molecules] for f in fields(labelled) if f.name != "batch"}
    return replace(labelled, batch=packed.select(labelled.batch, molecules), **tensors)
