"""Reading and writing of files with molecules and structures."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import ase.io
from ase import Atoms

from physcon_ase.errors import PhysConError, StoreError

XYZ_SUFFIXES: Final = (".xyz", ".extxyz")
"""Suffixes of extended XYZ files."""

SMILES_SUFFIXES: Final = (".smi", ".smiles", ".txt")
"""Suffixes of SMILES lists."""


def molecules_named(argument: str) -> list[str | Atoms]:
    """Molecules of an argument that is a file name or a SMILES. Raises the errors of `read_molecules`."""
    return read_molecules(argument) if files_named(argument) else [argument]


def files_named(argument: str) -> list[Path]:
    """File named by an argument; empty if the argument is a SMILES.

    Arguments with a known suffix are files even if they do not exist; no SMILES ends with one of these suffixes.
    """
    path = Path(argument)
    return [path] if path.suffix in (*XYZ_SUFFIXES, *SMILES_SUFFIXES) or _is_file(path) else []


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a long SMILES is not a valid file name
        return False


def read_molecules(path: str | Path) -> list[str | Atoms]:
    """Molecules of a file: SMILES (first word of each line; lines starting with # are ignored) or geometries.

    Raises:
        StoreError: the file is missing, empty, cannot be read or has an unknown format.
    """
    molecules = _read(Path(path))
    if not molecules:
        raise StoreError(f"{path} contains no molecules; give a file with at least one")
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
            raise StoreError(f"{path} is not a readable extended XYZ file ({error}); correct it") from error
    raise StoreError(f"{path} has an unknown file format; allowed are {', '.join((*XYZ_SUFFIXES, *SMILES_SUFFIXES))}")


def read_structures(path: str | Path) -> list[Atoms]:
    """Geometries of an extended XYZ file.

    Raises:
        StoreError: the file is missing, cannot be read or has another format.
    """
    structures = read_molecules(path)
    if any(isinstance(structure, str) for structure in structures):
        raise StoreError(f"{path} is a list of SMILES, but geometries are required: give an extended XYZ file")
    return [structure for structure in structures if isinstance(structure, Atoms)]


def check_output(
    path: str | Path, inputs: Iterable[str | Path] = (), *, kinds: Sequence[str] = (*XYZ_SUFFIXES, ".sdf")
) -> Path:
    """Checks an output path before a long computation and returns it as a `Path`.

    Args:
        path: output file.
        inputs: input files, which must not be overwritten.
        kinds: allowed suffixes.

    Raises:
        PhysConError: an unknown suffix, an input file, or a folder that does not exist.
    """
    path = Path(path)
    if path.suffix not in kinds:
        raise PhysConError(f"cannot write {path}; the name must end in {', '.join(kinds)}")
    if path.resolve() in {Path(other).resolve() for other in inputs}:
        raise PhysConError(f"input and output are both {path}, which would overwrite the input: choose another name")
    if not path.parent.is_dir():
        raise PhysConError(f"there is no folder {path.parent} to write {path.name} to; create it first")
    return path


def write_structures(structures: Sequence[Atoms], path: str | Path, *, inputs: Iterable[str | Path] = ()) -> None:
    """Writes geometries with energy, forces and `info` to an extended XYZ file. Raises the errors of `check_output`."""
    ase.io.write(check_output(path, inputs, kinds=XYZ_SUFFIXES), list(structures), format="extxyz")
