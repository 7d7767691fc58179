"""Table of the file formats; loads nothing heavy, so that help texts can list them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from physcon_ase.errors import MissingPackageError

_HERE: Final = "physcon_ase.inference.formats"

GZIP_SUFFIX: Final = ".gz"
"""Suffix of compressed files of any format."""


@dataclass(frozen=True)
class Format:
    """One file format."""

    name: str
    """Name in messages."""
    suffixes: tuple[str, ...]
    """Suffixes in lower case."""
    has_geometries: bool
    """Whether its molecules have positions, so that they need no start geometry."""
    reader: str = ""
    """Module with the function `read`; empty if the format is not read."""
    writer: str = ""
    """Module with the function of `writes`; empty if the format is not written."""
    writes: str = "write"
    """Name of the function that writes."""
    keeps_failures: bool = False
    """Whether molecules without a geometry are written too, with the reason."""
    has_columns: bool = False
    """Whether the columns of SMILES and names can be chosen."""
    needs_bonds: bool = False
    """Whether only molecules with known bonds can be written."""
    signature: str = ""
    """Regular expression found in the content of files of this format, for standard input; empty if there is none."""
    requires: str = ""
    """Package needed to write the format; the extra that installs it has the name of the format's first suffix."""


FORMATS: Final = (
    Format(
        "SD file",
        (".sdf", ".sd"),
        has_geometries=True,
        reader=f"{_HERE}.bonded",
        writer=f"{_HERE}.bonded",
        writes="write_sdf",
        needs_bonds=True,
        signature=r"(?m)^\$\$\$\$|^.{33,36}\bV[23]000\s*$",
    ),
    Format("MOL file", (".mol",), has_geometries=True, reader=f"{_HERE}.bonded"),
    Format("MOL2 file", (".mol2",), has_geometries=True, reader=f"{_HERE}.mol2", signature=r"(?m)^@<TRIPOS>MOLECULE"),
    Format(
        "PDB file",
        (".pdb", ".ent"),
        has_geometries=True,
        reader=f"{_HERE}.pdb",
        writer=f"{_HERE}.pdb",
        signature=r"(?m)^(ATOM  |HETATM)",
    ),
    Format(
        "XYZ file",
        (".xyz", ".extxyz"),
        has_geometries=True,
        reader=f"{_HERE}.xyz",
        writer=f"{_HERE}.xyz",
        signature=r"\A\s*\d+[ \t]*\r?\n",
    ),
    Format(
        "Gaussian input",
        (".gjf", ".com"),
        has_geometries=True,
        reader=f"{_HERE}.gaussian",
        # from the route section to the line with charge and multiplicity
        signature=r"(?msi)\A\s*(%[^\n]*\n)*#[pnt]?\s.*^[ \t]*-?\d+([ \t,]+-?\d+)+[ \t]*$",
    ),
    Format(
        "ORCA input",
        (".inp",),
        has_geometries=True,
        reader=f"{_HERE}.orca",
        signature=r"(?mi)^\s*\*\s*xyz\s",
    ),
    Format(
        "CSV table",
        (".csv", ".tsv"),
        has_geometries=False,
        reader=f"{_HERE}.columns",
        writer=f"{_HERE}.summary",
        writes="write_csv",
        has_columns=True,
        keeps_failures=True,
    ),
    Format("SMILES list", (".smi", ".smiles", ".ism", ".txt"), has_geometries=False, reader=f"{_HERE}.lists"),
    Format(
        "JSON lines",
        (".jsonl",),
        has_geometries=True,
        writer=f"{_HERE}.summary",
        writes="write_json_lines",
        keeps_failures=True,
    ),
    Format(
        "Parquet table",
        (".parquet",),
        has_geometries=False,
        writer=f"{_HERE}.summary",
        writes="write_parquet",
        keeps_failures=True,
        requires="pyarrow",
    ),
)
"""All formats, in the order in which signatures are searched for."""

READABLE: Final = tuple(kind for kind in FORMATS if kind.reader)
"""Formats that can be read."""

WRITABLE: Final = tuple(kind for kind in FORMATS if kind.writer)
"""Formats that can be written."""

STRUCTURES: Final = tuple(kind for kind in READABLE if kind.has_geometries)
"""Formats from which geometries can be read."""


def suffix_of(path: str | Path) -> str:
    """Suffix of a file name in lower case, without that of the compression."""
    name = Path(path).name.lower().removesuffix(GZIP_SUFFIX)
    return Path(name).suffix


def format_named(path: str | Path, kinds: Iterable[Format] = FORMATS) -> Format | None:
    """Format by the suffix of a file name, or None."""
    suffix = suffix_of(path)
    return next((kind for kind in kinds if suffix in kind.suffixes), None)


def format_recognised(text: str) -> Format:
    """Format by the content of a file: by its signature, a table by its header, otherwise a SMILES list."""
    from physcon_ase.inference.formats.columns import has_smiles_header

    found = next((kind for kind in READABLE if kind.signature and re.search(kind.signature, text)), None)
    if found is not None:
        return found
    has_columns = has_smiles_header(text)
    return next(kind for kind in READABLE if not kind.has_geometries and kind.has_columns == has_columns)


def listed(kinds: Iterable[Format]) -> str:
    """Names and suffixes of formats as text."""
    return ", ".join(f"{kind.name} ({', '.join(kind.suffixes)})" for kind in kinds)


def check_installed(kind: Format) -> None:
    """Checks that the package that writes a format is installed.

    Raises:
        MissingPackageError: it is not.
    """
    if kind.requires and find_spec(kind.requires) is None:
        raise MissingPackageError(
            f"{kind.requires} is needed for {kind.name}s ({kind.suffixes[0]}), but not installed: "
            f"pip install 'physcon-ase[{kind.suffixes[0].removeprefix('.')}]', or write .csv or .jsonl"
        )
