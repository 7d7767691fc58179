"""Reader and writer of PDB files with small molecules."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from ase import Atoms

from physcon_ase.chem.files import pdb_block
from physcon_ase.chem.rdkit_molecules import pdb_atoms
from physcon_ase.errors import PhysConError
from physcon_ase.inference.formats.rows import ReadOptions, Row, set_isotope_masses
from physcon_ase.inference.formats.summary import one_line, summary
from physcon_ase.inference.formats.text import replacing
from physcon_ase.inference.results import Record
from physcon_ase.units import ATOMIC_NUMBERS

_END: Final = re.compile(r"^(?:ENDMDL|END)\b.*\n?", re.MULTILINE)
_HAS_ATOMS: Final = re.compile(r"^(?:ATOM  |HETATM)", re.MULTILINE)
_LOCATION: Final = slice(16, 17)
"""Column with the letter of an alternative location."""

_NAME: Final = slice(12, 16)
"""Columns with the name of an atom."""

_ELEMENT: Final = slice(76, 78)
"""Columns with the element of an atom, which older files do not have."""

_HALOGEN: Final = re.compile(r" ?(CL|BR)\d*", re.IGNORECASE)
"""Names of chlorine and bromine atoms, in the columns of two letters or of one."""

_RESIDUE: Final = slice(21, 27)
"""Columns with chain, number and insertion code of a residue."""

_TITLE: Final = re.compile(r"^(?:COMPND|TITLE|HEADER) +(.+?)\s*$", re.MULTILINE)

_NO_NAMES: Final = ("UNNAMED", "MOL_ID: 1;")
"""Titles that are not the name of a molecule: those of Open Babel, and the first line of an entry of the PDB."""

_REMARKS: Final = (
    "status", "reason", "undefined_stereo", "energy_eV", "energy_uncertainty_eV", "level", "model", "row", "source",
)  # fmt: skip
"""Columns of the summary that become remarks."""


def read(text: str, options: ReadOptions) -> Iterator[Row]:
    """Models of a PDB file as geometries; their bonds are perceived, and names of the atoms are kept as labels."""
    blocks = [block for block in _END.split(text) if _HAS_ATOMS.search(block)]
    for number, block in enumerate(blocks, start=1):
        title = _TITLE.search(block)
        name = "" if title is None or title[1] in _NO_NAMES else title[1]
        try:
            found = pdb_atoms(_with_elements(_at_first_locations(block)))
        except PhysConError as error:
            yield Row(error, name, number)
            continue
        atoms = Atoms(found.atomic_numbers, found.positions, info={"charge": found.charge} if found.charge else {})
        atoms.set_array("labels", np.array(found.labels))
        set_isotope_masses(atoms, found.isotopes)
        yield Row(atoms, name or found.residue, number)


def _at_first_locations(block: str) -> str:
    """The lines of a model with the first alternative location of each residue only, whatever its letter."""
    first: dict[str, str] = {}
    lines = []
    for line in block.split("\n"):
        if _HAS_ATOMS.match(line) and line[_LOCATION].strip():
            if line[_LOCATION] != first.setdefault(line[_RESIDUE], line[_LOCATION]):
                continue
            line = f"{line[: _LOCATION.start]} {line[_LOCATION.stop :]}"
        lines.append(line)
    return "\n".join(lines)


def _with_elements(block: str) -> str:
    """The lines of a model with the element of each atom, where it is missing taken from the name of the atom."""
    lines = block.split("\n")
    for number, line in enumerate(lines):
        if _HAS_ATOMS.match(line) and not line[_ELEMENT].strip():
            lines[number] = f"{line[: _ELEMENT.start]:76}{_element_of(line[_NAME]):>2}{line[_ELEMENT.stop :]}"
    return "\n".join(lines)


def _element_of(name: str) -> str:
    """Symbol of the element of an atom with a name of four columns.

    Symbols of two letters begin in the first column, and those of one letter in the second one, except in names of four
    letters, such as HG11, and by programs that begin all names in the first column.
    """
    letters = re.findall(r"[A-Za-z]+", name)
    if (halogen := _HALOGEN.fullmatch(name.rstrip())) or not letters:
        return halogen[1] if halogen else ""
    pair = letters[0][:2].capitalize()
    is_pair = name[0].isalpha() and pair in ATOMIC_NUMBERS and not (len(name.strip()) == 4 and pair[0] == "H")
    return pair if is_pair else letters[0][0].upper()


def write(records: Sequence[Record], path: Path) -> None:
    """Writes the structures of records one after the other, each ending with END."""
    with replacing(path) as file:
        for record in records:
            if record.result is not None:
                values = summary(record)
                remarks = [f"{name} {one_line(values[name])}" for name in _REMARKS if values[name] not in (None, "")]
                atoms = record.result.atoms
                labels = atoms.arrays.get("labels")
                file.write(
                    pdb_block(
                        record.result.graph,
                        atoms.numbers,
                        atoms.positions,
                        title=one_line(record.name),
                        remarks=remarks,
                        labels=() if labels is None else tuple(labels.tolist()),
                    )
                )
