"""A valence force field's Hessian: what stretches, bends and torsions cost before anything was computed."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from physcon_ase.units import COVALENT_RADII

SPRINGS: Final = (32.0, 6.0, 0.35, 0.08)
"""Force constants [eV/Å²] between atoms 1, 2, 3 and 4 bonds apart, along the line that joins them."""

UNIT_TERM: Final = 0.5
"""Force constant [eV/Å²] that holds each atom in its place, so that the Hessian is positive definite."""

FALLBACK_RADIUS: Final = 1.2
"""Covalent radius [Å] of an element that `units.COVALENT_RADII` does not list."""

BOND_STRETCH: Final = 1.3
"""Two atoms closer than this multiple of the sum of their covalent radii count as bonded."""


def model_hessian(
    positions: Float[np.ndarray, "atoms 3"], bonds_apart: Float[np.ndarray, "atoms atoms"]
) -> Float[np.ndarray, "coordinates coordinates"]:
    """Model Hessian [eV/Å²] of one molecule, for instance as `H0` of `ase.optimize.BFGS`.

    Args:
        positions: [Å].
        bonds_apart: number of bonds between two atoms, as from `chem.graph.topological_distances`.
    """
    batched = torch.as_tensor(positions)[None], torch.as_tensor(bonds_apart)[None]
    return model_hessians(*batched)[0].numpy()


def model_hessians(
    positions: Float[Tensor, "molecules slots 3"], bonds_apart: Float[Tensor, "molecules slots slots"]
) -> Float[Tensor, "molecules coordinates coordinates"]:
    """Model Hessians [eV/Å²] in float64, coordinates ordered x, y, z of slot 0, then of slot 1.

    H = u 1 + Σ_pairs k(bonds apart) (e_i - e_j)(e_i - e_j)ᵀ ⊗ n nᵀ, with n the direction from j to i: harmonic springs
    at their rest lengths. An empty slot is bonds_apart = inf from all others and keeps only the unit term.
    """
    n_molecules, n_slots, _ = positions.shape
    positions = positions.double()
    stiffness = torch.zeros_like(bonds_apart, dtype=torch.float64)
    for n_bonds, spring in enumerate(SPRINGS, start=1):
        stiffness[bonds_apart == n_bonds] = spring
    arrows = positions[:, :, None] - positions[:, None]
    # atoms on top of each other have no direction and get no spring, instead of NaN
    directions = arrows / arrows.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    blocks = -torch.einsum("mij,mijx,mijy->mixjy", stiffness, directions, directions)
    onsite = UNIT_TERM * torch.eye(3, dtype=torch.float64, device=positions.device) - blocks.sum(dim=3)
    slot = torch.arange(n_slots, device=positions.device)
    blocks[:, slot, :, slot, :] = onsite.transpose(0, 1)
    return blocks.reshape(n_molecules, 3 * n_slots, 3 * n_slots)


def pad_bonds_apart(
    bonds_apart: Sequence[Float[np.ndarray, "_ _"]], n_slots: int, device: torch.device | str = "cpu"
) -> Float[Tensor, "molecules slots slots"]:
    """The `topological_distances` of several molecules in one tensor, inf in empty slots."""
    padded = np.full((len(bonds_apart), n_slots, n_slots), np.inf)
    for row, distances in enumerate(bonds_apart):
        padded[row, : len(distances), : len(distances)] = distances
    return torch.as_tensor(padded, device=device)


def bonds_apart_from_positions(
    atomic_numbers: Int[Tensor, "molecules slots"], positions: Float[Tensor, "molecules slots 3"]
) -> Float[Tensor, "molecules slots slots"]:
    """Number of bonds between atoms, where bonds are guessed from covalent radii; inf beyond the reach of a spring."""
    step = _are_bonded(atomic_numbers, positions).double()
    apart = torch.full_like(step, torch.inf)
    diagonal = torch.arange(step.shape[1], device=step.device)
    apart[:, diagonal, diagonal] = 0
    reached = step
    for n_bonds in range(1, len(SPRINGS) + 1):
        apart = torch.where((reached > 0) & torch.isinf(apart), float(n_bonds), apart)
        reached = reached @ step
    return apart


def _are_bonded(
    atomic_numbers: Int[Tensor, "molecules slots"], positions: Float[Tensor, "molecules slots 3"]
) -> Bool[Tensor, "molecules slots slots"]:
    table = torch.full((256,), FALLBACK_RADIUS, dtype=torch.float64, device=positions.device)
    table[list(COVALENT_RADII)] = torch.tensor(list(COVALENT_RADII.values()), dtype=table.dtype, device=table.device)
    radii = table[atomic_numbers]
    positions = positions.double()
    # explicit differences: the matrix product inside cdist loses bonds 1000 Å from the origin
    distances = (positions[:, :, None] - positions[:, None]).norm(dim=-1)
    is_atom = atomic_numbers > 0
    are_atoms = is_atom[:, :, None] & is_atom[:, None]
    different = ~torch.eye(positions.shape[1], dtype=torch.bool, device=positions.device)
    return (distances < BOND_STRETCH * (radii[:, :, None] + radii[:, None])) & are_atoms & different
