"""Molecules, geometries and labels of one data set in one HDF5 file.

Why HDF5 (h5py): a file says itself what it holds (levels, source, licence, DOI); single levels are read without
the rest; ragged arrays are a flat array and its counts, compressed; it is one file, old enough to be readable
anywhere and for long. Pickles run code, and an .npz can only be read as a whole.

Layout: `molecules/<field of Molecules>`, `geometries/<field of Geometries>`, `labels/<level>/{energy, forces}`, and
as attributes of the file the format version, the levels and where the data come from.
"""

import json
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from jaxtyping import Float32, Float64, Int, UInt8, UInt64

from physcon_ase.chem.graph import MolGraph, make_graph
from physcon_ase.errors import LabelError, StoreError

FORMAT: Final = "physcon_ase store"
"""Value of the attribute `format` by which a store is recognised."""

FORMAT_VERSION: Final = 1
"""Version of the layout that this package writes, and the newest that it reads."""


@dataclass(frozen=True)
class Molecules:
    """Graphs of all molecules, one after the other; molecule i owns `n_atoms[i]` entries of every per-atom array."""

    n_atoms: Int[np.ndarray, " molecules"]
    """Number of atoms."""
    n_bonds: Int[np.ndarray, " molecules"]
    """Number of bonds; 0 if they are not known."""
    n_tetrahedra: Int[np.ndarray, " molecules"]
    """Number of tetrahedral stereocentres."""
    n_double_bonds: Int[np.ndarray, " molecules"]
    """Number of stereo double bonds."""
    atomic_numbers: UInt8[np.ndarray, " atoms"]
    """Atomic number of each atom."""
    formal_charges: Int[np.ndarray, " atoms"]
    """Formal charge [e] of each atom."""
    bonds: Int[np.ndarray, "bonds 2"]
    """Atom indices of each bond, counted within the molecule."""
    bond_orders: UInt8[np.ndarray, " bonds"]
    """Kekulé order 1, 2 or 3 of each bond; + 10 if aromatic."""
    tetrahedra: Int[np.ndarray, "stereocentres 4"]
    """`MolGraph.tetrahedra`, counted within the molecule."""
    double_bonds: Int[np.ndarray, "stereobonds 4"]
    """`MolGraph.double_bonds`, counted within the molecule."""
    double_bond_is_cis: np.ndarray
    """`MolGraph.double_bond_is_cis`, bool [stereobonds]."""
    multiplicity: Int[np.ndarray, " molecules"]
    """Spin multiplicity 2S + 1."""
    smiles: np.ndarray
    """SMILES, text [molecules]; empty if not known."""
    name: np.ndarray
    """Name in the data set that the molecule comes from, text [molecules]."""
    key_hash: UInt64[np.ndarray, " molecules"]
    """`split.key_hash` of the molecule, which decides its split."""

    def __len__(self) -> int:
        return len(self.n_atoms)

    @cached_property
    def offsets(self) -> dict[str, np.ndarray]:
        """`offsets_of` each of the four counts, by the name of the count."""
        return {
            name: offsets_of(getattr(self, name)) for name in ("n_atoms", "n_bonds", "n_tetrahedra", "n_double_bonds")
        }


@dataclass(frozen=True)
class Geometries:
    """Positions of the molecules, any number for each."""

    molecule: Int[np.ndarray, " geometries"]
    """Index of the molecule."""
    kind: np.ndarray
    """Where the geometry comes from, text [geometries]: "minimum", "thermal", "conformer" or any other word."""
    minimum_of: np.ndarray
    """Level of theory whose minimum this is, text [geometries]; empty if of none. Forces are zero at that level, and
    the geometry has the bonds and the stereo of its molecule."""
    positions: Float32[np.ndarray, "geometry_atoms 3"]
    """Positions [Å] of all geometries, one after the other."""
    start: Int[np.ndarray, " geometries"] | None = None
    """Index of the geometry that each one was displaced from, -1 if of none; None if not known."""

    def __len__(self) -> int:
        return len(self.molecule)


@dataclass(frozen=True)
class LevelLabels:
    """Labels of all geometries at one level of theory; NaN where there is none."""

    energy: Float64[np.ndarray, " geometries"]
    """Total energy [eV]."""
    forces: Float32[np.ndarray, "geometry_atoms 3"] | None = None
    """Forces [eV/Å], laid out as the positions; None if no geometry has any."""
    charges: Float32[np.ndarray, " geometry_atoms"] | None = None
    """Partial charges [e], laid out as the positions; None if no geometry has any."""
    force_spread: Float32[np.ndarray, " geometries"] | None = None
    """Largest disagreement [eV/Å] on the force on any atom among the models whose mean the forces are, or None."""


@dataclass(frozen=True)
class Store:
    """One data set in memory."""

    molecules: Molecules
    """The molecules."""
    geometries: Geometries
    """Their geometries."""
    labels: dict[str, LevelLabels]
    """Labels by level of theory."""
    source: str
    """Name of the data set."""
    licence: str = ""
    """Licence of the data."""
    doi: str = ""
    """DOI of the publication."""
    provenance: str = ""
    """How the file was made, and from what."""


def offsets_of(counts: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " bounds"]:
    """Where each row of a ragged array begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def geometry_offsets(store: Store) -> Int[np.ndarray, " bounds"]:
    """Where the atoms of each geometry begin in `Geometries.positions` and `LevelLabels.forces`."""
    return offsets_of(store.molecules.n_atoms[store.geometries.molecule])


def n_with_forces(store: Store, level: str) -> int:
    """Number of geometries with forces at a level."""
    forces = store.labels[level].forces
    if forces is None:
        return 0
    return int(np.isfinite(forces[geometry_offsets(store)[:-1], 0]).sum())


def pack_molecules(
    graphs: Sequence[MolGraph], *, smiles: Sequence[str], names: Sequence[str], key_hashes: Sequence[int]
) -> Molecules:
    """Graphs as ragged arrays; the inverse of `molecule_graph`."""
    return Molecules(
        n_atoms=np.array([graph.n_atoms for graph in graphs], dtype=np.int32),
        n_bonds=np.array([len(graph.bonds) for graph in graphs], dtype=np.int32),
        n_tetrahedra=np.array([len(graph.tetrahedra) for graph in graphs], dtype=np.int32),
        n_double_bonds=np.array([len(graph.double_bonds) for graph in graphs], dtype=np.int32),
        atomic_numbers=_join([graph.atomic_numbers for graph in graphs], np.uint8, ()),
        formal_charges=_join([graph.formal_charges for graph in graphs], np.int8, ()),
        bonds=_join([graph.bonds for graph in graphs], np.int32, (2,)),
        bond_orders=_join([graph.bond_orders for graph in graphs], np.uint8, ()),
        tetrahedra=_join([graph.tetrahedra for graph in graphs], np.int32, (4,)),
        double_bonds=_join([graph.double_bonds for graph in graphs], np.int32, (4,)),
        double_bond_is_cis=_join([graph.double_bond_is_cis for graph in graphs], bool, ()),
        multiplicity=np.array([graph.multiplicity for graph in graphs], dtype=np.int32),
        smiles=np.array(smiles, dtype=str),
        name=np.array(names, dtype=str),
        key_hash=np.array(key_hashes, dtype=np.uint64),
    )


def molecule_graph(store: Store, molecule: int) -> MolGraph:
    """The graph of one molecule of a store."""
    m = store.molecules
    rows = {name: slice(offsets[molecule], offsets[molecule + 1]) for name, offsets in m.offsets.items()}
    return make_graph(
        m.atomic_numbers[rows["n_atoms"]],
        m.bonds[rows["n_bonds"]],
        m.bond_orders[rows["n_bonds"]],
        m.formal_charges[rows["n_atoms"]],
        tetrahedra=m.tetrahedra[rows["n_tetrahedra"]],
        double_bonds=m.double_bonds[rows["n_double_bonds"]],
        double_bond_is_cis=m.double_bond_is_cis[rows["n_double_bonds"]],
        multiplicity=int(m.multiplicity[molecule]),
    )


def select_geometries(store: Store, chosen: Int[np.ndarray, " chosen"]) -> Store:
    """The store of these geometries, in this order, and of the molecules that they are of."""
    kept, molecule = np.unique(store.geometries.molecule[chosen], return_inverse=True)
    offsets = geometry_offsets(store).tolist()
    atoms = np.concatenate([np.arange(0), *(np.arange(*offsets[row : row + 2]) for row in chosen.tolist())])
    m, g = store.molecules, store.geometries
    return replace(
        store,
        molecules=pack_molecules(
            [molecule_graph(store, row) for row in kept.tolist()],
            smiles=m.smiles[kept].tolist(),
            names=m.name[kept].tolist(),
            key_hashes=m.key_hash[kept].tolist(),
        ),
        geometries=Geometries(
            molecule.astype(np.int32),
            g.kind[chosen],
            g.minimum_of[chosen],
            g.positions[atoms],
            None if g.start is None else _renumbered(g.start, chosen, len(g)),
        ),
        labels={level: _select_labels(labels, chosen, atoms) for level, labels in store.labels.items()},
    )


def _renumbered(start: np.ndarray, chosen: np.ndarray, n_geometries: int) -> np.ndarray:
    """`Geometries.start` of the chosen geometries; -1 where the start was not chosen."""
    new = np.full(n_geometries + 1, -1, dtype=np.int64)  # the last entry serves -1
    new[chosen] = np.arange(len(chosen))
    return new[start[chosen]].astype(np.int32)


def _select_labels(labels: LevelLabels, chosen: np.ndarray, atoms: np.ndarray) -> LevelLabels:
    return LevelLabels(
        labels.energy[chosen],
        None if labels.forces is None else labels.forces[atoms],
        None if labels.charges is None else labels.charges[atoms],
        None if labels.force_spread is None else labels.force_spread[chosen],
    )


def write_store(path: str | Path, store: Store) -> None:
    """Writes a store; a crash half-way leaves what was there before.

    Raises:
        StoreError: the arrays do not fit together, or the file cannot be written.
        LabelError: a label is neither finite nor absent, or has the wrong shape.
    """
    check_store(store)
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(part, "w") as file:
            _write_attributes(file, store)
            _write_record(file.create_group("molecules"), store.molecules)
            _write_record(file.create_group("geometries"), store.geometries)
            for level, labels in store.labels.items():
                _write_record(file.create_group(f"labels/{level}"), labels)
        os.replace(part, path)
    except OSError as error:
        raise StoreError(f"cannot write the store {path}: {error}; choose a writable place with free space") from error
    finally:
        part.unlink(missing_ok=True)


def open_store(path: str | Path, *, levels: Collection[str] | None = None) -> Store:
    """Reads a store into memory.

    Args:
        path: the file.
        levels: levels of theory whose labels are read, as far as the store has them; all if None.

    Raises:
        StoreError: the file is missing, damaged, no store, newer than this package, or lacks a field.
        LabelError: a label is neither finite nor absent, or has the wrong shape.
    """
    if not Path(path).is_file():
        raise StoreError(f"there is no store {path}; make it with `physcon data import`")
    try:
        with h5py.File(path, "r") as file:
            store = _read_file(file, levels)
    except BlockingIOError as error:
        raise StoreError(
            f"the store {path} is open for writing in another process; try again when it has ended"
        ) from error
    except OSError as error:
        raise StoreError(
            f"{path} is no readable HDF5 file ({error}); it is damaged or something else, import it anew"
        ) from error
    except KeyError as error:
        raise StoreError(f"the store {path} lacks the field {error.args[0]!r}; import it anew") from error
    except StoreError as error:
        raise StoreError(f"{path}: {error}") from error
    check_store(store)
    return store


def check_store(store: Store) -> None:
    """Whether the arrays of a store fit together.

    Raises:
        StoreError: an array has a length that its counts deny, an index out of range, or positions that are not finite.
        LabelError: a label is neither finite nor absent, or has the wrong shape.
    """
    m, g = store.molecules, store.geometries
    n_atoms, n_bonds = int(m.n_atoms.sum()), int(m.n_bonds.sum())
    for name in ("n_bonds", "n_tetrahedra", "n_double_bonds", "multiplicity", "smiles", "name", "key_hash"):
        _expect_shape(f"molecules/{name}", getattr(m, name), (len(m),))
    _expect_shape("molecules/atomic_numbers", m.atomic_numbers, (n_atoms,))
    _expect_shape("molecules/formal_charges", m.formal_charges, (n_atoms,))
    _expect_shape("molecules/bonds", m.bonds, (n_bonds, 2))
    _expect_shape("molecules/bond_orders", m.bond_orders, (n_bonds,))
    _expect_shape("molecules/tetrahedra", m.tetrahedra, (int(m.n_tetrahedra.sum()), 4))
    _expect_shape("molecules/double_bonds", m.double_bonds, (int(m.n_double_bonds.sum()), 4))
    _expect_shape("molecules/double_bond_is_cis", m.double_bond_is_cis, (int(m.n_double_bonds.sum()),))
    for name, counts in (("bonds", m.n_bonds), ("tetrahedra", m.n_tetrahedra), ("double_bonds", m.n_double_bonds)):
        _expect_atom_indices(f"molecules/{name}", getattr(m, name), np.repeat(m.n_atoms, counts))
    _expect_shape("geometries/kind", g.kind, (len(g),))
    _expect_shape("geometries/minimum_of", g.minimum_of, (len(g),))
    if len(g) and not 0 <= g.molecule.min() <= g.molecule.max() < len(m):
        raise StoreError(f"geometries/molecule reaches {g.molecule.max()}, but there are {len(m)} molecules")
    if g.start is not None:
        _expect_shape("geometries/start", g.start, (len(g),))
        if len(g) and not -1 <= g.start.min() <= g.start.max() < len(g):
            raise StoreError(f"geometries/start reaches {g.start.max()}, but there are {len(g)} geometries")
    offsets = geometry_offsets(store)
    _expect_shape("geometries/positions", g.positions, (int(offsets[-1]), 3))
    wrong = np.flatnonzero(~np.isfinite(g.positions).all(axis=1))
    if len(wrong):
        row = int(np.searchsorted(offsets, wrong[0], side="right")) - 1
        raise StoreError(f"the positions of geometry {row} are not finite; leave that geometry out")
    for level, labels in store.labels.items():
        _check_labels(level, labels, offsets)


def check_level_name(level: str) -> None:
    """Refuses the name of a level that no store can have.

    Raises:
        StoreError: names the characters that are allowed.
    """
    if not re.fullmatch(r"[\w.+-]+", level):
        raise StoreError(f"level name {level!r}: allowed are letters, digits, '_', '.', '+' and '-'")


def _check_labels(level: str, labels: LevelLabels, offsets: np.ndarray) -> None:
    check_level_name(level)
    n_geometries = len(offsets) - 1
    if labels.energy.shape != (n_geometries,):
        raise LabelError(
            f"{level}: energies have shape {labels.energy.shape}, expected one for each of {n_geometries} geometries"
        )
    infinite = np.flatnonzero(np.isinf(labels.energy))
    if len(infinite):
        raise LabelError(f"{level}: the energy of geometry {infinite[0]} is infinite; use NaN where there is none")
    if labels.charges is not None:
        _expect_shape(f"labels/{level}/charges", labels.charges, (int(offsets[-1]),))
    if labels.force_spread is not None:
        _expect_shape(f"labels/{level}/force_spread", labels.force_spread, (n_geometries,))
    if labels.forces is None:
        return
    if labels.forces.shape != (offsets[-1], 3):
        raise LabelError(
            f"{level}: forces have shape {labels.forces.shape}, but the geometries have {offsets[-1]} atoms; "
            "give three components for each atom, NaN where there are none"
        )
    finite, absent = np.isfinite(labels.forces).all(axis=1), np.isnan(labels.forces).all(axis=1)
    n_atoms = np.diff(offsets)
    n_finite, n_absent = (
        np.add.reduceat(np.append(mask, False).astype(int), offsets[:-1]) for mask in (finite, absent)
    )
    mixed = np.flatnonzero((n_finite != n_atoms) & (n_absent != n_atoms) & (n_atoms > 0))
    if len(mixed):
        raise LabelError(
            f"{level}: the forces of geometry {mixed[0]} are not finite on every atom; "
            "a geometry has forces on all atoms or NaN on all"
        )


def _expect_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise StoreError(f"{name} has shape {array.shape}, its counts say {shape}; the rows do not fit together")


def _expect_atom_indices(name: str, indices: np.ndarray, n_atoms: np.ndarray) -> None:
    wrong = np.flatnonzero(((indices < 0) | (indices >= n_atoms[:, None])).any(axis=1))
    if len(wrong):
        row = wrong[0]
        raise StoreError(f"{name}[{row}] = {indices[row].tolist()} names an atom of a molecule of {n_atoms[row]} atoms")


def _join(arrays: Sequence[np.ndarray], dtype: Any, width: tuple[int, ...]) -> np.ndarray:
    empty = np.zeros((0, *width), dtype=dtype)
    return np.concatenate([empty, *arrays]).astype(dtype)


def _write_attributes(file: h5py.File, store: Store) -> None:
    file.attrs["format"] = FORMAT
    file.attrs["format_version"] = FORMAT_VERSION
    file.attrs["levels"] = json.dumps(list(store.labels))
    for name in ("source", "licence", "doi", "provenance"):
        file.attrs[name] = getattr(store, name)


def _write_record(group: h5py.Group, record: Any) -> None:
    for field in fields(record):
        value = getattr(record, field.name)
        if value is None:
            continue
        if value.dtype.kind == "U":  # fixed-length bytes compress; variable-length text does not
            value = np.char.encode(value, "utf-8") if value.size else value.astype("S1")
        options = {"compression": "gzip", "compression_opts": 4, "shuffle": True} if value.size else {}
        group.create_dataset(field.name, data=value, **options)


def _read_file(file: h5py.File, levels: Collection[str] | None) -> Store:
    attributes: dict[str, Any] = dict(file.attrs)
    if attributes.get("format") != FORMAT:
        raise StoreError("this HDF5 file is no physcon_ase store; make one with `physcon data import`")
    version = int(attributes["format_version"])
    if version > FORMAT_VERSION:
        raise StoreError(
            f"store format {version} is newer than {FORMAT_VERSION}, which this package reads; update physcon_ase"
        )
    chosen = [level for level in json.loads(attributes["levels"]) if levels is None or level in levels]
    texts = {name: str(attributes[name]) for name in ("source", "licence", "doi", "provenance")}
    return Store(
        molecules=_read_record(file, "molecules", Molecules),
        geometries=_read_record(file, "geometries", Geometries),
        labels={level: _read_record(file, f"labels/{level}", LevelLabels) for level in chosen},
        **texts,
    )


def _read_record(file: h5py.File, group: str, record: type) -> Any:
    values = {}
    for field in fields(record):
        path = f"{group}/{field.name}"
        if field.default is None and path not in file:
            continue
        if path not in file:
            raise KeyError(path)
        dataset: Any = file[path]
        value = dataset[()]
        values[field.name] = np.char.decode(value, "utf-8") if value.dtype.kind == "S" else value
    return record(**values)
