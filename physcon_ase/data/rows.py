"""Stores from plain records: molecules, their geometries, and the labels of each geometry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import canonical_key, canonical_smiles
from physcon_ase.data.split import key_hash
from physcon_ase.data.store import Geometries, LevelLabels, Store, pack_molecules


@dataclass(frozen=True)
class MoleculeRow:
    """A molecule of a store."""

    graph: MolGraph
    """The molecule."""
    smiles: str
    """SMILES, empty if unknown."""
    name: str
    """Name in the original data set."""
    key_hash: int
    """`split.key_hash`, which determines the split."""


def molecule_row(graph: MolGraph, name: str) -> MoleculeRow:
    """A molecule whose SMILES and split follow from its graph."""
    return MoleculeRow(graph, canonical_smiles(graph), name, key_hash(canonical_key(graph)))


@dataclass(frozen=True)
class Label:
    """Labels of a geometry at one level of theory."""

    energy: float
    """Total energy [eV]; NaN if unknown."""
    forces: Float[np.ndarray, "atoms 3"] | None = None
    """Forces [eV/Å]; None if unknown."""
    charges: Float[np.ndarray, " atoms"] | None = None
    """Partial charges [e]; None if unknown."""
    force_spread: float | None = None
    """Ensemble disagreement [eV/Å] for forces that are the mean of several models; None if unknown."""


@dataclass(frozen=True)
class GeometryRow:
    """A geometry of a store."""

    molecule: int
    """Index of the molecule."""
    positions: Float[np.ndarray, "atoms 3"]
    """Positions [Å]."""
    kind: str
    """`Geometries.kind`."""
    minimum_of: str = ""
    """`Geometries.minimum_of`."""
    labels: Mapping[str, Label] = field(default_factory=dict)
    """Labels by level of theory."""
    start: int = -1
    """`Geometries.start`."""


def store_from_rows(
    molecules: Sequence[MoleculeRow],
    geometries: Sequence[GeometryRow],
    *,
    levels: Sequence[str] = (),
    with_starts: bool = False,
    source: str,
    licence: str = "",
    doi: str = "",
    provenance: str = "",
) -> Store:
    """The store of these molecules and geometries, in their order.

    Args:
        molecules: the molecules.
        geometries: their geometries.
        levels: levels that the store has even if no geometry has a label; others are added as they occur.
        with_starts: whether `GeometryRow.start` is known.
        source: `Store.source`.
        licence: `Store.licence`.
        doi: `Store.doi`.
        provenance: `Store.provenance`.
    """
    names = dict.fromkeys([*levels, *(level for row in geometries for level in row.labels)])
    return Store(
        molecules=pack_molecules(
            [row.graph for row in molecules],
            smiles=[row.smiles for row in molecules],
            names=[row.name for row in molecules],
            key_hashes=[row.key_hash for row in molecules],
        ),
        geometries=Geometries(
            molecule=np.array([row.molecule for row in geometries], dtype=np.int32),
            kind=np.array([row.kind for row in geometries], dtype=str),
            minimum_of=np.array([row.minimum_of for row in geometries], dtype=str),
            positions=np.concatenate([np.zeros((0, 3)), *(row.positions for row in geometries)]).astype(np.float32),
            start=np.array([row.start for row in geometries], dtype=np.int32) if with_starts else None,
        ),
        labels={level: _labels(geometries, level) for level in names},
        source=source,
        licence=licence,
        doi=doi,
        provenance=provenance,
    )


def _labels(geometries: Sequence[GeometryRow], level: str) -> LevelLabels:
    labels = [row.labels.get(level, _UNKNOWN) for row in geometries]
    sizes = [len(row.positions) for row in geometries]
    spread = np.array([np.nan if own.force_spread is None else own.force_spread for own in labels], dtype=np.float32)
    return LevelLabels(
        energy=np.array([own.energy for own in labels], dtype=np.float64),
        forces=_joined([own.forces for own in labels], [(size, 3) for size in sizes]),
        charges=_joined([own.charges for own in labels], [(size,) for size in sizes]),
        force_spread=spread if np.isfinite(spread).any() else None,
    )


_UNKNOWN = Label(float("nan"))


def _joined(arrays: Sequence[np.ndarray | None], shapes: Sequence[tuple[int, ...]]) -> np.ndarray | None:
    """The arrays one after the other, NaN where there is none; None if there are none at all."""
    if all(array is None for array in arrays):
        return None
    filled = [np.full(shape, np.nan) if array is None else array for array, shape in zip(arrays, shapes, strict=True)]
    return np.concatenate(filled).astype(np.float32)
