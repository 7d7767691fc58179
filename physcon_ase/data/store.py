"""Store: molecules, geometries and labels of one data set in one HDF5 file.

Layout: `molecules/<field of Molecules>`, `geometries/<field of Geometries>`, `labels/<level>/<field of LevelLabels>`;
format version, levels, source, licence, DOI and provenance are attributes of the file. Ragged arrays are stored as a
flat array and its counts. The levels of theory can be read individually.
"""

import json
import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from jaxtyping import Float32, Float64, Int, UInt8, UInt64

from physcon_ase.chem.graph import MolGraph, make_graph
from physcon_ase.errors import LabelError, StoreError
from physcon_ase.plurals import counted

FORMAT: Final = "physcon_ase store"
"""Value of the attribute `format` that identifies a store."""

FORMAT_VERSION: Final = 1
"""Version of the layout written by this package, and the latest version it can read."""


@dataclass(frozen=True)
class Molecules:
    """Concatenated graphs of all molecules; molecule i has `n_atoms[i]` entries in every per-atom array."""

    n_atoms: Int[np.ndarray, " molecules"]
    """Number of atoms."""
    n_bonds: Int[np.ndarray, " molecules"]
    """Number of bonds; 0 if the bonds are unknown."""
    n_tetrahedra: Int[np.ndarray, " molecules"]
    """Number of tetrahedral stereocentres."""
    n_double_bonds: Int[np.ndarray, " molecules"]
    """Number of stereo double bonds."""
    atomic_numbers: UInt8[np.ndarray, " atoms"]
    """Atomic number of each atom."""
    formal_charges: Int[np.ndarray, " atoms"]
    """Formal charge [e] of each atom."""
    bonds: Int[np.ndarray, "bonds 2"]
    """Atom indices of each bond, relative to the molecule."""
    bond_orders: UInt8[np.ndarray, " bonds"]
    """Kekulé bond order 1, 2 or 3, plus 10 for aromatic bonds."""
    tetrahedra: Int[np.ndarray, "stereocentres 4"]
    """`MolGraph.tetrahedra`, atom indices relative to the molecule."""
    double_bonds: Int[np.ndarray, "stereobonds 4"]
    """`MolGraph.double_bonds`, atom indices relative to the molecule."""
    double_bond_is_cis: np.ndarray
    """`MolGraph.double_bond_is_cis`, bool [stereobonds]."""
    multiplicity: Int[np.ndarray, " molecules"]
    """Spin multiplicity 2S + 1."""
    smiles: np.ndarray
    """SMILES, text [molecules]; empty if unknown."""
    name: np.ndarray
    """Name of the molecule in the original data set, text [molecules]."""
    key_hash: UInt64[np.ndarray, " molecules"]
    """`split.key_hash` of the molecule, which determines its split."""

    def __len__(self) -> int:
        return len(self.n_atoms)

    @cached_property
    def offsets(self) -> dict[str, np.ndarray]:
        """`offsets_of` for each of the four counts, by field name."""
        return {
            name: offsets_of(getattr(self, name)) for name in ("n_atoms", "n_bonds", "n_tetrahedra", "n_double_bonds")
        }

    @cached_property
    def charges(self) -> Int[np.ndarray, " molecules"]:
        """Total charge [e] of each molecule."""
        return self.sums(self.formal_charges)

    def sums(self, values: np.ndarray) -> Int[np.ndarray, " molecules"]:
        """Sum over the atoms of each molecule of integers, or number of True values, [atoms]."""
        return np.diff(offsets_of(values.astype(np.int64))[self.offsets["n_atoms"]])


@dataclass(frozen=True)
class Geometries:
    """Geometries of the molecules; any number per molecule."""

    molecule: Int[np.ndarray, " geometries"]
    """Index of the molecule."""
    kind: np.ndarray
    """Kind of geometry, text [geometries]: "minimum", "thermal", "conformer" or any other word."""
    minimum_of: np.ndarray
    """Level of theory at which the geometry is a minimum, text [geometries]; empty if it is not one. Forces vanish at
    this level, and bonds and configuration are those of the molecule."""
    positions: Float32[np.ndarray, "geometry_atoms 3"]
    """Positions [Å] of all geometries, concatenated."""
    start: Int[np.ndarray, " geometries"] | None = None
    """Index of the geometry from which each one was displaced, -1 if none; None if unknown."""

    def __len__(self) -> int:
        return len(self.molecule)


@dataclass(frozen=True)
class LevelLabels:
    """Labels of all geometries at one level of theory; missing labels are NaN."""

    energy: Float64[np.ndarray, " geometries"]
    """Total energy [eV]."""
    forces: Float32[np.ndarray, "geometry_atoms 3"] | None = None
    """Forces [eV/Å], in the layout of the positions; None if no geometry has forces."""
    charges: Float32[np.ndarray, " geometry_atoms"] | None = None
    """Partial charges [e], in the layout of the positions; None if no geometry has charges."""
    force_spread: Float32[np.ndarray, " geometries"] | None = None
    """Ensemble disagreement [eV/Å] for forces that are the mean of several models, see
    `labelling.engines.force_disagreement`; None if not available."""


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
    """Description of how the data were generated."""


def offsets_of(counts: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " bounds"]:
    """Start of each row of a ragged array, and end of the last row."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def geometry_offsets(store: Store) -> Int[np.ndarray, " bounds"]:
    """Start of the atoms of each geometry in `Geometries.positions` and `LevelLabels.forces`, and end of the last."""
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
    """Packs graphs into ragged arrays; inverse of `molecule_graph`."""
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
    """Graph of one molecule of a store."""
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
    """Store with the chosen geometries, in this order, and their molecules."""
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
    """`Geometries.start` of the chosen geometries; -1 if the start was not chosen."""
    new = np.full(n_geometries + 1, -1, dtype=np.int64)  # index -1 maps to the last entry
    new[chosen] = np.arange(len(chosen))
    return new[start[chosen]].astype(np.int32)


def _select_labels(labels: LevelLabels, chosen: np.ndarray, atoms: np.ndarray) -> LevelLabels:
    return LevelLabels(
        labels.energy[chosen],
        None if labels.forces is None else labels.forces[atoms],
        None if labels.charges is None else labels.charges[atoms],
        None if labels.force_spread is None else labels.force_spread[chosen],
    )


def check_other_file(output: str | Path, inputs: Iterable[str | Path]) -> None:
    """Raises StoreError if the output is one of the inputs."""
    if Path(output).resolve() in [Path(path).resolve() for path in inputs]:
        raise StoreError(f"input and output are both {output}; choose another output")


def write_store(path: str | Path, store: Store) -> None:
    """Writes a store atomically; an existing file is preserved if writing fails.

    Raises:
        StoreError: the arrays are inconsistent, or the file cannot be written.
        LabelError: a label is neither finite nor NaN, or has the wrong shape.
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
        raise StoreError(f"cannot write the store {path}: {error}; check permissions and free disk space") from error
    finally:
        part.unlink(missing_ok=True)


def open_store(path: str | Path, *, levels: Collection[str] | None = None) -> Store:
    """Reads a store into memory.

    Args:
        path: the file.
        levels: levels of theory whose labels are read, if present in the store; all if None.

    Raises:
        StoreError: the file is missing, damaged, not a store, of a newer format, or lacks a field.
        LabelError: a label is neither finite nor NaN, or has the wrong shape.
    """
    if not Path(path).is_file():
        raise StoreError(f"there is no store {path}; create it with `physcon data import`")
    try:
        with h5py.File(path, "r") as file:
            store = _read_file(file, levels)
    except BlockingIOError as error:
        raise StoreError(
            f"the store {path} is open for writing in another process; try again when that process has finished"
        ) from error
    except OSError as error:
        raise StoreError(
            f"{path} is not a readable HDF5 file ({error}); it is damaged or of another format, import the data again"
        ) from error
    except KeyError as error:
        raise StoreError(f"the store {path} lacks the field {error.args[0]!r}; import the data again") from error
    except StoreError as error:
        raise StoreError(f"{path}: {error}") from error
    check_store(store)
    return store


def check_store(store: Store) -> None:
    """Checks the consistency of the arrays of a store.

    Raises:
        StoreError: an array does not match its counts, an index is out of range, or positions are not finite.
        LabelError: a label is neither finite nor NaN, or has the wrong shape.
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
        raise StoreError(f"geometries/molecule contains index {g.molecule.max()}, but there are {len(m)} molecules")
    if g.start is not None:
        _expect_shape("geometries/start", g.start, (len(g),))
        if len(g) and not -1 <= g.start.min() <= g.start.max() < len(g):
            raise StoreError(f"geometries/start contains index {g.start.max()}, but there are {len(g)} geometries")
    offsets = geometry_offsets(store)
    _expect_shape("geometries/positions", g.positions, (int(offsets[-1]), 3))
    wrong = np.flatnonzero(~np.isfinite(g.positions).all(axis=1))
    if len(wrong):
        row = int(np.searchsorted(offsets, wrong[0], side="right")) - 1
        raise StoreError(f"the positions of geometry {row} are not finite; remove this geometry")
    for level, labels in store.labels.items():
        _check_labels(level, labels, offsets)


def check_level_name(level: str) -> None:
    """Checks that the name of a level can be used in a store.

    Raises:
        StoreError: the name contains other characters than those allowed.
    """
    if not re.fullmatch(r"[\w.+-]+", level):
        raise StoreError(f"invalid level name {level!r}: allowed are letters, digits, '_', '.', '+' and '-'")


def _check_labels(level: str, labels: LevelLabels, offsets: np.ndarray) -> None:
    check_level_name(level)
    n_geometries = len(offsets) - 1
    if labels.energy.shape != (n_geometries,):
        raise LabelError(
            f"{level}: energies have shape {labels.energy.shape}, expected one for each of {n_geometries} geometries"
        )
    infinite = np.flatnonzero(np.isinf(labels.energy))
    if len(infinite):
        raise LabelError(f"{level}: the energy of geometry {infinite[0]} is infinite; use NaN for missing energies")
    if labels.charges is not None:
        _expect_shape(f"labels/{level}/charges", labels.charges, (int(offsets[-1]),))
        infinite = np.flatnonzero(np.isinf(labels.charges))
        if len(infinite):
            row = int(np.searchsorted(offsets, infinite[0], side="right")) - 1
            raise LabelError(f"{level}: a charge of geometry {row} is infinite; use NaN for missing charges")
    if labels.force_spread is not None:
        _expect_shape(f"labels/{level}/force_spread", labels.force_spread, (n_geometries,))
    if labels.forces is None:
        return
    if labels.forces.shape != (offsets[-1], 3):
        raise LabelError(
            f"{level}: forces have shape {labels.forces.shape}, but the geometries have "
            f"{counted(offsets[-1], 'atom')}; give three components for each atom, NaN for missing forces"
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
            "give finite forces on all atoms, or NaN on all atoms"
        )


def _expect_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise StoreError(f"{name} has shape {array.shape}, expected {shape} from the counts; the store is inconsistent")


def _expect_atom_indices(name: str, indices: np.ndarray, n_atoms: np.ndarray) -> None:
    wrong = np.flatnonzero(((indices < 0) | (indices >= n_atoms[:, None])).any(axis=1))
    if len(wrong):
        row = wrong[0]
        raise StoreError(f"{name}[{row}] = {indices[row].tolist()} is out of range for {counted(n_atoms[row], 'atom')}")


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
        if value.dtype.kind == "U":  # unlike variable-length text, fixed-length bytes can be compressed
            value = np.char.encode(value, "utf-8") if value.size else value.astype("S1")
        options = {"compression": "gzip", "compression_opts": 4, "shuffle": True} if value.size else {}
        group.create_dataset(field.name, data=value, **options)


def _read_file(file: h5py.File, levels: Collection[str] | None) -> Store:
    attributes: dict[str, Any] = dict(file.attrs)
    if attributes.get("format") != FORMAT:
        raise StoreError("this HDF5 file is not a physcon_ase store; create one with `physcon data import`")
    version = int(attributes["format_version"])
    if version > FORMAT_VERSION:
        raise StoreError(
            f"store format {version} is newer than {FORMAT_VERSION}, the latest supported one; update physcon_ase"
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
