"""Conversion of labelled structures to a store."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from physcon_ase.chem.graph import MolGraph, make_graph
from physcon_ase.chem.perceive import graph_from_geometry
from physcon_ase.chem.smiles import canonical_key, canonical_smiles
from physcon_ase.data.importers.report import ImportReport
from physcon_ase.data.split import key_hash
from physcon_ase.data.store import Geometries, LevelLabels, Store, n_with_forces, pack_molecules
from physcon_ase.errors import LabelError, PhysConError
from physcon_ase.units import CHEMICAL_SYMBOLS


@dataclass(frozen=True)
class Structure:
    """A labelled geometry that has not been assigned to a molecule yet."""

    atomic_numbers: Int[np.ndarray, " atoms"]
    """Atomic number of each atom."""
    positions: Float[np.ndarray, "atoms 3"]
    """Positions [Å]."""
    energy: float = float("nan")
    """Total energy [eV]; NaN if absent."""
    forces: np.ndarray | None = None
    """Forces [eV/Å], [atoms, 3]; None if absent. Checked by `store_from_structures`."""
    smiles: str = ""
    """SMILES if known; determines the split."""
    name: str = ""
    """Name of the molecule if known; structures with the same name belong to the same molecule."""
    kind: str = "structure"
    """`Geometries.kind`."""
    minimum_of: str = ""
    """`Geometries.minimum_of`."""
    charge: int = 0
    """Total charge [e]."""
    multiplicity: int = 1
    """Spin multiplicity."""


@dataclass(frozen=True)
class _Identity:
    """Split key, SMILES and graph of a molecule, and the method by which they were determined."""

    key: str
    smiles: str
    graph: MolGraph
    found_by: str


def store_from_structures(
    structures: Sequence[Structure], level: str, *, source: str, licence: str = "", doi: str = "", provenance: str = ""
) -> tuple[Store, ImportReport]:
    """Groups structures by molecule into a store with labels at one level of theory.

    Structures belong to the same molecule if they have the same name (or, without names, the same SMILES) and the
    same atoms in the same order. The split of a molecule is determined by its SMILES, given or perceived from its first
    structure, or by its formula and name if perception fails. Strongly distorted geometries may be perceived as a
    different molecule; provide names or SMILES for trajectories to keep their frames in one split.

    Raises:
        LabelError: an energy is infinite, or forces do not match the atoms or are not finite.
        StoreError: positions are not finite.
    """
    identities: dict[tuple, _Identity] = {}
    molecule_of: dict[tuple, int] = {}
    members, rows = [], []
    for number, structure in enumerate(structures):
        _check_structure(number, structure)
        atoms = tuple(structure.atomic_numbers.tolist())
        named = (structure.name, structure.smiles, atoms, structure.charge, structure.multiplicity)
        identity = identities.get(named) if structure.name or structure.smiles else None
        if identity is None:
            identity = identities[named] = _identify(structure)
        group = (structure.name, identity.key, identity.graph.bonds.tobytes(), *named[2:])
        if group not in molecule_of:
            molecule_of[group] = len(members)
            members.append((structure, identity))
        rows.append(molecule_of[group])
    store = Store(
        molecules=pack_molecules(
            [identity.graph for _, identity in members],
            smiles=[identity.smiles for _, identity in members],
            names=[structure.name or str(row) for row, (structure, _) in enumerate(members)],
            key_hashes=[key_hash(identity.key) for _, identity in members],
        ),
        geometries=_geometries(structures, rows),
        labels={level: _labels(structures)},
        source=source,
        licence=licence,
        doi=doi,
        provenance=provenance,
    )
    return store, _report(store, level, [identity for _, identity in members])


def _check_structure(number: int, structure: Structure) -> None:
    n_atoms = len(structure.atomic_numbers)
    if np.isinf(structure.energy):
        raise LabelError(f"structure {number}: the energy is {structure.energy}; use NaN for missing energies")
    if structure.forces is None:
        return
    if np.shape(structure.forces) != (n_atoms, 3):
        raise LabelError(f"structure {number}: forces have shape {np.shape(structure.forces)}, expected {(n_atoms, 3)}")
    if not np.isfinite(structure.forces).all():
        raise LabelError(f"structure {number}: the forces are not finite; use None for missing forces")


def _identify(structure: Structure) -> _Identity:
    graph, found_by = _graph_of(structure)
    if structure.smiles:
        return _Identity(canonical_key(structure.smiles), structure.smiles, graph, "given SMILES")
    if len(graph.bonds) or graph.n_atoms == 1:
        smiles = canonical_smiles(graph)
        return _Identity(canonical_key(smiles), smiles, graph, found_by)
    return _Identity(
        f"{_formula(structure)} {structure.name}".strip(), "", graph, "formula and name, perception failed"
    )


def _graph_of(structure: Structure) -> tuple[MolGraph, str]:
    numbers = structure.atomic_numbers
    try:
        graph = graph_from_geometry(numbers, structure.positions, structure.charge)
    except PhysConError:  # the energy task does not require bonds
        bare = make_graph(
            numbers, np.zeros((0, 2)), np.zeros(0), _charges(structure), multiplicity=structure.multiplicity
        )
        return bare, "formula and name, perception failed"
    if structure.multiplicity != 1:  # perception assumes closed shells
        graph = replace(graph, multiplicity=structure.multiplicity)
    return graph, "SMILES perceived from the geometry"


def _charges(structure: Structure) -> np.ndarray:
    """Formal charges with the total charge on the first atom, since its location is unknown without bonds."""
    charges = np.zeros(len(structure.atomic_numbers), dtype=np.int32)
    charges[:1] = structure.charge
    return charges


def _formula(structure: Structure) -> str:
    numbers, counts = np.unique(structure.atomic_numbers, return_counts=True)
    return "".join(f"{CHEMICAL_SYMBOLS[int(z)]}{count}" for z, count in zip(numbers, counts, strict=True))


def _geometries(structures: Sequence[Structure], rows: Sequence[int]) -> Geometries:
    return Geometries(
        molecule=np.array(rows, dtype=np.int32),
        kind=np.array([structure.kind for structure in structures], dtype=str),
        minimum_of=np.array([structure.minimum_of for structure in structures], dtype=str),
        positions=np.concatenate([np.zeros((0, 3)), *(s.positions for s in structures)]).astype(np.float32),
    )


def _labels(structures: Sequence[Structure]) -> LevelLabels:
    energy = np.array([structure.energy for structure in structures], dtype=np.float64)
    if all(structure.forces is None for structure in structures):
        return LevelLabels(energy)
    forces = [np.full(np.shape(s.positions), np.nan) if s.forces is None else s.forces for s in structures]
    return LevelLabels(energy, np.concatenate(forces).astype(np.float32))


def _report(store: Store, level: str, identities: Sequence[_Identity]) -> ImportReport:
    ways, counts = np.unique([identity.found_by for identity in identities], return_counts=True)
    n_energies = int(np.isfinite(store.labels[level].energy).sum())
    notes = [f"{count} molecules identified by {way}" for way, count in zip(ways, counts, strict=True)]
    notes.append(f"{level}: {n_energies} energies, {n_with_forces(store, level)} geometries with forces")
    n_bare = sum(len(identity.graph.bonds) == 0 and identity.graph.n_atoms > 1 for identity in identities)
    notes.append(f"{n_bare} molecules without bonds: the structure task cannot use them")
    n = len(store.geometries)
    return ImportReport(store.source, n, len(store.molecules), n, {}, tuple(notes))
