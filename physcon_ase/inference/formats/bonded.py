"""Reader of SD and MOL files, and writer of SD files."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from physcon_ase.chem.files import sdf_block
from physcon_ase.chem.rdkit_molecules import KnownMolecule, known_from_mol_block
from physcon_ase.errors import BondPerceptionError, PhysConError, StoreError
from physcon_ase.inference.formats.columns import NAME_COLUMNS, simplified
from physcon_ase.inference.formats.rows import ReadOptions, Row, fields_of, geometry_or_graph
from physcon_ase.inference.formats.summary import one_line, values_of
from physcon_ase.inference.formats.text import replacing
from physcon_ase.inference.results import Record

_END: Final = re.compile(r"^\$\$\$\$.*\n?", re.MULTILINE)
"""Last line of an SD record."""

_END_OF_MOLECULE: Final = re.compile(r"^M  END", re.MULTILINE)

_FIELD: Final = re.compile(r"^>[^\n<]*<([^>\n]+)>[^\n]*\n((?:(?!>[^\n<]*<[^>\n]+>)[^\n]+\n?)*)", re.MULTILINE)
"""Name and lines of a data field; a line may begin with ">", such as an IC50 of ">100"."""


def read(text: str, options: ReadOptions) -> Iterator[Row]:
    """Records of an SD or MOL file; those without three-dimensional positions as graphs."""
    for number, block in enumerate(_END.split(text), start=1):
        if block.strip():
            n_molecules = len(_END_OF_MOLECULE.findall(block))
            if n_molecules > 1:
                reason = f"record {number} has {n_molecules} molecules: separate them with lines of $$$$"
                yield Row(StoreError(reason), number=number)
                continue
            fields = fields_of((one_line(name), value.strip()) for name, value in _FIELD.findall(block))
            name = block.partition("\n")[0].strip() or _name_in(fields)
            yield replace(row_of(known_from_mol_block, block, name, number), fields=fields)


def _name_in(fields: Mapping[str, str]) -> str:
    """Name in a data field that is called like the column of names of a table; empty if there is none."""
    found = {simplified(name): value for name, value in fields.items()}
    return next((found[name] for name in NAME_COLUMNS if found.get(name)), "")


def row_of(parse: Callable[[str], KnownMolecule], block: str, name: str, number: int) -> Row:
    """Row of a record with bonds; one with an error if it cannot be read."""
    try:
        return Row(geometry_or_graph(parse(block)), name, number)
    except PhysConError as error:
        return Row(error, name, number)


def write_sdf(records: Sequence[Record], path: Path) -> None:
    """Writes the structures of records with bonds; their `summary` and the fields of the input become data fields.

    Raises:
        BondPerceptionError: the bonds of a structure are not known.
    """
    with replacing(path) as file:
        for record in records:
            if record.result is not None:
                file.write(_sdf_record(record))


def _sdf_record(record: Record) -> str:
    assert record.result is not None
    result = record.result
    if result.graph is None:
        raise BondPerceptionError(
            f"no bonds were found for {result.atoms.get_chemical_formula()}, but SD files require bonds: write .xyz"
        )
    fields = {name: one_line(value) for name, value in values_of(record).items() if value is not None and value != ""}
    return sdf_block(result.graph, result.atoms.positions, fields, title=one_line(record.name or result.smiles))
