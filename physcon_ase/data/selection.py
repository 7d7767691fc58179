"""What is used of a store: which molecules, geometries, levels of theory and labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Bool, Int

from physcon_ase.data.split import split_mask
from physcon_ase.data.store import LevelLabels, Store, geometry_offsets
from physcon_ase.errors import LabelError

LABELS: Final = ("energy", "forces", "zero_force", "target", "charges")
"""What a data set can be used for, see `DataSet.labels`."""

ENERGY_LABELS: Final = ("energy", "forces", "zero_force", "charges")
"""Labels of a training of energies alone."""


@dataclass(frozen=True)
class DataSet:
    """Choice of items of one store, for training or evaluation."""

    store: str
    """Path of the store; a relative path is relative to the folder given to `load_items`."""
    levels: tuple[str, ...]
    """Levels of theory used: labels of these, and minima of these."""
    labels: tuple[str, ...] = LABELS
    """Labels used: "energy"; "forces"; "charges", the partial ones; "zero_force", that is zero at minima of a level
    without force labels there; "target", minima as targets of the structure task. Energies of two programs or basis
    sets do not go together at one level, hence the choice."""
    weight: float = 1.0
    """Weight of the items in the loss."""
    repeat: float = 1.0
    """Visits of each item in an epoch; 0.5 visits half of them, chosen anew in each epoch."""
    kinds: tuple[str, ...] = ()
    """Kinds of geometry used (`Geometries.kind`); empty for all."""
    only_targets: bool = False
    """Whether geometries that are no target of the structure task are left out, labels or not."""
    targets_of: str = ""
    """Method whose minima are targets of the structure task instead of those of `levels`, such as "mmff94"; it needs no
    energies, and its minima then are items of the first of `levels`."""
    borrow_forces_from: str = ""
    """Level whose forces stand in for those of `levels`, which then must have none of their own here. With a small
    `weight` this keeps the curvature of a level that otherwise knows nothing but its minima near that of another."""
    unlabelled: bool = False
    """Whether geometries without any label are items of the first of `levels`, which the store need not know: for score
    matching."""
    max_atoms: int = 0
    """Atoms of the largest molecule that is used; 0 for all."""
    max_molecules: int = 0
    """Largest number of molecules taken from a split; a smaller number takes a subset of them; 0 for all."""
    subset_seed: int = 0
    """Choice of those molecules; every store chooses the same ones."""
    assign_to: str = ""
    """Split that all molecules of the store are put into, instead of the one that their hash decides: for geometries of
    one molecule, of which others are kept apart in another store, and for external test sets."""


@dataclass(frozen=True)
class Selection:
    """Items of one store; all arrays are [items]."""

    store: Store
    """The store."""
    data_set: DataSet
    """How it is used."""
    number: int
    """Place of the data set among those of the training."""
    levels: tuple[str, ...]
    """Levels of theory that `level` counts."""
    geometry: Int[np.ndarray, " items"]
    """Geometry in the store."""
    level: Int[np.ndarray, " items"]
    """Level of theory, an index into `levels`."""
    is_target: Bool[np.ndarray, " items"]
    """Whether the structure task learns the geometry."""
    is_zero_force: Bool[np.ndarray, " items"]
    """Whether the force label is that of a minimum: zero."""


def select_items(store: Store, data_set: DataSet, number: int, levels: Sequence[str], split: str) -> Selection:
    """The items of a split that a data set takes from its store.

    A geometry is an item of a level if it has an energy or forces there, or is a minimum of the level that counts as
    zero force or as target.

    Args:
        store: the store.
        data_set: how it is used.
        number: place of the data set among those of the training.
        levels: all levels of theory of the model.
        split: "train", "validation" or "test".

    Raises:
        LabelError: the data set asks for a level that the store or `levels` does not have, or for an unknown label.
    """
    store = _borrow(_without_unused(store, data_set), data_set)
    _check_levels(store, data_set, levels)
    molecules = chosen_molecules(store, data_set, split)
    usable = molecules[store.geometries.molecule]
    if data_set.kinds:
        usable &= np.isin(store.geometries.kind, data_set.kinds)
    first_atoms = geometry_offsets(store)[:-1]
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
                f"{data_set.store}: level {level!r} is none of the model's ({', '.join(levels)}); "
                "add it there or leave it out"
            )
        if level not in available and not data_set.unlabelled:
            raise LabelError(
                f"{data_set.store} has nothing at level {level!r}; "
                f"choose from its labels and minima: {', '.join(available)}"
            )
    if data_set.targets_of and data_set.targets_of not in available:
        raise LabelError(
            f"{data_set.store} has no minima of {data_set.targets_of!r} to be targets; "
            f"choose from its labels and minima: {', '.join(available)}"
        )
    unknown = sorted(set(data_set.labels) - set(LABELS))
    if unknown:
        raise LabelError(f"{data_set.store}: {', '.join(unknown)} is no kind of label; choose from {', '.join(LABELS)}")
    if not data_set.levels:
        raise LabelError(f"{data_set.store}: no level of theory is used; choose from {', '.join(available)}")


def chosen_molecules(store: Store, data_set: DataSet, split: str) -> Bool[np.ndarray, " molecules"]:
    """The molecules of a split that are used of a store."""
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
    """At most `max_molecules` of the chosen molecules (0: all), always the same ones."""
    if not max_molecules:
        return chosen
    # sorted by a hash of hash and seed: stores agree on the molecules, and a smaller subset is part of a larger one
    rank = _mix(store.molecules.key_hash, seed)
    rows = np.flatnonzero(chosen)
    rows = rows[np.argsort(rank[rows], kind="stable")][:max_molecules]
    subset = np.zeros_like(chosen)
    subset[rows] = True
    return subset


def _mix(hashes: np.ndarray, seed: int) -> np.ndarray:
    """Pseudo-random numbers from hashes: the finaliser of SplitMix64, doi 10.1145/2660193.2660195."""
    mixed = hashes + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _without_unused(store: Store, data_set: DataSet) -> Store:
    """The store without the energies, forces or charges that are not used."""
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
    """The store with the forces of another level in place of absent ones."""
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
            f"{data_set.store} has labels of its own at {', '.join(own)}, which borrowed forces would hide; "
            "name levels without labels, or leave out borrow_forces_from"
        )
    borrowed = {level: _lent(store, lender.forces, level) for level in data_set.levels}
    return replace(store, labels={**store.labels, **borrowed})


def _lent(store: Store, forces: np.ndarray, level: str) -> LevelLabels:
    """Forces of another level as labels of this one, save at its own minima, where the force is known to be zero."""
    n_atoms = np.diff(geometry_offsets(store))
    at_minimum = np.repeat(store.geometries.minimum_of == level, n_atoms)
    energy = np.full(len(store.geometries), np.nan)
    return LevelLabels(energy, np.where(at_minimum[:, None], np.float32(np.nan), forces))
