"""Files of molecules and structures: what can be read, and what may be written where."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import ase.io
from ase import Atoms

from physcon_ase.errors import PhysConError, StoreError

XYZ_SUFFIXES: Final = (".xyz", ".extxyz")
"""File names that end so are extended XYZ."""

SMILES_SUFFIXES: Final = (".smi", ".smiles", ".txt")
"""File names that end so are lists of SMILES."""


def molecules_named(argument: str) -> list[str | Atoms]:
    """The molecules of the file that an argument names, or the SMILES that it is. Raises as `read_molecules`."""
    return read_molecules(argument) if files_named(argument) else [argument]


def files_named(argument: str) -> list[Path]:
    """The file that an argument names, none if it is a SMILES.

    No SMILES ends in one of these suffixes, and a file that is missing is not mistaken for one.
    """
    path = Path(argument)
    return [path] if path.suffix in (*XYZ_SUFFIXES, *SMILES_SUFFIXES) or _is_file(path) else []


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a long SMILES is no valid file name
        return False


def read_molecules(path: str | Path) -> list[str | Atoms]:
    """The molecules of a file: SMILES (first word of each line, lines that begin with # left out) or geometries.

    Raises:
        StoreError: the file is missing, empty, cannot be read or is of another kind.
    """
    molecules = _read(Path(path))
    if not molecules:
        raise StoreError(f"{path} holds no molecules; give a file with at least one")
    return molecules


def _read(path: Path) -> list[str | Atoms]:
    if not path.is_file():
        raise StoreError(f"there is no file {path}; give a list of SMILES or an extended XYZ file")
    if path.suffix in SMILES_SUFFIXES:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    if path.suffix in XYZ_SUFFIXES:
        try:
            return list(ase.io.iread(path, index=":", format="extxyz"))
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise StoreError(f"{path} is no readable extended XYZ file ({error}); correct it") from error
    raise StoreError(f"{path} is of no known kind; allowed are {', '.join((*XYZ_SUFFIXES, *SMILES_SUFFIXES))}")


def read_structures(path: str | Path) -> list[Atoms]:
    """The geometries of an extended XYZ file.

    Raises:
        StoreError: the file is missing, cannot be read or is of another kind.
    """
    structures = read_molecules(path)
    if any(isinstance(structure, str) for structure in structures):
        raise StoreError(f"{path} is a list of SMILES, and geometries are needed: give an extended XYZ file")
    return [structure for structure in structures if isinstance(structure, Atoms)]


def check_output(
    path: str | Path, inputs: Iterable[str | Path] = (), *, kinds: Sequence[str] = (*XYZ_SUFFIXES, ".sdf")
) -> Path:
    """The path of a file that may be written; call it before a long computation.

    Args:
        path: where to write.
        inputs: files that are read, which must not be written over.
        kinds: suffixes that can be written.

    Raises:
        PhysConError: an unknown kind of file, an input, or a folder that does not exist.
    """
    path = Path(path)
    if path.suffix not in kinds:
        raise PhysConError(f"cannot write {path}; the name has to end in {', '.join(kinds)}")
    if path.resolve() in {Path(other).resolve() for other in inputs}:
        raise PhysConError(f"input and output are both {path}; that would destroy the input: choose another name")
    if not path.parent.is_dir():
        raise PhysConError(f"there is no folder {path.parent} to write {path.name} to; make it first")
    return path


def write_structures(structures: Sequence[Atoms], path: str | Path, *, inputs: Iterable[str | Path] = ()) -> None:
    """Writes geometries with energy, forces and `info` as extended XYZ. Raises as `check_output`."""
    ase.io.write(check_output(path, inputs, kinds=XYZ_SUFFIXES), list(structures), format="extxyz")
