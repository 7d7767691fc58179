"""Charge groups: groups of atoms too far apart to exchange charge, with a smooth transition at shorter distances.

Two groups are separate at a threshold t if no atom of one is closer than t to an atom of the other. At the
threshold a = 0.8 c, with c the cutoff of the encoder, a bonded molecule is one group; from b = 1.6 c on groups have
total charges of their own (`group_charges`); between a and b the partial charges are the mean over all thresholds,

    q = ∫ p(t) q(t) dt = Σ_k w_k q_k,    w_k = S(h_k+1) - S(h_k),

where partition k is the result of the first k merges of single-linkage clustering, at the distances h_1 < h_2 < ...,
and S, the integral of p, is a smooth step from 0 at a to 1 at b. The energies of distant groups therefore add up.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.spatial import KDTree
from torch import Tensor

from physcon_ase.batch import Batch
from physcon_ase.model.pairs import Pairs, smooth_step

_FIRST: Final = 0.8
"""Threshold a in units of the cutoff."""

_LAST: Final = 1.6
"""Threshold b in units of the cutoff."""

_AMBIGUOUS: Final = 0.3
"""Difference of the sums of squared deviations from integers [e²] below which two assignments of charges are mixed."""


@dataclass(frozen=True)
class ChargeGroups:
    """Partitions of the atoms of each molecule of a batch, from the finest to the coarsest."""

    numbers: Int[Tensor, "partitions molecules slots"]
    """Group of each atom, from 0; 0 in empty slots."""
    exist: Bool[Tensor, "partitions molecules groups"]
    """Which groups there are."""
    weights: Float[Tensor, "partitions molecules"]
    """Weight of each partition; they sum to 1. Differentiable with respect to the positions if these are."""
    slopes: Float[Tensor, "merges molecules"]
    """Derivative of S with respect to the distance of each merge [1/Å]; 0 for molecules with fewer merges."""
    closest: Int[Tensor, "merges molecules 2"]
    """The two atoms whose distance it is."""
    directions: Float[Tensor, "merges molecules 3"]
    """Unit vector from the first to the second."""
    formal: Float[Tensor, "partitions molecules groups"] | None = None
    """Total formal charge [e] of each group; None if the batch has no formal charges."""

    def sums(
        self, values: Float[Tensor, "*partitions molecules slots"]
    ) -> Float[Tensor, "partitions molecules groups"]:
        """Sum of the values over the atoms of each group."""
        values = values.expand(self.numbers.shape)
        return values.new_zeros(self.exist.shape).scatter_add(2, self.numbers, values)

    def softmax(self, values: Float[Tensor, "molecules slots"]) -> Float[Tensor, "partitions molecules slots"]:
        """exp(value), normalised to a sum of 1 over each group; 0 where the value is -∞."""
        values = values.expand(self.numbers.shape)
        highest = values.detach().new_full(self.exist.shape, -torch.inf)
        highest = highest.scatter_reduce(2, self.numbers, values.detach(), "amax")
        powers = (values - highest.gather(2, self.numbers)).exp()
        return powers / self.sums(powers).gather(2, self.numbers)

    def pull_back(
        self, grad: Float[Tensor, "partitions molecules"], n_slots: int
    ) -> Float[Tensor, "molecules slots 3"]:
        """Derivative with respect to the positions from that with respect to the weights."""
        # merge k ends partition k and begins partition k + 1
        along = ((grad[:-1] - grad[1:]) * self.slopes)[..., None] * self.directions  # (merges, molecules, 3)
        ends = torch.stack([-along, along], dim=2).transpose(0, 1).flatten(1, 2)  # (molecules, merges * 2, 3)
        atoms = self.closest.transpose(0, 1).flatten(1)
        positions = along.new_zeros(atoms.shape[0], n_slots, 3)
        return positions.scatter_add(1, atoms[..., None].expand(-1, -1, 3), ends)


def in_order(batch: Batch, pairs: Pairs, cutoff: float) -> Bool[Tensor, " molecules"]:
    """Whether every atom but the first is closer than a to an earlier one: a quick proof of a single group."""
    slots = torch.arange(batch.positions.shape[1], device=batch.positions.device)
    others = slots
    if pairs.neighbours is not None:
        others = pairs.neighbours % len(slots)
    earlier = (others < slots[:, None]) & pairs.mask & (pairs.distances < _FIRST * cutoff)
    return (earlier.any(dim=2) | ~batch.atom_mask)[:, 1:].all(dim=1)


def find_charge_groups(batch: Batch, pairs: Pairs, cutoff: float) -> ChargeGroups | None:
    """Groups of the molecules of a batch; None if each is a single one.

    Args:
        batch: the molecules.
        pairs: their pairs of atoms within the cutoff.
        cutoff: cutoff radius [Å] of the encoder.
    """
    single = in_order(batch, pairs, cutoff)
    if single.all():
        return None
    rows = np.flatnonzero(~single.cpu().numpy())
    found = {int(row): _clustering(batch, int(row), cutoff) for row in rows}
    n_partitions = max(len(own.numbers) for own in found.values())
    if n_partitions == 1 and all(own.numbers.max() == 0 for own in found.values()):
        return None
    groups = _stacked(batch, found, n_partitions, cutoff)
    if batch.formal_charges is None:
        return groups
    return replace(groups, formal=groups.sums(batch.formal_charges.to(groups.weights.dtype)))


@dataclass(frozen=True)
class _Clustering:
    """Partitions of one molecule."""

    numbers: Int[np.ndarray, "partitions slots"]
    """Group of each atom."""
    closest: Int[np.ndarray, "merges 2"]
    """The two closest atoms of the groups of each merge."""


def _clustering(batch: Batch, row: int, cutoff: float) -> _Clustering:
    """Single-linkage clustering of a molecule from the threshold a to b."""
    atoms = np.flatnonzero(batch.atom_mask[row].cpu().numpy())
    points = batch.positions[row].detach().cpu().double().numpy()[atoms]
    first, second = KDTree(points).query_pairs(_LAST * cutoff, output_type="ndarray").T
    distances = np.linalg.norm(points[second] - points[first], axis=1)
    near, shape = distances < _FIRST * cutoff, (len(atoms), len(atoms))
    _, numbers = connected_components(coo_array((distances[near], (first[near], second[near])), shape), directed=False)
    tree = minimum_spanning_tree(coo_array((distances, (first, second)), shape)).tocoo()
    partitions, closest = [numbers], []
    for edge in np.argsort(tree.data, kind="stable"):
        i, j = int(tree.row[edge]), int(tree.col[edge])
        low, high = sorted((int(numbers[i]), int(numbers[j])))
        if low == high:
            continue
        numbers = np.where(numbers == high, low, numbers)
        numbers = np.where(numbers > high, numbers - 1, numbers)
        partitions.append(numbers)
        closest.append((atoms[i], atoms[j]))
    all_slots = np.zeros((len(partitions), batch.positions.shape[1]), dtype=np.int64)
    all_slots[:, atoms] = partitions
    return _Clustering(all_slots, np.array(closest, dtype=np.int64).reshape(-1, 2))


def _stacked(batch: Batch, found: dict[int, _Clustering], n_partitions: int, cutoff: float) -> ChargeGroups:
    """The partitions of the molecules of a batch; those without have one group in each partition."""
    device, (n_molecules, n_slots) = batch.positions.device, batch.atomic_numbers.shape
    numbers = np.zeros((n_partitions, n_molecules, n_slots), dtype=np.int64)
    closest = np.zeros((n_partitions - 1, n_molecules, 2), dtype=np.int64)
    merges = np.zeros((n_partitions - 1, n_molecules), dtype=bool)
    for row, own in found.items():
        numbers[: len(own.numbers), row], numbers[len(own.numbers) :, row] = own.numbers, own.numbers[-1]
        closest[: len(own.closest), row], merges[: len(own.closest), row] = own.closest, True
    ends = torch.from_numpy(closest).to(device).transpose(0, 1).flatten(1)  # (molecules, merges * 2)
    places = batch.positions.gather(1, ends[..., None].expand(-1, -1, 3)).unflatten(1, (-1, 2)).transpose(0, 1)
    vectors, real = places[:, :, 1] - places[:, :, 0], torch.from_numpy(merges).to(device)
    distances = torch.where(real, vectors.square().sum(dim=2), 1.0).sqrt()
    # after its last merge a molecule has no further partition: S = 1
    steps, slopes = smooth_step((distances / cutoff - _FIRST) / (_LAST - _FIRST))
    steps = torch.where(real, steps, 1.0)
    edges = torch.cat([steps.new_zeros(1, n_molecules), steps, steps.new_ones(1, n_molecules)])
    return ChargeGroups(
        torch.from_numpy(numbers).to(device),
        torch.from_numpy(numbers.max(axis=2)[..., None] >= np.arange(numbers.max() + 1)).to(device),
        edges[1:] - edges[:-1],
        torch.where(real, slopes / (cutoff * (_LAST - _FIRST)), 0.0),
        torch.from_numpy(closest).to(device),
        vectors / distances[..., None],
    )


@dataclass(frozen=True)
class GroupCharges:
    """Total charges of groups that add up to those of their molecules, see `group_charges` and `given_charges`."""

    charges: Float[Tensor, "partitions molecules groups"]
    """Total charge [e] of each group; 0 for those that do not exist."""
    transfers: Float[Tensor, "partitions molecules groups groups"]
    """Weight of the assignment with a charge moved from the second to the first group."""
    slopes: Float[Tensor, "partitions molecules groups groups"]
    """Derivative of the unnormalised weight with respect to the excess of the second group over the first [1/e]."""

    def pull_back(
        self, grad: Float[Tensor, "partitions molecules groups"]
    ) -> Float[Tensor, "partitions molecules groups"]:
        """Derivative with respect to the sums of the local charges from that with respect to the charges."""
        moved = grad[..., :, None] - grad[..., None, :]
        mean = (self.transfers * moved).sum(dim=(2, 3), keepdim=True)
        best = 1 - self.transfers.sum(dim=(2, 3), keepdim=True)  # 1 / sum of the unnormalised weights
        of_slopes = best * (moved - mean) * self.slopes
        return of_slopes.sum(dim=3) - of_slopes.sum(dim=2)


def given_charges(charges: Float[Tensor, "partitions molecules groups"]) -> GroupCharges:
    """Total charges [e] of groups that do not depend on their local charges."""
    zeros = charges.new_zeros(*charges.shape, charges.shape[-1])
    return GroupCharges(charges, zeros, zeros)


def group_charges(
    sums: Float[Tensor, "partitions molecules groups"],
    total: Int[Tensor, " molecules"],
    exist: Bool[Tensor, "partitions molecules groups"],
) -> GroupCharges:
    """Total charges [e] of groups: the integers nearest to the sums of their local charges.

    The integers add up to the total charge. Assignments with one charge moved to another group have a weight if they
    are almost as near (`_AMBIGUOUS`), so that the charges are smooth functions of the sums even where these belong to
    no assignment, as those of the parts of a homolytic dissociation.

    Args:
        sums: sum of the local charges of each group [e].
        total: total charge of each molecule [e].
        exist: which groups there are.
    """
    nearest = _nearest_integers(sums.detach(), total, exist)
    excess = sums - nearest
    # the sum of the squared deviations increases by 2 (1 - x) if a charge is moved from the second to the first group
    difference = excess[..., :, None] - excess[..., None, :]
    steps, slopes = smooth_step(1 - 2 * (1 - difference) / _AMBIGUOUS)
    possible = exist[..., :, None] & exist[..., None, :]
    possible = possible & ~torch.eye(exist.shape[2], dtype=torch.bool, device=exist.device)
    steps, slopes = torch.where(possible, steps, 0.0), torch.where(possible, slopes * (2 / _AMBIGUOUS), 0.0)
    transfers = steps / (1 + steps.sum(dim=(2, 3), keepdim=True))
    charges = nearest + transfers.sum(dim=3) - transfers.sum(dim=2)
    return GroupCharges(charges, transfers, slopes)


def _nearest_integers(sums: Tensor, total: Tensor, exist: Tensor) -> Tensor:
    """Integers with the smallest sum of squared deviations that add up to the total charge."""
    sums = torch.where(exist, sums, 0.0)
    charges = sums.round()
    while (surplus := charges.sum(dim=2) - total).any():
        sign = surplus.sign()[..., None]
        worst = torch.where(exist, (charges - sums) * sign, -torch.inf).argmax(dim=2)
        charges = charges - sign * torch.nn.functional.one_hot(worst, exist.shape[2])
    return charges
