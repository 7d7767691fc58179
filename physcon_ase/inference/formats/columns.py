"""Reader of CSV and TSV tables with a column of SMILES."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import StringIO
from typing import Final

from physcon_ase.errors import InvalidSmilesError, StoreError
from physcon_ase.inference.formats.rows import ReadOptions, Row, fields_of
from physcon_ase.inference.formats.summary import one_line
from physcon_ase.plurals import counted

SMILES_COLUMNS: Final = (
    "smiles", "isomericsmiles", "isosmiles", "absolutesmiles", "canonicalsmiles", "smi", "structure", "smilesstring",
    "cansmiles",
)  # fmt: skip
"""Names of columns with SMILES, as `simplified`, in order of preference: beside one of isomeric SMILES, as in PubChem,
the canonical ones have no stereochemistry."""

NAME_COLUMNS: Final = (
    "name", "moleculename", "compoundname", "drugname", "drug", "compound", "molecule", "title", "id", "moleculeid",
    "molid", "compoundid", "chemblid", "moleculechemblid", "inchikey", "cas", "cid",
)  # fmt: skip
"""Names of columns with names, as `simplified`, in order of preference."""

_GIVEN: Final = "input"
"""Column of the SMILES as given in tables of this package."""

_DELIMITERS: Final = ",;\t|"
_SEPARATOR_LINE: Final = re.compile(r'\A"?sep=(.)"?[,;\t| ]*\n', re.IGNORECASE)
"""First line of a table for Excel, which names the delimiter."""

_SMILES_WORD: Final = re.compile(r"(?<![a-z])smiles(?![a-z])", re.IGNORECASE)


def read(text: str, options: ReadOptions) -> Iterator[Row]:
    """Rows of a table whose first line names the columns; the number of a row is that of its line.

    Raises:
        StoreError: there is no such column, no column of SMILES is recognised, or a quotation mark is not closed.
    """
    records = _records(_SEPARATOR_LINE.sub("\n", text), _delimiter(text, options.suffix))
    header = [one_line(cell) for cell in next(records, (0, []))[1]]
    if not header:
        return
    smiles_column = _column(header, options.smiles_column, SMILES_COLUMNS, "--smiles-column")
    if smiles_column is None:
        raise StoreError(
            f"none of the columns {', '.join(map(repr, header))} is called SMILES: name the column with smiles_column "
            "(--smiles-column)"
        )
    name_column = _column(header, options.name_column, NAME_COLUMNS, "--name-column")
    # the tables of this package have the SMILES as given for molecules without a result
    columns = (smiles_column, *([header.index(_GIVEN)] if _GIVEN in header and options.smiles_column is None else ()))
    for number, cells in records:
        if any(cell.strip() for cell in cells[len(header) :]):
            error = StoreError(
                f"line {number} has {len(cells)} cells, but there are {counted(len(header), 'column')}: put cells that "
                "contain the delimiter into quotation marks"
            )
            yield Row(error, number=number)
            continue
        others = fields_of(
            (name or f"column {column + 1}", cell.strip())
            for column, (name, cell) in enumerate(zip(header, cells, strict=False))
            if column not in (smiles_column, name_column) and (name or cell.strip())
        )
        yield replace(_row(cells, columns, name_column, number), fields=others)


def has_smiles_header(text: str) -> bool:
    """Whether the first line of a text is the header of a table with a column of SMILES."""
    header = _first_line(_SEPARATOR_LINE.sub("", text))
    cells = [cell for delimiter in _DELIMITERS if delimiter in header for cell in header.split(delimiter)]
    return any(simplified(cell) in SMILES_COLUMNS or _SMILES_WORD.search(cell) for cell in cells)


def simplified(name: str) -> str:
    """Name of a column in lower case, letters and digits only."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Cells of the rows that are not empty, with the numbers of their last lines."""
    lines = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        start = lines.line_num + 1
        try:
            cells = next(lines, None)
        except csv.Error as error:
            raise StoreError(
                f"the row that begins in line {start} cannot be read ({error}): a cell that begins with a quotation "
                'mark must end with one, and those inside it must be doubled (""); correct this line'
            ) from error
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield lines.line_num, cells


def _row(cells: Sequence[str], smiles_columns: Sequence[int], name_column: int | None, number: int) -> Row:
    name = cells[name_column].strip() if name_column is not None and name_column < len(cells) else ""
    for column in smiles_columns:
        if column < len(cells) and cells[column].strip():
            return Row(cells[column].strip(), name, number)
    error = InvalidSmilesError(f"line {number} has no SMILES: fill in the cell, or delete the line")
    return Row(error, name, number)


def _delimiter(text: str, suffix: str) -> str:
    stated = _SEPARATOR_LINE.match(text)
    if stated:
        return stated[1]
    if suffix == ".tsv":
        return "\t"
    header = re.sub(r'"[^"]*"', "", _first_line(text))  # delimiters inside quotation marks do not count
    return max(_DELIMITERS, key=header.count)


def _first_line(text: str) -> str:
    """First line that is not blank."""
    found = re.search(r"^.*\S.*$", text, re.MULTILINE)
    return found[0] if found else ""


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
