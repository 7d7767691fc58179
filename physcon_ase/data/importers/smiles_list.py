"""Reader of SMILES lists with columns smiles, heavy, charge, allowed and sets (tab-separated, plain or xz)."""

import csv
import lzma
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Final

from physcon_ase.data.importers.report import ImportReport
from physcon_ase.errors import StoreError

_COLUMNS: Final = ["smiles", "heavy", "charge", "allowed", "sets"]


@dataclass(frozen=True)
class SmilesRow:
    """One molecule of the list."""

    smiles: str
    """SMILES."""
    n_heavy_atoms: int
    """Number of atoms other than hydrogen."""
    charge: int
    """Total charge [e]."""
    is_allowed: bool
    """Whether it is neutral, a single fragment, and contains only H C N O F S Cl P Br I."""
    sets: tuple[str, ...]
    """Data sets that contain the molecule."""


def read_smiles_list(path: str | Path, *, allowed_only: bool = True) -> tuple[tuple[SmilesRow, ...], ImportReport]:
    """Reads a SMILES list.

    Args:
        path: the file.
        allowed_only: whether to leave out rows that are not allowed.

    Raises:
        StoreError: the file cannot be read, or a row does not have the five columns.
    """
    try:
        with _open_text(path) as file:
            rows = [_parse_row(path, number, cells) for number, cells in _numbered_rows(path, file)]
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise StoreError(f"{path} is not a readable SMILES list ({error}); download or create it again") from error
    kept = tuple(row for row in rows if row.is_allowed or not allowed_only)
    left_out = (
        {"not allowed (charged, several fragments or other elements)": len(rows) - len(kept)} if allowed_only else {}
    )
    return kept, ImportReport(Path(path).name, len(rows), len(kept), 0, left_out)


def is_smiles_list(path: str | Path) -> bool:
    """Whether the first line of a file is the header of a SMILES list."""
    try:
        with _open_text(path) as file:
            return file.readline().rstrip("\n").split("\t") == _COLUMNS
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError):
        return False


def _open_text(path: str | Path) -> TextIOWrapper:
    if str(path).endswith(".xz"):
        return lzma.open(path, "rt", encoding="utf-8")
    return open(path, encoding="utf-8")


def _numbered_rows(path: str | Path, file: TextIOWrapper) -> list[tuple[int, list[str]]]:
    lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    if not lines or lines[0] != _COLUMNS:
        raise StoreError(f"{path}: the first line is {lines[:1]}, expected the columns {', '.join(_COLUMNS)}")
    return list(enumerate(lines))[1:]


def _parse_row(path: str | Path, number: int, cells: list[str]) -> SmilesRow:
    try:
        smiles, heavy, charge, allowed, sets = cells
        # The column "allowed" of the published list includes ions, contrary to its description.
        is_allowed = {"0": False, "1": True}[allowed] and int(charge) == 0
        return SmilesRow(smiles, int(heavy), int(charge), is_allowed, tuple(sets.split(",")))
    except (ValueError, KeyError) as error:
        raise StoreError(
            f"{path}: row {number} is {cells}, expected {', '.join(_COLUMNS)}; correct that row"
        ) from error
