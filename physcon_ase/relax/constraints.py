"""Fixed atoms and fixed dihedral angles, for all optimisers.

Forces and steps are projected onto the space orthogonal to the gradients of the constrained coordinates (rows of B),
P = 1 - Bᵀ(BBᵀ)⁺B; after each step, Newton iterations x ← x - Bᵀ(BBᵀ)⁺(q(x) - q₀) restore the angles exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from physcon_ase.batch import Batch
from physcon_ase.valence.internals import Internals, internal_values, torsion_vectors

RESTORED: Final = 1e-8
"""Deviation [rad] from a constrained dihedral angle that is left by the restoration in float64."""

_RESTORATIONS: Final = 30
"""Maximum number of Newton iterations of the restoration; two or three suffice after a step of an optimiser."""

_STIFFNESS: Final = 1.0
"""Eigenvalue [eV/Å²] of a projected Hessian in the constrained directions, along which no step is made."""


@dataclass(frozen=True)
class Constraints:
    """Constraints of the molecules of a batch; the first axis of every tensor is the molecule."""

    dihedrals: Int[Tensor, "molecules constraints 4"]
    """Atom slots of each fixed dihedral angle, padded with -1."""
    angles: Float[Tensor, "molecules constraints"]
    """Value [rad] of each fixed dihedral angle, float64."""
    is_free: Bool[Tensor, "molecules slots"]
    """Whether the atom of each slot may move; True in empty slots."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is constrained."""
        return self.dihedrals.shape[1] == 0 and bool(self.is_free.all())


def make_constraints(
    batch: Batch,
    dihedrals: Sequence[Sequence[tuple[Sequence[int], float]]] | None = None,
    fixed: Sequence[Sequence[int]] | None = None,
) -> Constraints:
    """Constraints of the molecules of a batch; none by default.

    Args:
        batch: the molecules.
        dihedrals: for each molecule, the four atoms and the value [rad] of each fixed dihedral angle.
        fixed: for each molecule, the atoms that do not move.
    """
    device, n_molecules = batch.positions.device, len(batch)
    dihedrals = [()] * n_molecules if dihedrals is None else dihedrals
    atoms = np.full((n_molecules, max(map(len, dihedrals), default=0), 4), -1, dtype=np.int64)
    angles = np.zeros(atoms.shape[:2])
    is_free = torch.ones_like(batch.atom_mask)
    for row, own in enumerate(dihedrals):
        for column, (members, angle) in enumerate(own):
            atoms[row, column], angles[row, column] = members, angle
    for row, own in enumerate(() if fixed is None else fixed):
        is_free[row, list(own)] = False
    return Constraints(torch.as_tensor(atoms, device=device), torch.as_tensor(angles, device=device), is_free)


def project(
    constraints: Constraints, positions: Float[Tensor, "molecules slots 3"], vectors: Float[Tensor, "molecules slots 3"]
) -> Float[Tensor, "molecules slots 3"]:
    """Components of forces or steps that leave fixed atoms and dihedral angles unchanged, to first order."""
    if constraints.is_empty:
        return vectors
    gradients, inverse = _gradients(constraints, positions)
    free = (vectors * constraints.is_free[:, :, None]).flatten(start_dim=1)
    slopes = torch.einsum("mqc,mc->mq", gradients, free)
    return (free - torch.einsum("mqc,mqp,mp->mc", gradients, inverse, slopes)).view_as(vectors)


def project_hessians(
    constraints: Constraints,
    positions: Float[Tensor, "molecules slots 3"],
    hessians: Float[Tensor, "molecules coordinates coordinates"],
) -> Float[Tensor, "molecules coordinates coordinates"]:
    """PHP + s(1 - P), positive definite if the Hessian H [eV/Å²] is; s is an arbitrary stiffness."""
    if constraints.is_empty:
        return hessians
    gradients, inverse = _gradients(constraints, positions)
    projector = torch.diag_embed(constraints.is_free.double().repeat_interleave(3, dim=1))
    projector = projector - gradients.mT @ inverse @ gradients
    unit = torch.eye(projector.shape[1], dtype=projector.dtype, device=projector.device)
    return projector @ hessians @ projector + _STIFFNESS * (unit - projector)


def restore(
    constraints: Constraints, positions: Float[Tensor, "molecules slots 3"]
) -> tuple[Float[Tensor, "molecules slots 3"], Bool[Tensor, " molecules"]]:
    """Nearby positions [Å] with the constrained dihedral angles, and whether they were found.

    Fixed atoms stay, and all atoms of a molecule for which none were found: angles cannot be restored if all their
    atoms are fixed or three of them are collinear.
    """
    if constraints.dihedrals.shape[1] == 0:
        return positions, torch.ones(len(positions), dtype=torch.bool, device=positions.device)
    start = positions
    for _ in range(_RESTORATIONS):
        deviations = _deviations(constraints, positions)
        if not (deviations.abs() > RESTORED).any():
            break
        gradients, inverse = _gradients(constraints, positions)
        positions = positions - torch.einsum("mqc,mqp,mp->mc", gradients, inverse, deviations).view_as(positions)
    are_restored = (_deviations(constraints, positions).abs() <= RESTORED).all(dim=1)
    return torch.where(are_restored[:, None, None], positions, start), are_restored


def _gradients(
    constraints: Constraints, positions: Float[Tensor, "molecules slots 3"]
) -> tuple[Float[Tensor, "molecules constraints coordinates"], Float[Tensor, "molecules constraints constraints"]]:
    """Gradients B [rad/Å] of the constrained angles with respect to free atoms, 0 for padding; and (BBᵀ)⁺ [Å²/rad²]."""
    n_molecules, n_constraints, _ = constraints.dihedrals.shape
    gradients = torch.zeros(n_molecules, n_constraints, *positions.shape[1:], dtype=torch.float64)
    gradients = gradients.to(positions.device)
    vectors = torsion_vectors(positions, constraints.dihedrals) * _are_real(constraints)[:, :, None, None]
    places = constraints.dihedrals.clamp(min=0)[..., None].expand_as(vectors)
    gradients = gradients.scatter_add(2, places, vectors) * constraints.is_free[:, None, :, None]
    gradients = gradients.flatten(start_dim=2).nan_to_num()  # a diverged restoration must not stop the others
    # the pseudo-inverse gives 0 for padding, and for angles that depend on the others or on fixed atoms only
    return gradients, torch.linalg.pinv(gradients @ gradients.mT, hermitian=True)


def _deviations(
    constraints: Constraints, positions: Float[Tensor, "molecules slots 3"]
) -> Float[Tensor, "molecules constraints"]:
    """Differences [rad, -π to π] of the constrained angles from their values; 0 for padding."""
    none = torch.zeros_like(constraints.dihedrals[:, :0])
    *_, angles = internal_values(positions, Internals(none[..., :2], none[..., :3], constraints.dihedrals))
    difference = angles - constraints.angles
    wrapped = torch.atan2(difference.sin(), difference.cos())
    return torch.where(_are_real(constraints), wrapped, 0)


def _are_real(constraints: Constraints) -> Bool[Tensor, "molecules constraints"]:
    return constraints.dihedrals[:, :, 0] >= 0
