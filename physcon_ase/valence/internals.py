"""Internal coordinates of a batch (bond lengths, bond angles, torsions) and their derivatives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from physcon_ase.batch import Batch
from physcon_ase.units import COVALENT_RADII, FALLBACK_RADIUS

BOND_STRETCH: Final = 1.3
"""Ratio of distance to the sum of covalent radii below which two atoms count as bonded."""

LINEAR_SINE: Final = 0.17
"""Sine of a bond angle (10° or 170°) below which the angle counts as linear: two bending modes and no torsions."""

_PADDING: Final = -1

_TINY: Final = 1e-6
"""Lower bound [Å] on lengths in denominators; gives 0 instead of NaN for coincident atoms."""


@dataclass(frozen=True)
class Internals:
    """Atom slots of all stretches, bends and torsions, padded with -1."""

    stretches: Int[Tensor, "molecules stretches 2"]
    """Bonded atom pairs."""
    bends: Int[Tensor, "molecules bends 3"]
    """Bond angles, the apex in the middle."""
    torsions: Int[Tensor, "molecules torsions 4"]
    """Chains of four bonded atoms."""


def make_internals(batch: Batch, bonds: Sequence[np.ndarray | None] | None = None) -> Internals:
    """All stretches, bends and torsions of the molecules.

    Args:
        batch: the molecules.
        bonds: `MolGraph.bonds` of each molecule, [bonds, 2]; where None, bonds are inferred from covalent radii at the
            positions of the batch.
    """
    bonded = guess_bonded(batch).cpu().numpy()
    for are_bonded, pairs in zip(bonded, bonds or [None] * len(batch), strict=True):
        if pairs is not None:
            first, second = pairs.T
            are_bonded[:] = False
            are_bonded[first, second] = are_bonded[second, first] = True
    chains = [_chains(are_bonded) for are_bonded in bonded]
    return Internals(*(_pad([row[kind] for row in chains], kind + 2, batch.positions.device) for kind in range(3)))


def covalent_radii() -> Float[Tensor, " elements"]:
    """Covalent radius [Å] indexed by atomic number, float64."""
    radii = torch.full((256,), FALLBACK_RADIUS, dtype=torch.float64)
    radii[list(COVALENT_RADII)] = torch.tensor(list(COVALENT_RADII.values()), dtype=torch.float64)
    return radii


def guess_bonded(batch: Batch) -> Bool[Tensor, "molecules slots slots"]:
    """Whether each pair of atoms is within bonding distance."""
    radii = covalent_radii().to(batch.positions.device)[batch.atomic_numbers]
    limits = BOND_STRETCH * (radii[:, :, None] + radii[:, None])
    are_atoms = batch.atom_mask[:, :, None] & batch.atom_mask[:, None]
    different = ~torch.eye(radii.shape[1], dtype=torch.bool, device=radii.device)
    return (distances(batch.positions.double()) < limits) & are_atoms & different


def are_connected(batch: Batch, internals: Internals) -> Bool[Tensor, " molecules"]:
    """Whether the bonds connect all atoms of each molecule."""
    n_molecules, n_slots = batch.atomic_numbers.shape
    molecule, bond = torch.nonzero(internals.stretches[:, :, 0] >= 0, as_tuple=True)
    first, second = internals.stretches[molecule, bond].T
    reach = torch.eye(n_slots, device=batch.positions.device).repeat(n_molecules, 1, 1)
    reach[molecule, first, second] = reach[molecule, second, first] = 1
    for _ in range(n_slots.bit_length()):  # each iteration doubles the path length
        reach = (reach @ reach).clamp(max=1)
    return ((reach[:, 0] > 0) | ~batch.atom_mask).all(dim=1)


def distances(positions: Float[Tensor, "molecules slots 3"]) -> Float[Tensor, "molecules slots slots"]:
    """Distances [Å] of all pairs of slots."""
    # explicit differences: the matrix product in cdist loses precision far from the origin
    return (positions[:, :, None] - positions[:, None]).norm(dim=-1)


def internal_values(
    positions: Float[Tensor, "molecules slots 3"], internals: Internals
) -> tuple[Float[Tensor, "molecules stretches"], Float[Tensor, "molecules bends"], Float[Tensor, "molecules torsions"]]:
    """Bond lengths [Å], bond angles [rad, 0 to π] and torsion angles [rad, -π to π]; values of padding are undefined.

    Differentiable except for coincident atoms; derivatives of angles and torsions diverge as three of the atoms become
    collinear.
    """
    lengths = _along(positions, internals.stretches, (0, 1)).square().sum(dim=-1).clamp(min=_TINY**2).sqrt()
    first, second = (_along(positions, internals.bends, (1, end)) for end in (0, 2))
    angles = _angle(torch.linalg.cross(first, second), (first * second).sum(dim=-1))
    before, axis, after = (_along(positions, internals.torsions, pair) for pair in ((0, 1), (1, 2), (2, 3)))
    left, right = torch.linalg.cross(before, axis), torch.linalg.cross(axis, after)
    sine = (before * right).sum(dim=-1) * axis.square().sum(dim=-1).clamp(min=_TINY**2).sqrt()
    return lengths, angles, torch.atan2(sine, _away_from_zero((left * right).sum(dim=-1)))


def stretch_vectors(
    positions: Float[Tensor, "molecules slots 3"], atoms: Int[Tensor, "molecules stretches 2"]
) -> Float[Tensor, "molecules stretches 2 3"]:
    """Derivatives of bond lengths [dimensionless] with respect to the positions of the two atoms."""
    direction, _ = _unit(_along(positions, atoms, (1, 0)))
    return torch.stack([direction, -direction], dim=2)


def bend_vectors(
    positions: Float[Tensor, "molecules slots 3"], atoms: Int[Tensor, "molecules bends 3"]
) -> tuple[Float[Tensor, "molecules bends 3 3"], Float[Tensor, "molecules bends 3 3"]]:
    """Derivatives of bond angles [rad/Å]: in-plane bend, and the perpendicular bend of linear angles (0 otherwise)."""
    first, first_length = _unit(_along(positions, atoms, (1, 0)))
    second, second_length = _unit(_along(positions, atoms, (1, 2)))
    normal, sine = _unit(torch.linalg.cross(first, second))
    is_linear = sine < LINEAR_SINE
    least = torch.nn.functional.one_hot(first.abs().argmin(dim=-1), 3).to(first.dtype)
    normal = torch.where(is_linear, _unit(torch.linalg.cross(first, least))[0], normal)

    def vectors(axis: Tensor) -> Tensor:
        ends = torch.linalg.cross(first, axis) / first_length, torch.linalg.cross(axis, second) / second_length
        return torch.stack([ends[0], -ends[0] - ends[1], ends[1]], dim=2)

    across = vectors(torch.linalg.cross(first, normal))
    return vectors(normal), across * is_linear[..., None]


def torsion_vectors(
    positions: Float[Tensor, "molecules slots 3"], atoms: Int[Tensor, "molecules torsions 4"]
) -> Float[Tensor, "molecules torsions 4 3"]:
    """Derivatives of torsion angles [rad/Å]; 0 if three of the atoms are collinear.

    Blondel and Karplus 1996, doi 10.1002/(SICI)1096-987X(19960715)17:9<1132::AID-JCC5>3.0.CO;2-T.
    """
    before, axis, after = (_along(positions, atoms, pair) for pair in ((0, 1), (1, 2), (2, 3)))
    length = axis.norm(dim=-1, keepdim=True).clamp(min=_TINY)
    left, right = torch.linalg.cross(before, axis), torch.linalg.cross(axis, after)
    left_square, right_square = (side.square().sum(dim=-1, keepdim=True) for side in (left, right))
    is_defined = (left_square > (LINEAR_SINE * before.norm(dim=-1, keepdim=True) * length) ** 2) & (
        right_square > (LINEAR_SINE * after.norm(dim=-1, keepdim=True) * length) ** 2
    )
    start = -length / left_square.clamp(min=_TINY) * left
    end = length / right_square.clamp(min=_TINY) * right
    start_share = (before * axis).sum(dim=-1, keepdim=True) / length**2
    end_share = (after * axis).sum(dim=-1, keepdim=True) / length**2
    inner = end_share * end - start_share * start
    vectors = torch.stack([start, inner - start, -inner - end, end], dim=2)
    return torch.where(is_defined[..., None], vectors, torch.zeros((), dtype=vectors.dtype, device=vectors.device))


def pick(values: Tensor, atoms: Int[Tensor, "molecules internals members"]) -> Tensor:
    """Gathers per-slot values [molecules, slots, ...] for the atoms of each internal coordinate.

    The result has shape [molecules, internals, members, ...].
    """
    molecule = torch.arange(len(values), device=values.device)[:, None, None]
    return values[molecule, atoms.clamp(min=0)]


def _along(positions: Tensor, atoms: Tensor, pair: tuple[int, int]) -> Tensor:
    """Vectors between two atoms of each internal coordinate."""
    ends = pick(positions, atoms[:, :, list(pair)])
    return ends[:, :, 1] - ends[:, :, 0]


def _angle(cross: Tensor, dot: Tensor) -> Tensor:
    return torch.atan2(cross.square().sum(dim=-1).clamp(min=_TINY**4).sqrt(), _away_from_zero(dot))


def _away_from_zero(values: Tensor) -> Tensor:
    """Values with 0 replaced by 1, so that angles of zero-length vectors are differentiable."""
    return torch.where(values == 0, torch.ones_like(values), values)


def _unit(vectors: Tensor) -> tuple[Tensor, Tensor]:
    lengths = vectors.norm(dim=-1, keepdim=True).clamp(min=_TINY)
    return vectors / lengths, lengths


def _chains(are_bonded: Bool[np.ndarray, "atoms atoms"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atom indices of the bonds [..., 2], angles [..., 3] and torsions [..., 4] of one molecule."""
    arrows = np.argwhere(are_bonded)  # each bond in both directions
    stretches = arrows[arrows[:, 0] < arrows[:, 1]]
    start, head = arrows[:, 0], arrows[:, 1]
    one, two = np.nonzero((head[:, None] == head) & (start[:, None] < start))
    bends = np.stack([start[one], head[one], start[two]], axis=1)
    # two directed bonds whose heads are bonded; ordering the heads avoids duplicates
    joined = are_bonded[head[:, None], head] & (head[:, None] < head)
    one, two = np.nonzero(joined & (start[:, None] != head) & (head[:, None] != start) & (start[:, None] != start))
    torsions = np.stack([start[one], head[one], head[two], start[two]], axis=1)
    return stretches, bends, torsions


def _pad(rows: Sequence[np.ndarray], n_members: int, device: torch.device) -> Int[Tensor, "molecules internals _"]:
    padded = np.full((len(rows), max(map(len, rows), default=0), n_members), _PADDING, dtype=np.int64)
    for molecule, row in enumerate(rows):
        padded[molecule, : len(row)] = row
    return torch.as_tensor(padded, device=device)
