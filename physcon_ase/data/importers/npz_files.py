"""Import of the NumPy archives of docs/data.md and of earlier checkpoints.

Per-atom and per-bond arrays are ragged: molecule i has `n_atoms[i]` and `n_bonds[i]` consecutive entries. The format of
an archive is recognised by its fields, not by its file name.
"""

import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from physcon_ase.chem.compare import bonds_intact, stereo_intact
from physcon_ase.chem.graph import MolGraph, graph_bytes
from physcon_ase.chem.overlap import overlapping_atoms
from physcon_ase.chem.perceive import graph_from_bonds
from physcon_ase.chem.smiles import canonical_key
from physcon_ase.data.identity import check_composition
from physcon_ase.data.importers.report import ImportReport
from physcon_ase.data.split import key_hash
from physcon_ase.data.store import Geometries, LevelLabels, Store, n_with_forces, offsets_of, pack_molecules
from physcon_ase.errors import LabelError, PhysConError, StoreError
from physcon_ase.plurals import counted

_COUNTS: Final = ("n_atoms", "n_bonds")

_GRAPH_FIELDS: Final = {"n_atoms", "n_bonds", "atomic_numbers", "bonds", "bond_orders", "formal_charges", "smiles"}

_FREQUENCY_FIELDS: Final = {"gdb", "n_modes", "frequencies", "zpve", "dipole_debye"}

_QUANTUM: Final = 2048
"""Positions in the GFN2 archives are integers in units of 1/2048 Å."""


@dataclass(frozen=True)
class ArchiveFormat:
    """Format of an archive."""

    name: str
    """Name of the data set."""
    fields: frozenset[str]
    """Fields of the archive, except those of the molecular graph."""
    identifier: str | None
    """Field with the name of each molecule; None if molecules are identified by their row."""
    minimum_of: str
    """Level of theory whose minima the (first) geometries are; empty if they are not minima."""
    energies: Mapping[str, str]
    """Level of theory by field, for the energies of these geometries."""
    licence: str
    """Licence of the data."""
    doi: str
    """DOI of the publication."""
    origin: str
    """Origin of structures and labels."""
    kind: str = "minimum"
    """Kind of the (first) geometries."""
    forces: Mapping[str, str] = field(default_factory=dict)
    """Level of theory by field, for the forces at these geometries."""
    rows_are_conformers: bool = False
    """Whether rows with identical graphs are conformers of one molecule, named after the first row."""


_QM9_DOI: Final = "10.1038/sdata.2014.22"

_OPENFF_LEVEL: Final = "b3lyp-d3"
"""Level of the OpenFF archives: B3LYP-D3(BJ)/DZVP."""

FORMATS: Final = (
    ArchiveFormat(
        name="qm9_b3lyp",
        fields=frozenset({"gdb", "positions", "energy_b3lyp", "energy_mp2", "energy_hf"}),
        identifier="gdb",
        minimum_of="b3lyp",
        energies={"energy_b3lyp": "b3lyp", "energy_mp2": "mp2", "energy_hf": "hf"},
        licence="CC0",
        doi=_QM9_DOI,
        origin="QM9 minima at B3LYP/6-31G(2df,p); energies B3LYP (U0 - ZPVE), RI-MP2/def2-TZVP and HF/def2-TZVP",
    ),
    ArchiveFormat(
        name="c7h10o2_b3lyp",
        fields=frozenset({"positions", "energy_b3lyp"}),
        identifier=None,
        minimum_of="b3lyp",
        # Not "b3lyp": the energies of the 218 molecules that are also in QM9 are higher by 12.81 ± 0.13 eV, about three
        # times their zero-point energy. The two energy scales must not be mixed at one level.
        energies={"energy_b3lyp": "b3lyp_c7h10o2"},
        licence="CC0",
        doi=_QM9_DOI,
        origin="C7H10O2 isomers, minima at B3LYP/6-31G(2df,p); energies on another scale than those of QM9",
    ),
    ArchiveFormat(
        name="gfn2_qm9",
        fields=frozenset({"gdb", "positions_q", "energy", "forces", "converged"}),
        identifier="gdb",
        minimum_of="b3lyp",
        energies={},
        licence="CC0",
        doi=_QM9_DOI,
        origin="QM9 molecules: B3LYP minimum, GFN2-xTB minimum, thermal displacements; GFN2-xTB labels (tblite)",
    ),
    ArchiveFormat(
        name="gfn2_dft8k",
        fields=frozenset({"id", "positions_q", "energy", "forces", "converged"}),
        identifier="id",
        minimum_of="m062x",
        energies={},
        licence="MIT",
        doi="10.1039/D1SC03343C",
        origin="DFT8K molecules: M06-2X minimum, GFN2-xTB minimum, thermal displacements; GFN2-xTB labels (tblite)",
    ),
    ArchiveFormat(
        name="dft8k_m062x",
        fields=frozenset({"id", "positions", "positions_mmff94"}),
        identifier="id",
        minimum_of="m062x",
        energies={},
        licence="MIT",
        doi="10.1039/D1SC03343C",
        origin="DFT8K minima at M06-2X/def2-TZVP, and MMFF94 minima of the same conformers",
    ),
    ArchiveFormat(
        name="qm7_pbe0",
        fields=frozenset({"positions", "atomization_energy_pbe0"}),
        identifier=None,
        minimum_of="pbe0",
        # Atomisation energies have a different zero from total energies and therefore a separate level.
        energies={"atomization_energy_pbe0": "pbe0_atomization"},
        licence="MIT",
        doi="10.1103/PhysRevLett.108.058301",
        origin="QM7 minima at PBE0/def2-TZVP; atomisation energies PBE0",
    ),
    ArchiveFormat(
        name="b3lyp_thermal",
        fields=frozenset({"name", "positions", "energy_b3lyp_pyscf", "forces_b3lyp_pyscf"}),
        identifier="name",
        kind="thermal",
        minimum_of="",
        # Energies differ from those of QM9 by 0.1 to 0.25 eV (spherical instead of Cartesian d functions). Only one of
        # the two sets of energies may be used at this level.
        energies={"energy_b3lyp_pyscf": "b3lyp"},
        forces={"forces_b3lyp_pyscf": "b3lyp"},
        licence="CC0",
        doi=_QM9_DOI,
        origin="thermal geometries of QM9 molecules; energies and forces B3LYP/6-31G(2df,p) (PySCF, "
        "recipes/b3lyp-thermal); energies on another scale than those of QM9",
    ),
    ArchiveFormat(
        name="openff_minima_dzvp",
        fields=frozenset({"positions", "energy", "charge", "record", "meta"}),
        identifier="record",
        minimum_of=_OPENFF_LEVEL,
        energies={"energy": _OPENFF_LEVEL},
        licence="MIT",
        doi="10.1021/acs.jcim.2c01185",
        origin="drug-like molecules of the OpenFF Industry Benchmark Season 1 v1.0; minima and energies "
        "B3LYP-D3(BJ)/DZVP (Psi4, geomeTRIC)",
        rows_are_conformers=True,
    ),
    ArchiveFormat(
        name="openff_torsions_dzvp",
        fields=frozenset({"positions", "energy", "forces", "charge", "drive", "angle", "dihedral", "meta"}),
        identifier="drive",
        kind="torsion-drive",
        minimum_of="",
        energies={"energy": _OPENFF_LEVEL},
        forces={"forces": _OPENFF_LEVEL},
        licence="MIT",
        doi="",
        origin="torsion drives of the Open Force Field Initiative; constrained minima with energies and forces "
        "B3LYP-D3(BJ)/DZVP (Psi4, geomeTRIC)",
        rows_are_conformers=True,
    ),
)
"""Supported archives."""


@dataclass(frozen=True)
class _Geometry:
    """One geometry of every molecule, in the atom order of the archive."""

    kind: np.ndarray
    """Kind of each geometry, [molecules]."""
    minimum_of: np.ndarray
    """Level of theory of each minimum, [molecules]."""
    positions: np.ndarray
    """Positions [Å], [atoms, 3]."""
    energies: Mapping[str, np.ndarray]
    """Energies [eV] by level, [molecules]."""
    forces: Mapping[str, np.ndarray]
    """Forces [eV/Å] by level, [atoms, 3]."""
    may_be_absent: bool = False
    """Whether NaN on all atoms of a molecule marks a missing geometry."""


def read_archive(
    path: str | Path, *, on_progress: Callable[[int, int], None] | None = None
) -> tuple[Store, ImportReport]:
    """Reads an archive into a store.

    Args:
        path: the archive.
        on_progress: called periodically with the number of processed molecules and their total.

    Raises:
        StoreError: the file is not an archive, matches none of `FORMATS`, or its arrays are inconsistent.
        LabelError: labels are not finite and not marked as missing.
    """
    archive = _load(path)
    layout = _recognise(path, archive)
    _check_rows(path, archive)
    geometries = _quartet(archive, layout) if "positions_q" in archive else _single(archive, layout)
    atoms_of = offsets_of(archive["n_atoms"])
    graphs, hashes = _perceive(path, archive, geometries[0].positions, on_progress)
    geometries = [geometries[0], *(_without_rearranged(geometry, graphs, atoms_of) for geometry in geometries[1:])]
    names = (archive[layout.identifier] if layout.identifier else np.arange(len(graphs))).astype(str)
    if layout.rows_are_conformers:
        first_rows, molecule_of_row = _group_conformers(graphs)
    else:
        first_rows = molecule_of_row = np.arange(len(graphs))
    molecules = pack_molecules(
        [graphs[row] for row in first_rows],
        smiles=archive["smiles"][first_rows].tolist(),
        names=names[first_rows].tolist(),
        key_hashes=[hashes[row] for row in first_rows],
    )
    present = [_present(path, geometry, atoms_of, archive["atomic_numbers"]) for geometry in geometries]
    store = Store(
        molecules=molecules,
        geometries=_join_geometries(geometries, present, atoms_of, molecule_of_row),
        labels=_join_labels(geometries, present, atoms_of),
        source=layout.name,
        licence=layout.licence,
        doi=layout.doi,
        provenance=f"{layout.origin}. Imported from {Path(path).name}; bonds perceived from the structures with RDKit.",
    )
    return store, _report(store, geometries, present)


def _load(path: str | Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise StoreError(f"{path} is not a readable NumPy archive ({error}); download or create it again") from error


def _recognise(path: str | Path, archive: Mapping[str, np.ndarray]) -> ArchiveFormat:
    for layout in FORMATS:
        if set(archive) == layout.fields | _GRAPH_FIELDS:
            return layout
    if set(archive) == _FREQUENCY_FIELDS:
        raise StoreError(
            f"{path} contains frequencies without structures and cannot be converted to a store; "
            "benchmarks/frequencies.py reads it together with the minima of QM9"
        )
    known = "; ".join(f"{layout.name}: {', '.join(sorted(layout.fields))}" for layout in FORMATS)
    raise StoreError(
        f"{path} has the fields {', '.join(sorted(archive))}, which match no known archive; "
        f"allowed are, in addition to {', '.join(sorted(_GRAPH_FIELDS))}: {known}"
    )


def _check_rows(path: str | Path, archive: Mapping[str, np.ndarray]) -> None:
    for name in _COUNTS:
        counts = archive[name]
        if counts.ndim != 1 or counts.dtype.kind not in "iu" or (counts < (name == "n_atoms")).any():
            raise StoreError(
                f"{path}: {name} is not an array of counts ({counts.dtype}, {counts.shape}); the archive is damaged"
            )
    n_molecules, n_atoms = len(archive["n_atoms"]), int(archive["n_atoms"].sum(dtype=np.int64))
    n_bonds = int(archive["n_bonds"].sum(dtype=np.int64))
    shapes = {
        "atomic_numbers": (n_atoms,), "formal_charges": (n_atoms,), "bonds": (n_bonds, 2), "bond_orders": (n_bonds,),
        "positions": (n_atoms, 3), "positions_mmff94": (n_atoms, 3), "forces_b3lyp_pyscf": (n_atoms, 3),
        "positions_q": (4, n_atoms, 3), "forces": (n_atoms, 3), "dihedral": (n_molecules, 4), "meta": (),
    }  # fmt: skip
    if "positions_q" in archive:
        shapes |= {"forces": (4, n_atoms, 3), "energy": (n_molecules, 4)}
    for name, values in archive.items():
        shape = shapes.get(name, (n_molecules,))
        if values.shape != shape:
            raise StoreError(
                f"{path}: {name} has shape {values.shape}, expected {shape} for {n_molecules} molecules with {n_atoms} "
                f"atoms and {n_bonds} bonds; the archive is inconsistent, download or create it again"
            )
    molecule_of_bond = np.repeat(np.arange(n_molecules), archive["n_bonds"])
    bonds, n_atoms_of_bond = archive["bonds"], archive["n_atoms"][molecule_of_bond][:, None]
    outside = np.flatnonzero(((bonds < 0) | (bonds >= n_atoms_of_bond)).any(axis=1))
    if len(outside):
        row = molecule_of_bond[outside[0]]
        raise StoreError(
            f"{path}: row {row} has {counted(archive['n_atoms'][row], 'atom')}, but a bond to an atom index out of "
            "range; the archive is damaged"
        )


def _single(archive: Mapping[str, np.ndarray], layout: ArchiveFormat) -> list[_Geometry]:
    n = len(archive["n_atoms"])
    energies = {level: archive[name] for name, level in layout.energies.items()}
    forces = {level: archive[name] for name, level in layout.forces.items()}
    kind = np.full(n, layout.kind)
    geometries = [_Geometry(kind, np.full(n, layout.minimum_of), archive["positions"], energies, forces)]
    if "positions_mmff94" in archive:
        geometries.append(
            _Geometry(kind, np.full(n, "mmff94"), archive["positions_mmff94"], {}, {}, may_be_absent=True)
        )
    return geometries


def _quartet(archive: Mapping[str, np.ndarray], layout: ArchiveFormat) -> list[_Geometry]:
    n = len(archive["n_atoms"])
    converged = archive["converged"]
    kinds = [
        np.full(n, "minimum"),
        np.where(converged, "minimum", "unconverged"),
        np.full(n, "thermal"),
        np.full(n, "conformer"),
    ]
    minima_of = [np.full(n, layout.minimum_of), np.where(converged, "gfn2", ""), np.full(n, ""), np.full(n, "")]
    return [
        _Geometry(
            kinds[g],
            minima_of[g],
            archive["positions_q"][g].astype(np.float32) / np.float32(_QUANTUM),
            {"gfn2": archive["energy"][:, g]},
            {"gfn2": archive["forces"][g].astype(np.float32)},
        )
        for g in range(4)
    ]


def _perceive(
    path: str | Path,
    archive: Mapping[str, np.ndarray],
    positions: np.ndarray,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[list[MolGraph], list[int]]:
    """Graphs, with stereochemistry perceived from the positions, and key hashes."""
    atoms_of, bonds_of = offsets_of(archive["n_atoms"]), offsets_of(archive["n_bonds"])
    graphs, hashes = [], []
    for row, smiles in enumerate(archive["smiles"].tolist()):
        atoms, bonds = slice(atoms_of[row], atoms_of[row + 1]), slice(bonds_of[row], bonds_of[row + 1])
        try:
            graph = graph_from_bonds(
                archive["atomic_numbers"][atoms],
                archive["bonds"][bonds],
                archive["bond_orders"][bonds],
                archive["formal_charges"][atoms],
                positions=positions[atoms],
            )
            if "charge" in archive and graph.charge != archive["charge"][row]:
                raise StoreError(
                    f"formal charges sum to {graph.charge:+d}, expected a total charge of {archive['charge'][row]:+d}"
                )
            check_composition(graph.atomic_numbers, smiles)
            graphs.append(graph)
            hashes.append(key_hash(canonical_key(smiles)))
        except PhysConError as error:
            raise StoreError(f"{path}: row {row} ({smiles}) has no valid molecular graph: {error}") from error
        if on_progress is not None and row % 100 == 0:
            on_progress(row, len(archive["smiles"]))
    return graphs, hashes


def _group_conformers(graphs: Sequence[MolGraph]) -> tuple[np.ndarray, np.ndarray]:
    """First row of each molecule, and molecule of each row; rows with identical graphs are one molecule.

    Conformers with a different atom order, or with exchanged stereocentres of a meso compound, count as separate
    molecules; their split is the same.
    """
    molecule_by_graph: dict[tuple[bytes, ...], int] = {}
    first_rows, molecule_of_row = [], []
    for row, graph in enumerate(graphs):
        key = graph_bytes(graph)
        if key not in molecule_by_graph:
            molecule_by_graph[key] = len(first_rows)
            first_rows.append(row)
        molecule_of_row.append(molecule_by_graph[key])
    return np.array(first_rows, dtype=np.int64), np.array(molecule_of_row, dtype=np.int64)


def _without_rearranged(geometry: _Geometry, graphs: list[MolGraph], atoms_of: np.ndarray) -> _Geometry:
    """Changes the kind of minima whose bonds or configuration differ from the graph to "rearranged"."""
    rearranged = np.zeros(len(graphs), dtype=bool)
    for row in np.flatnonzero(geometry.minimum_of != ""):
        positions = geometry.positions[atoms_of[row] : atoms_of[row + 1]].astype(np.float64)
        if np.isfinite(positions).all():
            graph = graphs[row]
            rearranged[row] = not (bonds_intact(graph, positions).intact and stereo_intact(graph, positions).intact)
    return replace(
        geometry,
        kind=np.where(rearranged, "rearranged", geometry.kind),
        minimum_of=np.where(rearranged, "", geometry.minimum_of),
    )


def _present(path: str | Path, geometry: _Geometry, atoms_of: np.ndarray, atomic_numbers: np.ndarray) -> np.ndarray:
    """Mask of the molecules that have this geometry, bool [molecules]."""
    n_absent = np.add.reduceat(np.isnan(geometry.positions).all(axis=1).astype(int), atoms_of[:-1])
    absent = (n_absent == np.diff(atoms_of)) & geometry.may_be_absent
    n_finite = np.add.reduceat(np.isfinite(geometry.positions).all(axis=1).astype(int), atoms_of[:-1])
    wrong = np.flatnonzero(~absent & (n_finite != np.diff(atoms_of)))
    if len(wrong):
        raise StoreError(f"{path}: row {wrong[0]} has positions that are not finite; the archive is damaged")
    for row in np.flatnonzero(~absent).tolist():
        atoms = slice(atoms_of[row], atoms_of[row + 1])
        if overlap := overlapping_atoms(atomic_numbers[atoms], geometry.positions[atoms]):
            raise StoreError(f"{path}: row {row}: {overlap}")
    for level, forces in geometry.forces.items():
        wrong = np.flatnonzero(~np.isfinite(forces).all(axis=1))
        if len(wrong):
            row = int(np.searchsorted(atoms_of, wrong[0], side="right")) - 1
            raise LabelError(f"{path}: row {row} has {level} forces that are not finite; the archive is damaged")
    for level, energy in geometry.energies.items():
        wrong = np.flatnonzero(np.isinf(energy) | (np.isnan(energy) & (level in geometry.forces)))
        if len(wrong):
            raise LabelError(
                f"{path}: row {wrong[0]} has the {level} energy {energy[wrong[0]]}; the archive is damaged"
            )
    return ~absent


def _join_geometries(
    geometries: list[_Geometry], present: list[np.ndarray], atoms_of: np.ndarray, molecule_of_row: np.ndarray
) -> Geometries:
    atoms_present = [np.repeat(mask, np.diff(atoms_of)) for mask in present]
    return Geometries(
        molecule=np.concatenate([molecule_of_row[mask] for mask in present]).astype(np.int32),
        kind=np.concatenate([g.kind[mask] for g, mask in zip(geometries, present, strict=True)]),
        minimum_of=np.concatenate([g.minimum_of[mask] for g, mask in zip(geometries, present, strict=True)]),
        positions=np.concatenate([g.positions[mask] for g, mask in zip(geometries, atoms_present, strict=True)]),
    )


def _join_labels(
    geometries: list[_Geometry], present: list[np.ndarray], atoms_of: np.ndarray
) -> dict[str, LevelLabels]:
    levels = sorted({level for geometry in geometries for level in geometry.energies})
    return {level: _join_level(level, geometries, present, atoms_of) for level in levels}


def _join_level(
    level: str, geometries: list[_Geometry], present: list[np.ndarray], atoms_of: np.ndarray
) -> LevelLabels:
    no_energy = np.full(len(atoms_of) - 1, np.nan)
    no_forces = np.full((atoms_of[-1], 3), np.nan, dtype=np.float32)
    energies, forces = [], []
    for geometry, mask in zip(geometries, present, strict=True):
        energies.append(geometry.energies.get(level, no_energy)[mask])
        forces.append(geometry.forces.get(level, no_forces)[np.repeat(mask, np.diff(atoms_of))])
    has_forces = any(level in geometry.forces for geometry in geometries)
    return LevelLabels(np.concatenate(energies).astype(np.float64), np.concatenate(forces) if has_forces else None)


def _report(store: Store, geometries: list[_Geometry], present: list[np.ndarray]) -> ImportReport:
    left_out = {}
    for geometry, mask in zip(geometries, present, strict=True):
        level = np.unique(geometry.minimum_of)[-1]
        if not mask.all():
            left_out[f"{level} minima that the archive marks as missing"] = int((~mask).sum())
    kinds = zip(*np.unique(store.geometries.kind, return_counts=True), strict=True)
    minima = zip(*np.unique(store.geometries.minimum_of, return_counts=True), strict=True)
    n_minima = ", ".join(f"{count} of {level}" for level, count in minima if level)
    notes = [
        "geometries: " + ", ".join(f"{count} {kind}" for kind, count in kinds),
        f"minima: {n_minima or 'none'}",
    ]
    for level, labels in store.labels.items():
        n_energies = int(np.isfinite(labels.energy).sum())
        forces = (
            "no forces"
            if labels.forces is None
            else f"{counted(n_with_forces(store, level), 'geometry', 'geometries')} with forces"
        )
        n_absent = len(labels.energy) - n_energies
        notes.append(f"{level}: {counted(n_energies, 'energy', 'energies')} ({n_absent} absent), {forces}")
    return ImportReport(
        store.source, len(present[0]), len(store.molecules), len(store.geometries), left_out, tuple(notes)
    )
