"""Import of extended XYZ files and ASE databases with energies and forces at one level of theory."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from physcon_ase.chem.overlap import overlapping_atoms
from physcon_ase.chem.smiles import charge_of_smiles
from physcon_ase.chem.states import check_other_keys
from physcon_ase.data.importers.report import ImportReport
from physcon_ase.data.importers.structures import Structure, store_from_structures
from physcon_ase.data.store import Store
from physcon_ase.errors import LabelError, PhysConError, StoreError, UnsupportedChargeError
from physcon_ase.plurals import counted

DATABASE_SUFFIXES: Final = (".db", ".json")
"""Suffixes of ASE databases."""

XYZ_SUFFIXES: Final = (".xyz", ".extxyz")
"""Suffixes of extended XYZ files."""


def read_extxyz(
    path: str | Path, level: str, *, on_progress: Callable[[int, int], None] | None = None, **options: Any
) -> tuple[Store, ImportReport]:
    """Reads the frames of an extended XYZ file into a store.

    Args:
        path: the file.
        level: name of the level of theory of the labels.
        on_progress: called periodically with the number of processed frames and their total.
        options: options of `structure_from_atoms`.

    Raises:
        StoreError: the file cannot be read, a frame is refused by `structure_from_atoms`, or no frame has a given key.
        LabelError: labels are not finite or do not match the atoms.
        PhysConError: charge, multiplicity, SMILES and atoms of a frame contradict each other.
    """
    try:
        frames = list(ase.io.iread(path, format="extxyz"))
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise StoreError(
            f"{path} is not a readable extended XYZ file ({error}); correct it or rewrite it with ase.io.write"
        ) from error
    return _store_from_frames(path, frames, level, on_progress, options)


def read_ase_database(
    path: str | Path, level: str, *, on_progress: Callable[[int, int], None] | None = None, **options: Any
) -> tuple[Store, ImportReport]:
    """Reads the rows of an ASE database into a store; key-value pairs of a row are treated as `Atoms.info`.

    Args and Raises: see `read_extxyz`.
    """
    try:
        rows: Iterable[Any] = ase.db.connect(path).select()
        frames = [_atoms_of(row) for row in rows]
    except (OSError, ValueError, KeyError, sqlite3.Error) as error:
        raise StoreError(
            f"{path} is not a readable ASE database ({error}); correct it or rewrite it with ase.db"
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
    """Converts `Atoms` to a labelled structure.

    With the default keys, energy [eV] and forces [eV/Å] are taken from the attached calculator, if it has them, and
    otherwise from `atoms.info` and `atoms.arrays`. With other keys `atoms.info[energy_key]` and
    `atoms.arrays[forces_key]` (in databases `atoms.info[forces_key]`) are used, or results of the calculator with this
    name, such as "free_energy". `atoms.info["charge"]` is the total charge [e], by default that of the SMILES or else
    0; `atoms.info["spin"]` is the multiplicity 2S + 1, by default 1.

    Args:
        atoms: the structure; not modified.
        number: index of the structure in its file, for error messages.
        energy_key: key of the energy in `atoms.info`.
        forces_key: key of the forces in `atoms.arrays` or `atoms.info`.
        smiles_key: key of the SMILES in `atoms.info`.
        name_key: key of the molecule's name in `atoms.info`.
        kind_key: key of `Geometries.kind` in `atoms.info`.
        minimum_of_key: key of `Geometries.minimum_of` in `atoms.info`.

    Raises:
        StoreError: the structure is periodic, empty, has positions that are not finite or two atoms closer than
            `overlap.CLOSEST_ATOMS`, or its charge or spin is not a whole number or
            contradicts another key (`chem.states`).
        LabelError: the energy is not a number.
        PhysConError: the SMILES that determines the charge is invalid.
    """
    if atoms.pbc.any():
        raise StoreError(
            f"frame {number} is periodic ({atoms.pbc.tolist()}); only molecules are allowed: "
            "set pbc to False or remove the frame"
        )
    if len(atoms) == 0 or not np.isfinite(atoms.positions).all():
        raise StoreError(
            f"frame {number} has {counted(len(atoms), 'atom')}, or positions that are not finite; remove it"
        )
    overlap = overlapping_atoms(atoms.numbers, atoms.positions)
    if overlap:
        raise StoreError(f"frame {number}: {overlap}")
    energy = _label(atoms, atoms.info, "energy", energy_key)
    forces = _label(atoms, {**atoms.info, **atoms.arrays}, "forces", forces_key)
    try:
        energy = float("nan") if energy is None else float(energy)
    except (TypeError, ValueError) as error:
        raise LabelError(f"frame {number}: the energy is {energy!r}, expected a number [eV]") from error
    smiles, spin = str(atoms.info.get(smiles_key, "")), atoms.info.get("spin")
    charge = _charge(atoms, smiles, number)
    multiplicity = _whole_number("spin", 1 if spin is None else spin, number)
    try:
        check_other_keys(atoms.info, charge, multiplicity)
    except UnsupportedChargeError as error:
        raise StoreError(f"frame {number}: {error}") from error
    return Structure(
        atomic_numbers=atoms.numbers.copy(),
        positions=atoms.positions.copy(),
        energy=energy,
        forces=None if forces is None else np.array(forces, dtype=np.float64),
        smiles=smiles,
        name=str(atoms.info.get(name_key, "")),
        kind=str(atoms.info.get(kind_key, "structure")),
        minimum_of=str(atoms.info.get(minimum_of_key, "")),
        charge=charge,
        multiplicity=multiplicity,
    )


def _charge(atoms: Atoms, smiles: str, number: int) -> int:
    """Total charge [e] given in `atoms.info`, or else that of the SMILES."""
    given = atoms.info.get("charge")
    if given is not None:
        return _whole_number("charge", given, number)
    try:
        return charge_of_smiles(smiles) if smiles else 0
    except PhysConError as error:
        raise type(error)(f"frame {number}: {error}") from error


def _whole_number(name: str, value: Any, number: int) -> int:
    try:
        is_whole = float(value).is_integer()
    except (TypeError, ValueError):
        is_whole = False
    if not is_whole:
        raise StoreError(
            f"frame {number}: {name} is {value!r}; a whole number is needed (charge in e, spin as 2S + 1): correct it "
            "or remove the frame"
        )
    return int(float(value))


def _label(atoms: Atoms, values: Any, name: str, key: str) -> Any:
    """Label from the results of the calculator or from `values`; None if absent."""
    if atoms.calc is None or (key != name and key in values):
        return values.get(key)
    try:
        result = atoms.calc.get_property(key, atoms, allow_calculation=False)
    except PropertyNotImplementedError:
        result = None
    return values.get(key) if result is None else result


def _atoms_of(row: Any) -> Atoms:
    """Atoms of a database row with its data and key-value pairs in `Atoms.info`."""
    atoms = row.toatoms(add_additional_information=True)
    # The values of `key_value_pairs` are those of properties of the row with the same name, such as `AtomsRow.charge`,
    # the sum of the initial charges.
    pairs = {key: vars(row)[key] for key in atoms.info.pop("key_value_pairs", {})}
    atoms.info.update({**atoms.info.pop("data", {}), **pairs})
    return atoms


def _check_keys(path: str | Path, frames: Sequence[Atoms], options: dict[str, Any]) -> None:
    """Refuses a key other than the default that no frame has: a misspelt one would leave out all labels."""
    for option, key in options.items():
        is_default = option == f"{key}_key"
        if frames and not is_default and not any(key in _keys(atoms) for atoms in frames):
            known = ", ".join(sorted(_keys(frames[0]))) or "none"
            raise StoreError(f"{path}: no frame has the {option} {key!r}; keys of the first frame are: {known}")


def _keys(atoms: Atoms) -> set[str]:
    """Keys of everything but the structure."""
    results = {} if atoms.calc is None else atoms.calc.results
    return {*map(str, atoms.info), *atoms.arrays, *results} - {"numbers", "positions"}


def _store_from_frames(
    path: str | Path,
    frames: Sequence[Atoms],
    level: str,
    on_progress: Callable[[int, int], None] | None,
    options: dict[str, Any],
) -> tuple[Store, ImportReport]:
    _check_keys(path, frames, options)
    structures = []
    for number, atoms in enumerate(frames):
        structures.append(structure_from_atoms(atoms, number, **options))
        if on_progress is not None and number % 100 == 0:
            on_progress(number, len(frames))
    file = Path(path)
    return store_from_structures(structures, level, source=file.stem, provenance=f"Imported from {file.name}.")
