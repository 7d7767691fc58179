"""Contents of a NumPy archive: its arrays, checked, and its geometries with their labels.

Per-atom and per-bond arrays are ragged: molecule i has `n_atoms[i]` and `n_bonds[i]` consecutive entries.
"""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from physcon_ase.chem.overlap import overlapping_atoms
from physcon_ase.data.importers.npz_formats import ArchiveFormat, format_with
from physcon_ase.errors import LabelError, StoreError
from physcon_ase.plurals import counted

_QUANTUM: Final = 2048
"""Positions in the GFN2 archives are integers in units of 1/2048 Å."""


@dataclass(frozen=True)
class ArchivedGeometry:
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


def open_archive(path: str | Path) -> tuple[dict[str, np.ndarray], ArchiveFormat]:
    """Arrays of an archive by field, and its format.

    Raises:
        StoreError: the file is not an archive, has none of the known formats, or its arrays are inconsistent.
    """
    archive = _load(path)
    layout = format_with(archive, path)
    _check_rows(path, archive)
    return archive, layout


def archived_geometries(archive: Mapping[str, np.ndarray], layout: ArchiveFormat) -> list[ArchivedGeometry]:
    """Geometries of an archive, each of all molecules; the graphs are those of the first."""
    return _quartet(archive, layout) if "positions_q" in archive else _single(archive, layout)


def present_molecules(
    path: str | Path, geometry: ArchivedGeometry, atoms_of: np.ndarray, atomic_numbers: np.ndarray
) -> np.ndarray:
    """Mask of the molecules that have this geometry, bool [molecules].

    Args:
        path: the archive, for errors.
        geometry: the geometry.
        atoms_of: index of the first atom of each molecule, and the number of atoms, [molecules + 1].
        atomic_numbers: atomic number of each atom.

    Raises:
        StoreError: positions are not finite and not marked as missing, or two atoms overlap.
        LabelError: an energy or force is not finite and not marked as missing.
    """
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


def _load(path: str | Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise StoreError(f"{path} is not a readable NumPy archive ({error}); download or create it again") from error


def _check_rows(path: str | Path, archive: Mapping[str, np.ndarray]) -> None:
    """Checks counts, shapes and atom indices of bonds."""
    for name, smallest in (("n_atoms", 1), ("n_bonds", 0)):
        counts = archive[name]
        if counts.ndim != 1 or counts.dtype.kind not in "iu" or (counts < smallest).any():
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


def _single(archive: Mapping[str, np.ndarray], layout: ArchiveFormat) -> list[ArchivedGeometry]:
    n = len(archive["n_atoms"])
    energies = {level: archive[name] for name, level in layout.energies.items()}
    forces = {level: archive[name] for name, level in layout.forces.items()}
    kind = np.full(n, layout.kind)
    geometries = [ArchivedGeometry(kind, np.full(n, layout.minimum_of), archive["positions"], energies, forces)]
    if "positions_mmff94" in archive:
        geometries.append(
            ArchivedGeometry(kind, np.full(n, "mmff94"), archive["positions_mmff94"], {}, {}, may_be_absent=True)
        )
    return geometries


def _quartet(archive: Mapping[str, np.ndarray], layout: ArchiveFormat) -> list[ArchivedGeometry]:
    """The four geometries of GFN2 archives: given minimum, GFN2-xTB minimum, thermal displacement, conformer."""
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
        ArchivedGeometry(
            kinds[g],
            minima_of[g],
            archive["positions_q"][g].astype(np.float32) / np.float32(_QUANTUM),
            {"gfn2": archive["energy"][:, g]},
            {"gfn2": archive["forces"][g].astype(np.float32)},
        )
        for g in range(4)
    ]
