"""Reader of CSV and TSV tables with a column of SMILES."""

import csv
import re
from collections.abc import Iterator, Sequence
from io import StringIO
from typing import Final

from physcon_ase.errors import InvalidSmilesError, StoreError
from physcon_ase.inference.formats.rows import ReadOptions, Row

SMILES_COLUMNS: Final = ("smiles", "canonicalsmiles", "isomericsmiles", "smi", "structure", "smilesstring", "cansmiles")
"""Names of columns with SMILES, as `simplified`, in order of preference."""

NAME_COLUMNS: Final = (
    "name", "moleculename", "compoundname", "drugname", "drug", "compound", "molecule", "title", "id", "moleculeid",
    "molid", "compoundid", "chemblid", "moleculechemblid", "inchikey", "cas", "cid",
)  # fmt: skip
"""Names of columns with names, as `simplified`, in order of preference."""

_DELIMITERS: Final = ",;\t|"


def read(text: str, options: ReadOptions) -> Iterator[Row]:
    """Rows of a table whose first line names the columns; the number of a row is that of its line.

    Raises:
        StoreError: there is no such column, or no column of SMILES is recognised.
    """
    lines = csv.reader(StringIO(text, newline=""), delimiter=_delimiter(text, options.suffix))
    header = next((cells for cells in lines if any(cell.strip() for cell in cells)), None)
    if header is None:
        return
    header = [cell.strip() for cell in header]
    smiles_column = _column(header, options.smiles_column, SMILES_COLUMNS, "--smiles-column")
    if smiles_column is None:
        raise StoreError(
            f"none of the columns {', '.join(map(repr, header))} is called SMILES: name the column with smiles_column "
            "(--smiles-column)"
        )
    name_column = _column(header, options.name_column, NAME_COLUMNS, "--name-column")
    for cells in lines:
        if any(cell.strip() for cell in cells):
            yield _row(cells, smiles_column, name_column, lines.line_num)


def simplified(name: str) -> str:
    """Name of a column in lower case, letters and digits only."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _row(cells: Sequence[str], smiles_column: int, name_column: int | None, number: int) -> Row:
    name = cells[name_column].strip() if name_column is not None and name_column < len(cells) else ""
    smiles = cells[smiles_column].strip() if smiles_column < len(cells) else ""
    if smiles:
        return Row(smiles, name, number)
    error = InvalidSmilesError(f"line {number} has no SMILES: fill in the cell, or delete the line")
    return Row(error, name, number)


def _delimiter(text: str, suffix: str) -> str:
    if suffix == ".tsv":
        return "\t"
    header = text.lstrip().partition("\n")[0]
    return max(_DELIMITERS, key=header.count)


def _column(header: Sequence[str], wanted: str | None, known: Sequence[str], option: str) -> int | None:
    """Index of the requested column, or of the first one with a known name."""
    if wanted is not None:
        if wanted not in header:
            raise StoreError(
                f"there is no column {wanted!r}; the columns are {', '.join(map(repr, header))}: correct {option}"
            )
        return header.index(wanted)
    names = [simplified(name) for name in header]
    return next((names.index(name) for name in known if name in names), None)
