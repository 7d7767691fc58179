"""In-memory data loader: stores as padded tensors, from which batches are gathered with `index_select`.

An item is a geometry at one level of theory. A geometry with labels at two levels (e.g. GFN2 forces, and zero forces
as a B3LYP minimum) gives two items. Items of similar size share a bucket with a fixed number of slots, so that all
batches of a bucket have the same shape, as required by `torch.compile`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int, Int8, UInt8
from torch import Tensor
from torch.nn.functional import pad

from physcon_ase.batch import Batch, pad_pair_types, pad_tetrahedra
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.hydrogens import handed_order, hydrogen_tetrahedra
from physcon_ase.data.sample import LabelledBatch
from physcon_ase.data.selection import DataSet, Selection, select_items
from physcon_ase.data.store import geometry_offsets, molecule_graph, open_store

DEFAULT_SLOTS: Final = (
    10, 14, 16, 18, 20, 22, 24, 26, 29, 32, 35, 38, 41, 44, 48, 52, 56, 60, 64, 72, 80, 92, 104, 128, 160, 200, 256
)  # fmt: skip
"""Number of slots per molecule of each bucket; an item is assigned to the smallest bucket it fits into, and items
larger than all to an additional one."""


@dataclass(frozen=True)
class Bucket:
    """Items of similar size."""

    atomic_numbers: UInt8[Tensor, "items slots"]
    """Atomic numbers, 0 in empty slots."""
    positions: Float32[Tensor, "items slots 3"]
    """Positions [Å], 0 in empty slots."""
    forces: Float32[Tensor, "items slots 3"]
    """Forces [eV/Å]; NaN on the atoms if absent, 0 in empty slots."""
    charges: Float32[Tensor, "items slots"]
    """Partial charges [e]; NaN on the atoms if absent, 0 in empty slots."""
    energy: Float64[Tensor, " items"]
    """Energies [eV], NaN if absent."""
    level: Int[Tensor, " items"]
    """Index into `Items.levels`."""
    is_minimum: Bool[Tensor, " items"]
    """Whether the item is a reference minimum for the structure task."""
    is_zero_force: Bool[Tensor, " items"]
    """Whether the forces are zero by definition (minimum) instead of computed."""
    weight: Float32[Tensor, " items"]
    """Weight of the data set."""
    source: Int[Tensor, " items"]
    """Index into `Items.sources`."""
    formal_charges: Int8[Tensor, "items slots"]
    """Formal charges [e], 0 in empty slots."""
    multiplicity: Int[Tensor, " items"]
    """Spin multiplicity."""
    molecule: Int[Tensor, " items"]
    """Row of the molecule in the two tensors below; shared by the items of one molecule and source."""
    pair_types: UInt8[Tensor, "molecules slots slots"] | None
    """`chem.graph.pair_types` of the molecules; None without graphs."""
    tetrahedra: Int[Tensor, "molecules centres 4"] | None
    """`Batch.tetrahedra` of the molecules; None without graphs."""

    @property
    def n_slots(self) -> int:
        """Slots per molecule."""
        return self.atomic_numbers.shape[1]

    @property
    def charge(self) -> Int[Tensor, " items"]:
        """Total charge [e]."""
        return self.formal_charges.sum(dim=1)

    def __len__(self) -> int:
        return len(self.atomic_numbers)


@dataclass(frozen=True)
class Items:
    """All items of a split."""

    levels: tuple[str, ...]
    """Names of the levels of theory, indexed by `Bucket.level`."""
    sources: tuple[str, ...]
    """Names of the data sets, indexed by `Bucket.source`."""
    repeats: tuple[float, ...]
    """Number of visits per item and epoch for each data set."""
    together: tuple[int, ...]
    """`DataSet.together` of each data set."""
    buckets: tuple[Bucket, ...]
    """Non-empty buckets by increasing size."""

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self.buckets)


def load_items(
    data_sets: Sequence[DataSet],
    levels: tuple[str, ...],
    split: str,
    *,
    root: Path | str = ".",
    n_slots_buckets: Sequence[int] = DEFAULT_SLOTS,
    with_graph: bool = False,
) -> Items:
    """Reads the items of a split.

    Args:
        data_sets: the stores and the items used of each.
        levels: all levels of theory of the model, in the order of the indices `LabelledBatch.level`.
        split: "train", "validation" or "test".
        root: base folder of relative store paths.
        n_slots_buckets: number of slots per molecule of each bucket; if there are larger molecules, a bucket of the
            size of the largest is added.
        with_graph: whether batches contain `pair_types` and `tetrahedra`, as required by the structure network;
            equivalent hydrogens are then in the order of `chem.hydrogens`.

    Raises:
        LabelError: a level requested by a data set is missing in its store or in `levels`, or a label is unknown.
        StoreError: a store cannot be read.
    """
    selections = [
        select_items(open_store(Path(root) / data_set.store), data_set, number, levels, split)
        for number, data_set in enumerate(data_sets)
    ]
    bounds = [0, *sorted(n_slots_buckets)]
    largest = max((int(_sizes(chosen).max(initial=0)) for chosen in selections), default=0)
    if largest > bounds[-1]:
        bounds.append(largest)
    buckets = [_fill_bucket(selections, low, high, with_graph) for low, high in pairwise(bounds) if selections]
    return Items(
        levels=tuple(levels),
        sources=tuple(chosen.store.source for chosen in selections),
        repeats=tuple(data_set.repeat for data_set in data_sets),
        together=tuple(data_set.together for data_set in data_sets),
        buckets=tuple(bucket for bucket in buckets if len(bucket)),
    )


def move_items(items: Items, device: torch.device | str) -> Items:
    """Copy of the items on another device; batches are then assembled on this device."""
    return replace(items, buckets=tuple(_move_bucket(bucket, device) for bucket in items.buckets))


def batch_sizes(items: Items, atoms_per_batch: int) -> tuple[int, ...]:
    """Items per batch of each bucket: as many as fit into `atoms_per_batch` slots, at least one and at most all."""
    return tuple(
        min(sum(_n_visited(bucket, items.repeats)), max(1, atoms_per_batch // bucket.n_slots))
        for bucket in items.buckets
    )


def n_batches(items: Items, *, atoms_per_batch: int, world_size: int = 1) -> int:
    """Number of batches per rank in an epoch of `epoch_batches`."""
    sizes = batch_sizes(items, atoms_per_batch)
    total = sum(
        -(-sum(_n_visited(bucket, items.repeats)) // size) for bucket, size in zip(items.buckets, sizes, strict=True)
    )
    return -(-total // world_size)


def epoch_batches(
    items: Items,
    *,
    atoms_per_batch: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
    start: int = 0,
) -> Iterator[LabelledBatch]:
    """Batches of one epoch in a random order that only depends on `seed` and `epoch`.

    All batches of a bucket have the same size: the last one is filled up with random items of the bucket. All ranks get
    the same number of batches: the last round is filled up with the first batches of the epoch. These items occur twice
    in the epoch. Batches of different buckets are shuffled.

    Args:
        items: the training items.
        atoms_per_batch: number of slots per batch, including empty ones.
        seed: random seed of the order.
        epoch: number of the epoch.
        rank: rank of this process.
        world_size: number of processes that share the epoch.
        start: number of batches to skip, e.g. those already processed by this rank.
    """
    sizes = batch_sizes(items, atoms_per_batch)
    generator = np.random.default_rng((seed, epoch))
    orders = [
        _shuffled(_visited(bucket, items, generator), size, generator)
        for bucket, size in zip(items.buckets, sizes, strict=True)
    ]
    places = np.array([(b, k) for b, order in enumerate(orders) for k in range(len(order))]).reshape(-1, 2)
    rounds = _rounds(generator.permutation(places), world_size, generator)
    for step in range(start, len(rounds)):
        bucket, k = rounds[step, rank]
        yield take(items.buckets[bucket], orders[bucket][k])


def _rounds(
    places: Int[np.ndarray, "batches 2"], world_size: int, generator: np.random.Generator
) -> Int[np.ndarray, "steps ranks 2"]:
    """Batches (bucket, number) for each step and rank; of similar size within a step, since ranks are synchronised."""
    if world_size == 1:
        return places[:, None]
    places = np.resize(places, (len(places) + -len(places) % world_size, 2))  # repeats the first batches
    by_bucket = places[np.argsort(places[:, 0], kind="stable")]
    return generator.permutation(by_bucket.reshape(-1, world_size, 2))


def evaluation_batches(items: Items, *, atoms_per_batch: int) -> Iterator[LabelledBatch]:
    """Batches with every item exactly once, in order; the last batch of a bucket may be smaller."""
    for bucket, size in zip(items.buckets, batch_sizes(items, atoms_per_batch), strict=True):
        for begin in range(0, len(bucket), size):
            yield take(bucket, np.arange(begin, min(begin + size, len(bucket))))


def take(bucket: Bucket, chosen: Int[np.ndarray, " molecules"]) -> LabelledBatch:
    """Batch of the chosen items of a bucket."""
    index = torch.from_numpy(np.ascontiguousarray(chosen)).to(bucket.energy.device)
    molecule = bucket.molecule.index_select(0, index)
    formal_charges = bucket.formal_charges.index_select(0, index).long()
    return LabelledBatch(
        batch=Batch(
            atomic_numbers=bucket.atomic_numbers.index_select(0, index).long(),
            positions=bucket.positions.index_select(0, index),
            charge=formal_charges.sum(dim=1),
            multiplicity=bucket.multiplicity.index_select(0, index).long(),
            pair_types=None if bucket.pair_types is None else bucket.pair_types.index_select(0, molecule).long(),
            tetrahedra=None if bucket.tetrahedra is None else bucket.tetrahedra.index_select(0, molecule).long(),
        ),
        level=bucket.level.index_select(0, index).long(),
        energy=bucket.energy.index_select(0, index),
        forces=bucket.forces.index_select(0, index),
        is_minimum=bucket.is_minimum.index_select(0, index),
        weight=bucket.weight.index_select(0, index),
        charges=bucket.charges.index_select(0, index),
        identity=molecule,
        formal_charges=formal_charges,
    )


def _move_bucket(bucket: Bucket, device: torch.device | str) -> Bucket:
    tensors = {f.name: getattr(bucket, f.name) for f in fields(bucket)}
    return replace(bucket, **{name: value.to(device) for name, value in tensors.items() if value is not None})


def _n_visited(bucket: Bucket, repeats: Sequence[float]) -> list[int]:
    """Number of items per data set that are visited in an epoch."""
    counts = torch.bincount(bucket.source.long(), minlength=len(repeats)).tolist()
    return [math.ceil(repeat * count) for repeat, count in zip(repeats, counts, strict=True)]


def _visited(bucket: Bucket, items: Items, generator: np.random.Generator) -> Int[np.ndarray, " items"]:
    """Items visited in an epoch, in random order; those of one molecule in groups of `Items.together`."""
    source = bucket.source.cpu().numpy()
    chosen, groups, n_groups = [], [], 0
    for index, count in enumerate(_n_visited(bucket, items.repeats)):
        rows = _drawn(np.flatnonzero(source == index), count, generator)
        chosen.append(rows)
        groups.append(n_groups + _groups(bucket, rows, items.together[index]))
        n_groups += len(rows)
    order = np.argsort(generator.permutation(n_groups)[np.concatenate(groups)], kind="stable")
    return np.concatenate(chosen)[order]


def _groups(bucket: Bucket, rows: Int[np.ndarray, " rows"], together: int) -> Int[np.ndarray, " rows"]:
    """Index of the group of each row; a group has up to `together` rows of one molecule and level."""
    if together == 1:
        return np.arange(len(rows))
    molecule, level = (getattr(bucket, name).cpu().numpy()[rows] for name in ("molecule", "level"))
    order = np.lexsort((level, molecule))
    is_first = (np.diff(molecule[order], prepend=-1) != 0) | (np.diff(level[order], prepend=-1) != 0)
    begin = np.maximum.accumulate(np.where(is_first, np.arange(len(rows)), 0))
    opens = (np.arange(len(rows)) - begin) % together == 0
    groups = np.empty(len(rows), dtype=np.int64)
    groups[order] = np.cumsum(opens) - 1
    return groups


def _drawn(rows: Int[np.ndarray, " rows"], count: int, generator: np.random.Generator) -> Int[np.ndarray, " drawn"]:
    """Random sample of `count` rows; rows are repeated only after all have been drawn."""
    rounds = max(1, math.ceil(count / max(1, len(rows))))
    return np.concatenate([generator.permutation(rows) for _ in range(rounds)])[:count]


def _shuffled(
    order: Int[np.ndarray, " items"], size: int, generator: np.random.Generator
) -> Int[np.ndarray, "batches size"]:
    """Splits items into batches; the last one is filled up with random items of the other batches."""
    n_missing = -len(order) % size
    begin_of_last = len(order) - (size - n_missing) if n_missing else len(order)
    return np.concatenate([order, generator.permutation(order[:begin_of_last])[:n_missing]]).reshape(-1, size)


def _sizes(chosen: Selection) -> Int[np.ndarray, " items"]:
    """Number of atoms of each item."""
    return chosen.store.molecules.n_atoms[chosen.store.geometries.molecule[chosen.geometry]]


def _fill_bucket(selections: Sequence[Selection], low: int, high: int, with_graph: bool) -> Bucket:
    pieces, n_molecules = [], 0
    for chosen in selections:
        piece = _fill_piece(_of_size(chosen, low, high), high, with_graph)
        pieces.append(replace(piece, molecule=piece.molecule + n_molecules))
        n_molecules += len(piece.molecule.unique())
    columns: dict[str, Any] = {
        f.name: _concatenate([getattr(piece, f.name) for piece in pieces]) for f in fields(Bucket)
    }
    return Bucket(**columns)


def _of_size(chosen: Selection, low: int, high: int) -> Selection:
    n_atoms = _sizes(chosen)
    here = (n_atoms > low) & (n_atoms <= high)
    columns = {name: getattr(chosen, name)[here] for name in ("geometry", "level", "is_target", "is_zero_force")}
    return replace(chosen, **columns)


def _fill_piece(chosen: Selection, n_slots: int, with_graph: bool) -> Bucket:
    """Items of one store as a bucket."""
    store, geometry = chosen.store, chosen.geometry
    molecule_of_item = store.geometries.molecule[geometry]
    rows, molecule = np.unique(molecule_of_item, return_inverse=True)
    n_atoms = store.molecules.n_atoms[molecule_of_item]
    of_geometry = (geometry_offsets(store)[geometry], n_atoms, n_slots)
    of_molecule = (store.molecules.offsets["n_atoms"][molecule_of_item], n_atoms, n_slots)
    energy, forces, charges = _labels_of(chosen, of_geometry)
    graphs = [molecule_graph(store, row) for row in rows.tolist()] if with_graph else []
    positions = _pad_atoms(store.geometries.positions, *of_geometry)
    if with_graph:
        order = _handed_orders(graphs, molecule, positions)
        positions, forces, charges = (_reordered(values, order) for values in (positions, forces, charges))
    n_items = len(geometry)
    return Bucket(
        atomic_numbers=torch.from_numpy(_pad_atoms(store.molecules.atomic_numbers, *of_molecule)),
        positions=torch.from_numpy(positions),
        forces=torch.from_numpy(forces),
        charges=torch.from_numpy(charges),
        energy=torch.from_numpy(energy),
        level=torch.from_numpy(chosen.level.astype(np.int8)),
        is_minimum=torch.from_numpy(chosen.is_target),
        is_zero_force=torch.from_numpy(chosen.is_zero_force),
        weight=torch.full((n_items,), chosen.data_set.weight, dtype=torch.float32),
        source=torch.full((n_items,), chosen.number, dtype=torch.int16),
        formal_charges=torch.from_numpy(_pad_atoms(store.molecules.formal_charges, *of_molecule)),
        multiplicity=torch.from_numpy(store.molecules.multiplicity[molecule_of_item].astype(np.int8)),
        molecule=torch.from_numpy(molecule.astype(np.int64)),
        pair_types=torch.from_numpy(pad_pair_types(graphs, n_slots)) if with_graph else None,
        tetrahedra=torch.from_numpy(pad_tetrahedra(graphs)) if with_graph else None,
    )


def _handed_orders(
    graphs: Sequence[MolGraph], molecule: np.ndarray, positions: np.ndarray
) -> Int[np.ndarray, "items slots"]:
    """`chem.hydrogens.handed_order` of each item, empty slots in place."""
    orders = np.tile(np.arange(positions.shape[1]), (len(positions), 1))
    tetrahedra = [hydrogen_tetrahedra(graph) for graph in graphs]
    for order, row, padded in zip(orders, molecule.tolist(), positions, strict=True):
        n_atoms = graphs[row].n_atoms
        order[:n_atoms] = handed_order(tetrahedra[row], padded[:n_atoms])
    return orders


def _reordered(values: np.ndarray, orders: Int[np.ndarray, "items slots"]) -> np.ndarray:
    """Values of atoms [items, slots, ...] in other slots."""
    return np.take_along_axis(values, orders.reshape(*orders.shape, *[1] * (values.ndim - 2)), axis=1)


def _labels_of(
    chosen: Selection, layout: tuple[np.ndarray, np.ndarray, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Energies [eV], forces [eV/Å] and partial charges [e] of the items, padded."""
    first_atoms, n_atoms, n_slots = layout
    energy = np.full(len(first_atoms), np.nan)
    in_molecule = np.arange(n_slots) < n_atoms[:, None]
    forces = np.where(in_molecule & ~chosen.is_zero_force[:, None], np.float32(np.nan), np.float32(0))
    forces = np.repeat(forces[:, :, None], 3, axis=2)
    charges = np.where(in_molecule, np.float32(np.nan), np.float32(0))
    for level_index in np.unique(chosen.level):
        labels = chosen.store.labels.get(chosen.levels[level_index])
        if labels is None:
            continue
        here = np.flatnonzero(chosen.level == level_index)
        energy[here] = labels.energy[chosen.geometry[here]]
        if labels.charges is not None:
            charges[here] = _pad_atoms(labels.charges, first_atoms[here], n_atoms[here], n_slots)
        if labels.forces is not None:
            here = here[~chosen.is_zero_force[here]]
            forces[here] = _pad_atoms(labels.forces, first_atoms[here], n_atoms[here], n_slots)
    return energy, forces, charges


def _pad_atoms(flat: np.ndarray, first_atoms: np.ndarray, n_atoms: np.ndarray, n_slots: int) -> np.ndarray:
    """Pads ragged per-atom values to [rows, slots, ...], 0 in empty slots."""
    padded = np.zeros((len(first_atoms), n_slots, *flat.shape[1:]), dtype=flat.dtype)
    for slot in range(n_slots):  # one column at a time avoids a [rows, slots] index array
        rows = np.flatnonzero(n_atoms > slot)
        padded[rows, slot] = flat[first_atoms[rows] + slot]
    return padded


def _concatenate(tensors: Sequence[Any]) -> Tensor | None:
    if tensors[0] is None:
        return None
    if tensors[0].ndim == 3 and tensors[0].shape[2] == 4:  # tetrahedra, padded to the largest number per molecule
        width = max(tensor.shape[1] for tensor in tensors)
        tensors = [pad(tensor, (0, 0, 0, width - tensor.shape[1]), value=-1) for tensor in tensors]
    return torch.cat(list(tensors))
