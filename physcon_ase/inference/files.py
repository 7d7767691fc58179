"""Reading and writing of files with molecules and structures; the formats are those of `formats.table`."""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from ase import Atoms

from physcon_ase.chem.graph import MolGraph
from physcon_ase.errors import InvalidSmilesError, PhysConError, StoreError
from physcon_ase.inference.figures import check_matplotlib
from physcon_ase.inference.formats import xyz
from physcon_ase.inference.formats.rows import Geometry, ReadOptions, Row
from physcon_ase.inference.formats.table import (
    GZIP_SUFFIX,
    READABLE,
    STRUCTURES,
    WRITABLE,
    Format,
    check_installed,
    format_named,
    format_recognised,
    listed,
    suffix_of,
)
from physcon_ase.inference.formats.text import decoded
from physcon_ase.inference.results import Record

STANDARD_INPUT: Final = "-"
"""Name of the standard input."""

XYZ_SUFFIXES: Final = next(kind.suffixes for kind in WRITABLE if ".xyz" in kind.suffixes)
"""Suffixes of extended XYZ files."""


# ---- reading


def rows_named(argument: str, *, smiles_column: str | None = None, name_column: str | None = None) -> list[Row]:
    """Rows of an argument that is a file name, "-" or a SMILES. Args: see `read_rows`.

    Raises:
        InvalidSmilesError: the argument is neither a SMILES nor a file, but looks like the name of a file.
        StoreError: it is a folder, or see `read_rows`.
    """
    if argument == STANDARD_INPUT or files_named(argument):
        return read_rows(argument, smiles_column=smiles_column, name_column=name_column)
    _refuse_missing_file(argument)
    return [Row(argument)]


def _refuse_missing_file(argument: str) -> None:
    is_folder = bool(argument) and _is(Path.is_dir, Path(argument))
    if not (is_folder or "/" in argument or Path(argument).suffix):
        return
    from physcon_ase.chem.smiles import canonical_and_size  # slow to load

    try:
        canonical_and_size(argument)
    except InvalidSmilesError as error:
        if is_folder:
            raise StoreError(f"{argument} is a folder; give a file of molecules: {listed(READABLE)}") from error
        raise InvalidSmilesError(f"{error}, or the name of the file: there is no file {argument}") from error


def molecules_named(argument: str) -> list[str | MolGraph | Atoms | Geometry]:
    """Molecules of an argument that is a file name or a SMILES. Raises the errors of `read_molecules`."""
    return [row.molecule for row in readable(rows_named(argument), argument)]


def files_named(argument: str) -> list[Path]:
    """File named by an argument; empty if the argument is a SMILES or the standard input.

    Arguments with a known suffix in lower case are files even if they do not exist; no SMILES ends with one.
    """
    path = Path(argument)
    is_named = path.suffix == path.suffix.lower() and format_named(path, READABLE) is not None
    return [path] if is_named or _is(Path.is_file, path) else []


def _is(what: Callable[[Path], bool], path: Path) -> bool:
    try:
        return what(path)
    except (OSError, ValueError):  # a long SMILES is not a valid file name
        return False


def read_rows(path: str | Path, *, smiles_column: str | None = None, name_column: str | None = None) -> list[Row]:
    """Rows of a file, or of the standard input; those that cannot be read have an error instead of a molecule.

    The suffix determines the format, in lower or upper case and with or without .gz; that of the standard input is
    recognised by its content.

    Args:
        path: the file, or "-" for the standard input.
        smiles_column: column of a table with the SMILES; by default found by its name.
        name_column: column of a table with the names; by default found by its name.

    Raises:
        StoreError: the file is missing, empty, cannot be read or has an unknown format, or a table has no such column.
    """
    source, kind = str(path), None
    if source == STANDARD_INPUT:
        source = "standard input"
        text = decoded(sys.stdin.buffer.read(), source)
        kind = format_recognised(text)
    else:
        kind, text = _format_to_read(Path(path)), decoded(Path(path).read_bytes(), source)
        source = Path(path).name
    if not kind.has_columns and (smiles_column is not None or name_column is not None):
        raise StoreError(f"{source} is a {kind.name} and has no columns; columns can be chosen in tables (.csv, .tsv)")
    options = ReadOptions(suffix_of(path), smiles_column, name_column)
    try:
        rows = [replace(row, source=source) for row in import_module(kind.reader).read(text, options)]
    except StoreError as error:
        raise StoreError(f"{source}: {error}") from error
    if not rows:
        raise StoreError(f"{source} contains no molecules; give a file with at least one")
    return rows


def _format_to_read(path: Path) -> Format:
    if not path.is_file():
        raise StoreError(f"there is no file {path}; give a file of molecules: {listed(READABLE)}")
    kind = format_named(path, READABLE)
    if kind is None:
        raise StoreError(f"{path} has an unknown file format; allowed are {listed(READABLE)}")
    return kind


def read_molecules(path: str | Path) -> list[str | MolGraph | Atoms | Geometry]:
    """Molecules of a file: SMILES, graphs (drawings in a plane), geometries, and geometries with known bonds.

    Raises:
        StoreError: see `read_rows`; also if any molecule cannot be read.
    """
    return [row.molecule for row in readable(read_rows(path), path)]


def readable(rows: Sequence[Row], source: str | Path) -> Sequence[Row]:
    """Returns the rows of a file, with the name of each geometry in its `info`.

    Raises:
        StoreError: a row could not be read.
    """
    for row in rows:
        if isinstance(row.molecule, PhysConError):
            raise StoreError(f"{source}: {row.molecule}")
        named_atoms(row)
    return rows


def named_atoms(row: Row) -> Any:
    """Geometry of a row with the name of the row in `info`; other molecules as they are."""
    atoms = row.molecule.atoms if isinstance(row.molecule, Geometry) else row.molecule
    if isinstance(atoms, Atoms) and row.name:
        atoms.info.setdefault("name", row.name)
    return atoms


def geometries_of(rows: Iterable[Row]) -> list[Atoms | Geometry | PhysConError]:
    """Geometry, or error, of each row, with the name of the row, and what was added to the input, in `info`.

    Raises:
        StoreError: a row is a SMILES or a molecule without positions.
    """
    structures = []
    for row in rows:
        atoms = named_atoms(row)
        if isinstance(atoms, str | MolGraph):
            what = "a list of SMILES" if isinstance(atoms, str) else f"without positions (molecule {row.number})"
            raise StoreError(f"{row.source} is {what}, but geometries are required: give {listed(STRUCTURES)}")
        if isinstance(row.molecule, Geometry) and row.molecule.origin != Geometry.origin:
            atoms.info["origin"] = row.molecule.origin
        structures.append(row.molecule)
    return structures


def read_structures(path: str | Path) -> list[Atoms]:
    """Geometries of a file.

    Raises:
        StoreError: the file is missing, cannot be read completely, or has no geometries.
    """
    structures = []
    for geometry in geometries_of(read_rows(path)):
        if isinstance(geometry, PhysConError):
            raise StoreError(f"{path}: {geometry}")
        structures.append(geometry.atoms if isinstance(geometry, Geometry) else geometry)
    return structures


# ---- writing


def check_output(path: str | Path, inputs: Iterable[str | Path] = (), *, kinds: Sequence[str] | None = None) -> Path:
    """Checks an output path before a long computation and returns it as a `Path`.

    Args:
        path: output file.
        inputs: input files, which must not be overwritten.
        kinds: allowed suffixes; by default those of all formats that can be written.

    Raises:
        PhysConError: an unknown suffix, an input file, a folder, a write-protected file, a folder that does not
            exist or cannot be written to, or a format whose package is not installed.
    """
    path = Path(path)
    kind = format_named(path, WRITABLE)
    if suffix_of(path) not in kinds if kinds is not None else kind is None:
        allowed = listed(WRITABLE) if kinds is None else ", ".join(kinds)
        raise PhysConError(f"cannot write {path}; the name must end in {allowed}")
    if any(_is_same(path, Path(other)) for other in inputs):
        raise PhysConError(f"input and output are both {path}, which would overwrite the input: choose another name")
    if not path.parent.is_dir():
        raise PhysConError(f"there is no folder {path.parent} to write {path.name} to; create it first")
    if path.is_dir():
        raise PhysConError(f"{path} is a folder; choose another name for the output")
    if path.exists() and not os.access(path, os.W_OK):
        raise PhysConError(f"{path} is write-protected: choose another name for the output, or allow writing to it")
    if not os.access(path.parent, os.W_OK | os.X_OK):  # files are written beside their place and then renamed
        raise PhysConError(
            f"{path} cannot be written, since there is no permission for {path.parent}: choose another folder"
        )
    if suffix_of(path) == ".png":
        check_matplotlib()
    if kind is not None:
        check_installed(kind)
    is_compressed = suffix_of(path) == ".png" or (kind is not None and kind.requires)
    if is_compressed and path.name.lower().endswith(GZIP_SUFFIX):
        name = "picture" if kind is None else kind.name
        raise PhysConError(f"cannot write {path}; {name}s are compressed already: leave out {GZIP_SUFFIX}")
    return path


def _is_same(path: Path, other: Path) -> bool:
    is_there = path.exists() and other.exists()  # samefile also finds links and names in another case
    return path.resolve() == other.resolve() or (is_there and path.samefile(other))


def write_structures(structures: Sequence[Atoms], path: str | Path, *, inputs: Iterable[str | Path] = ()) -> None:
    """Writes geometries with energy, forces and `info` to an extended XYZ file. Raises the errors of `check_output`."""
    xyz.write_frames(structures, check_output(path, inputs, kinds=XYZ_SUFFIXES))


def write_records(records: Sequence[Record], path: str | Path, *, inputs: Iterable[str | Path] = ()) -> list[Record]:
    """Writes records to a file whose suffix determines the format.

    Tables contain all records, failures with their reason; formats of structures contain those with a geometry.

    Args:
        records: records of `optimize_many`.
        path: output file.
        inputs: input files, which must not be overwritten.

    Returns:
        The records that the format cannot represent, with the reason.

    Raises:
        PhysConError: see `check_output`.
    """
    path = check_output(path, inputs)
    kind = format_named(path, WRITABLE)
    assert kind is not None
    judged = [(record, None if kind.keeps_failures else _unfit(record, kind)) for record in records]
    write = getattr(import_module(kind.writer), kind.writes)
    write([record for record, failure in judged if failure is None], path)
    return [failure for _, failure in judged if failure is not None]


def _unfit(record: Record, kind: Format) -> Record | None:
    """The record with its reason, if it cannot be written in a format of structures."""
    if record.result is None:
        return record
    if kind.needs_bonds and record.result.graph is None:
        return replace(record, reason=f"no bonds were found, but {kind.name}s require them: write .xyz")
    return None


def failures_path(output: Path) -> Path:
    """Path of the table of the molecules that an output of structures does not contain."""
    return output.with_name(f"{Path(output.name.removesuffix(GZIP_SUFFIX)).stem}.failed.csv")
