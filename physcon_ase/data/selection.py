"""Selection of molecules, geometries, levels of theory and labels from a store."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Bool, Int

from physcon_ase.data.split import split_mask
from physcon_ase.data.store import LevelLabels, Store, geometry_offsets
from physcon_ase.errors import LabelError

LABELS: Final = ("energy", "forces", "zero_force", "target", "charges")
"""Kinds of labels, see `DataSet.labels`."""

ENERGY_LABELS: Final = ("energy", "forces", "zero_force", "charges")
"""Labels used for training without a structure network."""


@dataclass(frozen=True)
class DataSet:
    """Items of one store used for training or evaluation."""

    store: str
    """Path of the store; relative paths refer to the folder passed to `load_items`."""
    levels: tuple[str, ...]
    """Levels of theory whose labels and minima are used."""
    labels: tuple[str, ...] = LABELS
    """Labels used: "energy"; "forces"; "charges" (partial charges); "zero_force" (zero forces at minima of a level
    without force labels); "target" (minima as reference structures of the structure task, except of molecules whose
    bonds are unknown). Energies of different programs or basis sets must not be mixed at one level."""
    weight: float = 1.0
    """Weight of the items in the loss."""
    repeat: float = 1.0
    """Number of visits per item and epoch; 0.5 visits a different random half in each epoch."""
    together: int = 1
    """Number of geometries of one molecule and level that are visited in a row, and so mostly in one batch: relative
    energies of conformers can then be trained on."""
    kinds: tuple[str, ...] = ()
    """Kinds of geometries used (`Geometries.kind`); empty for all."""
    only_targets: bool = False
    """Whether only reference minima of the structure task are used, regardless of other labels."""
    targets_of: str = ""
    """Method whose minima are the reference minima of the structure task instead of those of `levels`, e.g. "mmff94".
    They need no energies and are items of the first of `levels`."""
    borrow_forces_from: str = ""
    """Level whose forces are used as labels of `levels`, which must have no labels of their own in this store. With a
    small `weight`, this regularises the curvature of a level for which only minima are known."""
    unlabelled: bool = False
    """Whether geometries without labels are items of the first of `levels` (which may be absent in the store), for
    score matching."""
    max_atoms: int = 0
    """Maximum number of atoms per molecule; 0 for no limit."""
    max_molecules: int = 0
    """Maximum number of molecules taken from a split; 0 for no limit. Smaller subsets are contained in larger ones."""
    subset_seed: int = 0
    """Random seed of this subset; the same molecules are selected from every store."""
    assign_to: str = ""
    """Split to which all molecules of the store are assigned, overriding the hash; for geometries of a single molecule
    with a separate test store, and for external test sets."""


@dataclass(frozen=True)
class Selection:
    """Selected items of one store."""

    store: Store
    """The store."""
    data_set: DataSet
    """Data set that defines the selection."""
    number: int
    """Index of the data set in the recipe."""
    levels: tuple[str, ...]
    """All levels of theory of the model."""
    geometry: Int[np.ndarray, " items"]
    """Index of the geometry in the store."""
    level: Int[np.ndarray, " items"]
    """Level of theory, index into `levels`."""
    is_target: Bool[np.ndarray, " items"]
    """Whether the geometry is a reference minimum for the structure task."""
    is_zero_force: Bool[np.ndarray, " items"]
    """Whether the force label is zero because the geometry is a minimum."""


def select_items(store: Store, data_set: DataSet, number: int, levels: Sequence[str], split: str) -> Selection:
    """Selects the items of a split from a store.

    A geometry is an item of a level if it has an energy or forces at this level, or is a minimum of the level that is
    used as zero force or as reference minimum.

    Args:
        store: the store.
        data_set: the items to use.
        number: index of the data set in the recipe.
        levels: all levels of theory of the model.
        split: "train", "validation" or "test".

    Raises:
        LabelError: a requested level is missing in the store or in `levels`, the store has no geometry of the requested
            kinds, or a label is unknown.
    """
    store = _borrow(_without_unused(store, data_set), data_set)
    _check_levels(store, data_set, levels)
    molecules = chosen_molecules(store, data_set, split)
    usable = molecules[store.geometries.molecule]
    if data_set.kinds:
        _check_kinds(store, data_set)
        usable &= np.isin(store.geometries.kind, data_set.kinds)
    first_atoms = geometry_offsets(store)[:-1]
    has_bonds = ((store.molecules.n_bonds > 0) | (store.molecules.n_atoms == 1))[store.geometries.molecule]
    parts = []
    for level in data_set.levels:
        labels = store.labels.get(level)
        at_minimum = store.geometries.minimum_of == level
        has_energy = np.zeros(len(usable), dtype=bool) if labels is None else np.isfinite(labels.energy)
        has_forces = np.zeros(len(usable), dtype=bool)
        if labels is not None and labels.forces is not None:
            has_forces = np.isfinite(labels.forces[first_atoms, 0])
        is_zero_force = at_minimum & ~has_forces & ("zero_force" in data_set.labels)
        is_target = at_minimum & ("target" in data_set.labels)
        if data_set.targets_of:
            of_other = store.geometries.minimum_of == data_set.targets_of
            is_target = of_other & ("target" in data_set.labels) & (level == data_set.levels[0])
        is_target &= has_bonds
        wanted = is_target if data_set.only_targets else has_energy | has_forces | is_zero_force | is_target
        wanted |= data_set.unlabelled & (level == data_set.levels[0])
        chosen = np.flatnonzero(usable & wanted)
        parts.append((chosen, np.full(len(chosen), levels.index(level)), is_target[chosen], is_zero_force[chosen]))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Selection(store, data_set, number, tuple(levels), *columns)


def _check_levels(store: Store, data_set: DataSet, levels: Sequence[str]) -> None:
    available = sorted({*store.labels, *np.unique(store.geometries.minimum_of).tolist()} - {""})
    for level in data_set.levels:
        if level not in levels:
            raise LabelError(
                f"{data_set.store}: level {level!r} is not among the levels of the model ({', '.join(levels)}); "
                "add it to the model or remove it from the data set"
            )
        if level not in available and not data_set.unlabelled:
            raise LabelError(
                f"{data_set.store} has no labels or minima at level {level!r}; available levels: {', '.join(available)}"
            )
    if data_set.targets_of and data_set.targets_of not in available:
        raise LabelError(
            f"{data_set.store} has no reference minima of {data_set.targets_of!r}; "
            f"available levels: {', '.join(available)}"
        )
    unknown = sorted(set(data_set.labels) - set(LABELS))
    if unknown:
        raise LabelError(f"{data_set.store}: unknown labels {', '.join(unknown)}; choose from {', '.join(LABELS)}")
    if not data_set.levels:
        raise LabelError(f"{data_set.store}: no level of theory is selected; choose from {', '.join(available)}")


def _check_kinds(store: Store, data_set: DataSet) -> None:
    found = np.unique(store.geometries.kind).tolist()
    if not set(found).intersection(data_set.kinds):
        raise LabelError(
            f"{data_set.store} has no geometries of kind {' or '.join(map(repr, data_set.kinds))}; "
            f"it has: {', '.join(map(repr, found)) or 'no geometries'}"
        )


def chosen_molecules(store: Store, data_set: DataSet, split: str) -> Bool[np.ndarray, " molecules"]:
    """Mask of the molecules of a store that are used in a split."""
    if not data_set.assign_to:
        chosen = split_mask(store, split)
    else:
        chosen = np.full(len(store.molecules), data_set.assign_to == split)
    if data_set.max_atoms:
        chosen &= store.molecules.n_atoms <= data_set.max_atoms
    return subset_mask(store, chosen, data_set.max_molecules, data_set.subset_seed)


def subset_mask(
    store: Store, chosen: Bool[np.ndarray, " molecules"], max_molecules: int, seed: int = 0
) -> Bool[np.ndarray, " molecules"]:
    """Reproducible subset of at most `max_molecules` of the chosen molecules (0: all)."""
    if not max_molecules:
        return chosen
    # Ranked by a hash of key and seed: the subset is the same in all stores, and smaller subsets are nested.
    rank = _mix(store.molecules.key_hash, seed)
    rows = np.flatnonzero(chosen)
    rows = rows[np.argsort(rank[rows], kind="stable")][:max_molecules]
    subset = np.zeros_like(chosen)
    subset[rows] = True
    return subset


def _mix(hashes: np.ndarray, seed: int) -> np.ndarray:
    """Pseudo-random numbers from hashes with the finaliser of SplitMix64, doi 10.1145/2660193.2660195."""
    mixed = hashes + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _without_unused(store: Store, data_set: DataSet) -> Store:
    """Store without unused energies, forces or charges."""
    labels = dict(store.labels)
    for level in set(labels).intersection(data_set.levels):
        if "energy" not in data_set.labels:
            labels[level] = replace(labels[level], energy=np.full_like(labels[level].energy, np.nan))
        if "forces" not in data_set.labels:
            labels[level] = replace(labels[level], forces=None)
        if "charges" not in data_set.labels:
            labels[level] = replace(labels[level], charges=None)
    return replace(store, labels=labels)


def _borrow(store: Store, data_set: DataSet) -> Store:
    """Store with the forces of `borrow_forces_from` as labels of the levels of the data set."""
    if not data_set.borrow_forces_from:
        return store
    lender = store.labels.get(data_set.borrow_forces_from)
    if lender is None or lender.forces is None:
        raise LabelError(
            f"{data_set.store} has no forces at level {data_set.borrow_forces_from!r} to borrow; "
            f"levels with labels: {', '.join(store.labels)}"
        )
    own = [level for level in data_set.levels if level in store.labels]
    if own:
        raise LabelError(
            f"{data_set.store} already has labels at {', '.join(own)}, which borrowed forces would replace; "
            "select levels without labels, or omit borrow_forces_from"
        )
    borrowed = {level: _lent(store, lender.forces, level) for level in data_set.levels}
    return replace(store, labels={**store.labels, **borrowed})


def _lent(store: Store, forces: np.ndarray, level: str) -> LevelLabels:
    """Forces of another level as labels of `level`, except at minima of `level`, where the forces are zero."""
    n_atoms = np.diff(geometry_offsets(store))
    at_minimum = np.repeat(store.geometries.minimum_of == level, n_atoms)
    energy = np.full(len(store.geometries), np.nan)
    return LevelLabels(energy, np.where(at_minimum[:, None], np.float32(np.nan), forces))
