"""Reader of SMILES lists: one SMILES per line, followed by a name and perhaps, after tabs, by further columns."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from physcon_ase.errors import InvalidSmilesError
from physcon_ase.inference.formats.columns import SMILES_COLUMNS, simplified
from physcon_ase.inference.formats.rows import ReadOptions, Row

_EXTENSION: Final = re.compile(r"\|[^|]*\|\s*$|\|[^|]*\|\s")
"""CXSMILES extension after a SMILES."""


def read(text: str, options: ReadOptions) -> Iterator[Row]:
    """Rows of a SMILES list; empty lines, lines that start with # and a header are left out."""
    is_first = True
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        smiles, *rest = line.split(maxsplit=1)
        name, *others = [cell.strip() for cell in "".join(rest).split("\t")]
        is_header = is_first and simplified(smiles.strip('"')) in SMILES_COLUMNS
        is_first = False
        if not is_header:
            fields = {f"column {column}": cell for column, cell in enumerate(others, start=3) if cell}
            yield replace(_row(smiles, name, number), fields=fields)


def _row(smiles: str, name: str, number: int) -> Row:
    if (extension := _EXTENSION.match(name)) is not None:
        error = InvalidSmilesError(
            f"SMILES {smiles!r} is followed by the CXSMILES extension {extension[0].strip()!r}, which is not "
            "supported: write radicals and stereochemistry into the SMILES"
        )
        return Row(error, name[extension.end() :].strip() or smiles, number)
    return Row(smiles, name, number)
