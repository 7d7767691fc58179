"""Approximate Hessian of springs between all pairs of atoms, for Newton steps without bonds or a force field."""

from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from physcon_ase.batch import Batch
from physcon_ase.valence.internals import covalent_radii

_BOND_STIFFNESS: Final = 32.0
"""Spring [eV/Å²] between two atoms at the sum of their covalent radii."""

_DECAY: Final = 2.7
"""Decay of the springs with the distance in sums of covalent radii: 5, 0.5, 0.06 eV/Å² for 1-3, 1-4, 1-5 pairs."""

_SOFTEST: Final = 0.1
"""Smallest stiffness [eV/Å²] of any displacement of an atom."""


@torch.no_grad()
def spring_hessian(batch: Batch) -> Float[Tensor, "molecules coordinates coordinates"]:
    """Hessian [eV/Å²] of springs between all pairs of atoms, stiff for bonds and soft for far pairs, all at rest.

    k = 32 exp(-2.7 (x - 1)), x the distance in sums of covalent radii; the form is that of Packwood et al. 2016,
    doi 10.1063/1.4947024, and the constants are typical of valence force fields.
    """
    positions, mask = batch.positions, batch.atom_mask
    molecules, slots, _ = positions.shape
    radii = covalent_radii().to(positions)[batch.atomic_numbers]
    vectors = positions[:, :, None] - positions[:, None]
    is_pair = _pairs(mask)
    distances = torch.where(is_pair, vectors.norm(dim=3), 1.0)
    stiffness = _BOND_STIFFNESS * torch.exp(-_DECAY * (distances / (radii[:, :, None] + radii[:, None]) - 1))
    stiffness = torch.where(is_pair, stiffness.clamp(max=2 * _BOND_STIFFNESS), 0.0)
    units = vectors / distances[..., None]
    blocks = -stiffness[..., None, None] * units[..., :, None] * units[..., None, :]  # (molecules, i, j, 3, 3)
    own = -blocks.sum(dim=2) + _SOFTEST * torch.eye(3, dtype=positions.dtype, device=positions.device)
    index = torch.arange(slots, device=positions.device)
    blocks[:, index, index] = own
    return blocks.transpose(2, 3).reshape(molecules, 3 * slots, 3 * slots)


def _pairs(mask: Bool[Tensor, "molecules slots"]) -> Bool[Tensor, "molecules slots slots"]:
    both = mask[:, :, None] & mask[:, None, :]
    return both & ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
