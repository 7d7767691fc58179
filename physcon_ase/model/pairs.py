"""Pairs of atoms, and the functions of distance and direction that are summed over the neighbours of an atom."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from physcon_ase.batch import Batch

N_MONOMIALS: Final = 9
"""1, x, y, z, xx - zz, yy - zz, xy, yz, zx; xx + yy + zz is 1 for unit vectors and therefore omitted."""

DENSE_SLOTS: Final = 40
"""Number of slots up to which all pairs are used; larger batches use a neighbour list."""

MATRIX_SLOTS: Final = 300
"""Number of slots up to which neighbour lists and long-range terms use matrices of all distances; larger batches use a
cell list, and memory grows linearly."""


@dataclass(frozen=True)
class Pairs:
    """Ordered pairs (i, j) of atoms of the same molecule, padded to the same number per atom i."""

    unit_vectors: Float[Tensor, "molecules slots 3 neighbours"]
    """(r_j - r_i) / |r_j - r_i|; arbitrary but finite where `mask` is False."""
    distances: Float[Tensor, "molecules slots neighbours"]
    """|r_j - r_i| [Å]; 1 where `mask` is False."""
    mask: Bool[Tensor, "molecules slots neighbours"]
    """False for padding and for i = j."""
    neighbours: Int[Tensor, "molecules slots neighbours"] | None
    """Atom j as a row of all slots of the batch, molecules * slots; None if neighbour k is slot k."""


def make_pairs(batch: Batch, cutoff: float | None) -> Pairs:
    """All pairs of a batch of small molecules, or the pairs within the cutoff [Å] of one with larger ones."""
    if cutoff is None or not searches_neighbours(batch):
        return pairs_of(batch)
    return pairs_of(batch, *find_neighbours(batch, cutoff))


def searches_neighbours(batch: Batch) -> bool:
    """Whether the molecules of a batch are large enough for a neighbour list."""
    return batch.positions.shape[1] > DENSE_SLOTS


def find_neighbours(
    batch: Batch, cutoff: float
) -> tuple[Int[Tensor, "molecules slots neighbours"], Bool[Tensor, "molecules slots neighbours"]]:
    """Neighbours of each atom within the cutoff [Å], and which of them are real; see `Pairs`."""
    find = _neighbours_within if keeps_matrices(batch) else _listed_neighbours
    return find(batch.positions.detach(), batch.atom_mask, cutoff)


def pairs_of(
    batch: Batch,
    neighbours: Int[Tensor, "molecules slots neighbours"] | None = None,
    mask: Bool[Tensor, "molecules slots neighbours"] | None = None,
) -> Pairs:
    """Pairs of each atom with its neighbours as from `find_neighbours`, or with all other atoms."""
    positions = batch.positions
    if neighbours is None or mask is None:
        mask = _all_but_self(batch.atom_mask)
        others = positions[:, None].transpose(2, 3)  # (molecules, 1, 3, slots)
    else:
        others = of_neighbours(positions, neighbours).transpose(2, 3)
    vectors = others - positions[..., None]
    squared = vectors.square().sum(dim=2)
    # Padding is excluded from sqrt and division, whose derivatives at 0 are NaN even where the result is masked.
    distances = torch.where(mask, squared, 1.0).sqrt()
    return Pairs(vectors / distances[:, :, None], distances, mask, neighbours)


def keeps_matrices(batch: Batch) -> bool:
    """Whether a batch is small enough for matrices of all pairs in memory."""
    return batch.positions.shape[1] <= MATRIX_SLOTS


def of_neighbours(
    features: Float[Tensor, "molecules slots *features"], neighbours: Int[Tensor, "molecules slots neighbours"]
) -> Float[Tensor, "molecules slots neighbours *features"]:
    """The features of each neighbour; `neighbours` as in `Pairs`."""
    # index_select copies rows; gather copies single numbers and is ten times slower.
    rows = features.flatten(0, 1).index_select(0, neighbours.flatten())
    return rows.view(*neighbours.shape, *features.shape[2:])


def sum_to_neighbours(
    values: Float[Tensor, "molecules slots neighbours features"], neighbours: Int[Tensor, "molecules slots neighbours"]
) -> Float[Tensor, "molecules slots features"]:
    """Sum of the values that refer to each atom as a neighbour: the derivative of `of_neighbours`."""
    sums = values.new_zeros(neighbours.shape[0] * neighbours.shape[1], values.shape[-1])
    return sums.index_add(0, neighbours.flatten(), values.flatten(0, 2)).view(*neighbours.shape[:2], -1)


def _all_but_self(atoms: Bool[Tensor, "molecules slots"]) -> Bool[Tensor, "molecules slots slots"]:
    identity = torch.eye(atoms.shape[1], dtype=torch.bool, device=atoms.device)
    return atoms[:, :, None] & atoms[:, None, :] & ~identity


def _neighbours_within(positions: Tensor, atoms: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """Rows of the neighbours of each atom within the cutoff, padded, and which of them are real."""
    near = _all_but_self(atoms) & (
        torch.cdist(positions, positions, compute_mode="donot_use_mm_for_euclid_dist") < cutoff
    )
    width = max(int(near.sum(dim=2).max()), 1)
    order = near.to(torch.int8).argsort(dim=2, descending=True, stable=True)[:, :, :width]
    molecules, slots = order.shape[:2]
    first_slots = slots * torch.arange(molecules, device=order.device)[:, None, None]
    return order + first_slots, near.gather(2, order)


def _listed_neighbours(positions: Tensor, atoms: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """`_neighbours_within` by a cell list, in linear time; neighbours at the cutoff itself may be among them."""
    from vesin import NeighborList

    molecules, slots = atoms.shape
    search = NeighborList(cutoff=cutoff, full_list=True)
    found = []
    for place, mask in zip(positions.cpu().double().numpy(), atoms.cpu().numpy(), strict=True):
        own = np.flatnonzero(mask)
        first, second = search.compute(points=place[own], box=np.zeros((3, 3)), periodic=False, quantities="ij")
        order = np.argsort(first, kind="stable")
        found.append((own[first[order]], own[second[order]]))
    width = max([1, *(int(np.bincount(first).max()) for first, _ in found if len(first))])
    rows, near = np.zeros((molecules, slots, width), dtype=np.int64), np.zeros((molecules, slots, width), dtype=bool)
    for molecule, (first, second) in enumerate(found):
        counts = np.bincount(first, minlength=slots)
        column = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows[molecule, first, column] = second
        near[molecule, first, column] = True
        rows[molecule] += molecule * slots
    return torch.from_numpy(rows).to(atoms.device), torch.from_numpy(near).to(atoms.device)


def monomials(unit_vectors: Float[Tensor, "... 3 neighbours"]) -> Float[Tensor, "... 9 neighbours"]:
    """The `N_MONOMIALS` monomials, and differences of them, in the components of each vector."""
    u = unit_vectors
    squares = u * u
    differences = squares[..., :2, :] - squares[..., 2:, :]
    return torch.cat([torch.ones_like(u[..., :1, :]), u, differences, u * u.roll(-1, dims=-2)], dim=-2)


def bessel(distances: Tensor, cutoff: float, n_radial: int) -> Float[Tensor, "... radial neighbours"]:
    """Radial functions sqrt(2/c) sin(kπr/c)/r that vanish with two derivatives at the cutoff c [Å].

    Gasteiger, Groß and Günnemann, ICLR 2020, doi 10.48550/arXiv.2003.03123, eqs. 7 and 8 (p = 6).
    """
    r = distances[..., None, :]
    order = torch.arange(1, n_radial + 1, dtype=r.dtype, device=r.device)[:, None]
    return torch.sin(order * (math.pi / cutoff * r)) * (math.sqrt(2 / cutoff) * envelope(r / cutoff) / r)


def envelope(x: Tensor) -> Tensor:
    """Polynomial 1 - 28 x⁶ + 48 x⁷ - 21 x⁸ for x < 1, else 0: two continuous derivatives at 1."""
    x = x.clamp(max=1.0)
    x3 = x * x * x
    return 1 + x3 * x3 * (x * (48 - 21 * x) - 28)


def bessel_and_slope(distances: Tensor, cutoff: float, n_radial: int) -> tuple[Tensor, Tensor]:
    """`bessel` and its derivative with respect to the distance."""
    r = distances[..., None, :]
    x = (r / cutoff).clamp(max=1.0)
    frequencies = math.pi / cutoff * torch.arange(1, n_radial + 1, dtype=r.dtype, device=r.device)[:, None]
    phases, norm = frequencies * r, math.sqrt(2 / cutoff) / r
    sines, size = torch.sin(phases), norm * envelope(x)
    slope_of_size = norm * envelope_slope(x) / cutoff - size / r
    return sines * size, torch.addcmul(sines * slope_of_size, torch.cos(phases), frequencies * size)


def envelope_slope(x: Tensor) -> Tensor:
    """Derivative -168 x⁵ (1 - x)² of `envelope` for x ≤ 1."""
    falling = x * (1 - x)
    return -168 * (falling * falling) * (x * x * x)


def smooth_step(x: Tensor) -> tuple[Tensor, Tensor]:
    """Polynomial 10 x³ - 15 x⁴ + 6 x⁵ from 0 for x ≤ 0 to 1 for x ≥ 1, and its derivative.

    It has two continuous derivatives.
    """
    x = x.clamp(0.0, 1.0)
    return x * x * x * (10 + x * (6 * x - 15)), 30 * (x * (1 - x)).square()


def pair_products(
    radial: Float[Tensor, "molecules slots radial neighbours"],
    angular: Float[Tensor, "molecules slots 9 neighbours"],
) -> Float[Tensor, "molecules slots basis neighbours"]:
    """φ_k P_p of each pair, flattened with the monomial p first."""
    return (angular[:, :, :, None] * radial[:, :, None]).flatten(2, 3)
