"""Labelled batches, the input of the loss functions."""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from physcon_ase import batch as packed
from physcon_ase.batch import Batch


@dataclass(frozen=True)
class LabelledBatch:
    """Batch of geometries with labels at one level of theory each; missing labels are NaN."""

    batch: Batch
    """The geometries."""
    level: Int[Tensor, " molecules"]
    """Level of theory of the labels, int64 index into the level names passed to the loader."""
    energy: Float64[Tensor, " molecules"]
    """Total energy [eV], NaN if absent; float64 because total energies have more than seven significant digits."""
    forces: Float[Tensor, "molecules slots 3"]
    """Forces [eV/Å]; NaN on the atoms if absent, 0 in empty slots."""
    is_minimum: Bool[Tensor, " molecules"]
    """Whether the geometry is a reference minimum for the structure task, of `level` or of another method."""
    weight: Float[Tensor, " molecules"]
    """Weight of the data set of the geometry."""
    charges: Float[Tensor, "molecules slots"]
    """Partial charges [e]; NaN on the atoms if absent, 0 in empty slots."""
    identity: Int[Tensor, " molecules"]
    """Index of the molecule, shared by its geometries in one data set, int64."""
    formal_charges: Int[Tensor, "molecules slots"] | None = None
    """Formal charges [e] of the graph, 0 in empty slots; None without graphs."""

    @property
    def has_energy(self) -> Bool[Tensor, " molecules"]:
        """Whether each geometry has an energy label."""
        return self.energy.isfinite()

    @property
    def has_forces(self) -> Bool[Tensor, " molecules"]:
        """Whether each geometry has force labels, including zero forces at minima."""
        return self.forces.isfinite().flatten(start_dim=1).all(dim=1)

    @property
    def has_charges(self) -> Bool[Tensor, " molecules"]:
        """Whether each geometry has partial charge labels."""
        return self.charges.isfinite().all(dim=1)

    def __len__(self) -> int:
        return len(self.batch)


def to(
    labelled: LabelledBatch, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> LabelledBatch:
    """Copy of the batch on another device; `dtype` applies to positions, forces, weights and charges."""
    tensors = {name: value.to(device=device) for name, value in _tensors(labelled).items()}
    for name in ("forces", "weight", "charges"):
        tensors[name] = tensors[name].to(dtype=dtype)
    return replace(labelled, batch=packed.to(labelled.batch, device=device, dtype=dtype), **tensors)


def select(labelled: LabelledBatch, molecules: Tensor) -> LabelledBatch:
    """Sub-batch of the selected samples (indices or boolean mask), in the same slots."""
    tensors = {name: value[molecules] for name, value in _tensors(labelled).items()}
    return replace(labelled, batch=packed.select(labelled.batch, molecules), **tensors)


def _tensors(labelled: LabelledBatch) -> dict[str, Tensor]:
    """The tensors of the batch by name, without those of the geometries."""
    values = {f.name: getattr(labelled, f.name) for f in fields(labelled) if f.name != "batch"}
    return {name: value for name, value in values.items() if value is not None}
