"""Extended XYZ files and ASE databases: any structures with energies and forces of one level of theory."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from physcon_ase.data.importers.report import ImportReport
from physcon_ase.data.importers.structures import Structure, store_from_structures
from physcon_ase.data.store import Store
from physcon_ase.errors import LabelError, StoreError

DATABASE_SUFFIXES: Final = (".db", ".json")
"""File names that end so are read as ASE databases."""

XYZ_SUFFIXES: Final = (".xyz", ".extxyz")
"""File names that end so are read as extended XYZ."""


def read_extxyz(
    path: str | Path, level: str, *, on_progress: Callable[[int, int], None] | None = None, **options: Any
) -> tuple[Store, ImportReport]:
    """Reads the frames of an extended XYZ file as a store.

    Args:
        path: the file.
        level: name of the level of theory of the labels.
        on_progress: called now and then with the number of frames done and their total.
        options: those of `structure_from_atoms`.

    Raises:
        StoreError: the file cannot be read, or a frame has a periodic cell or positions that are not finite.
        LabelError: labels that are not finite or do not match the atoms.
    """
    try:
        frames = list(ase.io.iread(path, format="extxyz"))
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise StoreError(
            f"{path} is no readable extended XYZ file ({error}); correct it or write it anew with ase.io.write"
        ) from error
    return _store_from_frames(path, frames, level, on_progress, options)


def read_ase_database(
    path: str | Path, level: str, *, on_progress: Callable[[int, int], None] | None = None, **options: Any
) -> tuple[Store, ImportReport]:
    """Reads the rows of an ASE database as a store; key-value pairs of a row count as `Atoms.info`.

    Args and Raises as `read_extxyz`.
    """
    try:
        rows: Iterable[Any] = ase.db.connect(path).select()
        frames = [_with_pairs(row.toatoms(add_additional_information=True)) for row in rows]
    except (OSError, ValueError, KeyError, sqlite3.Error) as error:
        raise StoreError(
            f"{path} is no readable ASE database ({error}); correct it or write it anew with ase.db"
        ) from error
    return _store_from_frames(path, frames, level, on_progress, options)


def structure_from_atoms(
    atoms: Atoms,
    number: int = 0,
    *,
    energy_key: str = "energy",
    forces_key: str = "forces",
    smiles_key: str = "smiles",
    name_key: str = "name",
    kind_key: str = "kind",
    minimum_of_key: str = "minimum_of",
) -> Structure:
    """One structure with its labels.

    Energy [eV] and forces [eV/Å] are the results of the attached calculator, as ASE's readers leave them, or else
    `atoms.info[energy_key]` and `atoms.arrays[forces_key]`. With keys other than the defaults, info and arrays come
    first: a caller who names a key means it.

    Args:
        atoms: the structure; not changed.
        number: of the structure in its file, for messages.
        energy_key: key of the energy in `atoms.info`.
        forces_key: key of the forces in `atoms.arrays`.
        smiles_key: key of the SMILES in `atoms.info`.
        name_key: key of the molecule's name in `atoms.info`.
        kind_key: key of `Geometries.kind` in `atoms.info`.
        minimum_of_key: key of `Geometries.minimum_of` in `atoms.info`.

    Raises:
        StoreError: the structure is periodic, empty, or has positions that are not finite.
        LabelError: the energy is no number.
    """
    if atoms.pbc.any():
        raise StoreError(
            f"frame {number} is periodic ({atoms.pbc.tolist()}); only molecules are allowed: "
            "set pbc to False or leave the frame out"
        )
    if len(atoms) == 0 or not np.isfinite(atoms.positions).all():
        raise StoreError(f"frame {number} has {len(atoms)} atoms, or positions that are not finite; leave it out")
    energy = _label(atoms, atoms.info, "energy", energy_key)
    forces = _label(atoms, atoms.arrays, "forces", forces_key)
    try:
        energy = float("nan") if energy is None else float(energy)
    except (TypeError, ValueError) as error:
        raise LabelError(f"frame {number}: the energy is {energy!r}, expected a number [eV]") from error
    return Structure(
        atomic_numbers=atoms.numbers.copy(),
        positions=atoms.positions.copy(),
        energy=energy,
        forces=None if forces is None else np.array(forces, dtype=np.float64),
        smiles=str(atoms.info.get(smiles_key, "")),
        name=str(atoms.info.get(name_key, "")),
        kind=str(atoms.info.get(kind_key, "structure")),
        minimum_of=str(atoms.info.get(minimum_of_key, "")),
        charge=int(atoms.info.get("charge", 0)),
        multiplicity=int(atoms.info.get("spin", 1)),
    )


def _label(atoms: Atoms, values: Any, name: str, key: str) -> Any:
    """A label from the calculator's results or from `values`, None if it is in neither."""
    if key != name or atoms.calc is None:
        return values.get(key)
    try:
        result = atoms.calc.get_property(name, atoms, allow_calculation=False)
    except PropertyNotImplementedError:
        result = None
    return values.get(key) if result is None else result


def _with_pairs(atoms: Atoms) -> Atoms:
    atoms.info.update({**atoms.info.pop("data", {}), **atoms.info.pop("key_value_pairs", {})})
    return atoms


def _store_from_frames(
    path: str | Path,
    frames: Sequence[Atoms],
    level: str,
    on_progress: Callable[[int, int], None] | None,
    options: dict[str, Any],
) -> tuple[Store, ImportReport]:
    structures = []
    for number, atoms in enumerate(frames):
        structures.append(structure_from_atoms(atoms, number, **options))
        if on_progress is not None and number % 100 == 0:
            on_progress(number, len(frames))
    file = Path(path)
    return store_from_structures(structures, level, source=file.stem, provenance=f"Imported from {file.name}.")
