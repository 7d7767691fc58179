"""Reader of XYZ files in their dialects, and writer of extended XYZ files.

The reader accepts plain and extended XYZ, blank lines between the frames, labels such as O1, atomic numbers instead of
symbols, D and T, and Fortran exponents (1.0D-03).
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict

from physcon_ase.chem.states import STATE_KEYS
from physcon_ase.errors import StoreError, UnknownElementError
from physcon_ase.inference.formats.rows import ReadOptions, Row
from physcon_ase.inference.formats.summary import one_line
from physcon_ase.inference.formats.text import replacing
from physcon_ase.inference.results import Record
from physcon_ase.plurals import counted
from physcon_ase.units import ATOMIC_NUMBERS, CHEMICAL_SYMBOLS

ISOTOPES: Final = {"D": 2.014101778, "T": 3.016049281}
"""Mass [amu] of the isotopes of hydrogen that have their own symbols; AME2020, doi 10.1088/1674-1137/abddaf."""

_GHOSTS: Final = ("X", "XX", "BQ", "GH", "DU", "LP", "TV")
"""Symbols of dummy atoms, ghost atoms and cell vectors."""

_NAMED_ATOMS: Final = re.compile(r"(H[EG]|C[ADE]|N[BDEH]|PA|SG)\d")
"""Names of atoms in PDB files, such as HG1, that begin like elements which molecules with such names do not contain."""

_GHOST: Final = re.compile(r"BQ|.*(:$|-BQ)", re.IGNORECASE)
"""Labels of ghost atoms that contain an element: BqH, H: (ORCA), H-Bq (Gaussian)."""

_LETTERS: Final = re.compile(r"[A-Za-z]+")
_FORTRAN: Final = re.compile(r"^([+-]?(?:\d+\.\d*|\.\d+))[dD]([+-]?\d+)$")
_EXTENDED: Final = re.compile(r"\bProperties\s*=", re.IGNORECASE)

_PART: Final = re.compile(
    r"""(?<!\S)(?:
        (?P<key>[A-Za-z_]\w*)\s*=(?:
            (?=\s*$|\s+[A-Za-z_]\w*\s*=)  # no value
            | \s*(?P<value>
                (?:"(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | \{[^}]*\} | \[[^\]]*\]) (?=[\s,;]|$)
                | [^\s=]\S*))
        | "(?P<quoted>[^"]*)"(?!\S)
        | \S+)""",
    re.VERBOSE,
)
"""Pair of key and value, text in quotation marks, or word of a comment line."""

_STATES: Final = {**STATE_KEYS, "q": "charge", "mult": "spin"}
"""Key of the total charge and the multiplicity in `Atoms.info`, by their keys in comment lines, in any case."""

_CHARGE_AND_MULTIPLICITY: Final = re.compile(r"^\s*([+-]?\d)\s+([1-9])\s*$")
"""Comment line with the charge and the multiplicity, as in inputs of Gaussian and ORCA."""

_STATE: Final = re.compile(rf"(?i)(?<!\S)({'|'.join(_STATES)})\s*:\s*(?=[+-]?\d)")
"""Key of the charge or the multiplicity with a colon."""

_IDENTIFIER: Final = re.compile(
    r"InChI=1\S*|(?=\S*[BCNOPS\d\])]=[BCNOPS\[])(?:Cl|Br|[BCNOPSFIbcnops]|\[[^\s\[\]]+\]|[-=#:/\\.()%\d])+"
)
"""InChI, or SMILES with a double bond, which look like pairs."""


@dataclass(frozen=True)
class Element:
    """Element of an atom."""

    symbol: str
    """Symbol."""
    mass: float | None = None
    """Mass [amu] of an isotope that has its own symbol; None for others."""


def read(text: str, options: ReadOptions) -> Iterator[Row]:
    """Frames of an XYZ file; frames that cannot be read become rows with their error."""
    lines = text.split("\n")
    place, number = 0, 0
    while True:
        while place < len(lines) and not lines[place].strip():
            place += 1
        if place == len(lines):
            return
        number += 1
        if not lines[place].strip().isdecimal():
            yield Row(
                StoreError(
                    f"line {place + 1} should be the number of atoms of frame {number}, but is {lines[place]!r}; what "
                    "follows was not read: correct the number of atoms of the frame before"
                ),
                number=number,
            )
            return
        n_atoms = int(lines[place])
        comment = "".join(lines[place + 1 : place + 2])
        body = lines[place + 2 : place + 2 + n_atoms]
        n_lines = next((count for count, line in enumerate(body) if not line.strip()), len(body))
        place += 2 + n_lines
        if n_lines < n_atoms:
            has = f"frame {number} has {counted(n_lines, 'atom')} instead of {n_atoms}"
            reason = f"{has}; complete it, or correct the number"
            yield Row(StoreError(reason), number=number)
        else:
            yield _row(body, comment, number)


def _row(body: Sequence[str], comment: str, number: int) -> Row:
    try:
        atoms = _extended_frame(body, comment) if _EXTENDED.search(comment) else _plain_frame(body, comment)
        _name_state(atoms.info)
    except UnknownElementError as error:
        return Row(UnknownElementError(f"frame {number}: {error}"), number=number)
    except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
        return Row(StoreError(f"frame {number} cannot be read ({reason}); correct it"), number=number)
    name = atoms.info.get("name", "")
    return Row(atoms, str(name), number)


def _name_state(info: dict[str, Any]) -> None:
    """Renames the keys of charge and multiplicity to those of the calculator, in place.

    Raises:
        ValueError: two keys contradict each other.
    """
    for key in [key for key in info if _STATES.get(key.lower(), key) != key]:
        state, value = _STATES[key.lower()], info.pop(key)
        if info.setdefault(state, value) != value:
            raise ValueError(f"{key}={value} contradicts {state}={info[state]}")


def _plain_frame(body: Sequence[str], comment: str) -> Atoms:
    atoms = atoms_of_lines(body)
    comment = _STATE.sub(r"\1=", _CHARGE_AND_MULTIPLICITY.sub(r"charge=\1 spin=\2", comment))
    fields = _comment_fields(comment.strip())
    cell, pbc = fields.pop("Lattice", None), fields.pop("pbc", None)
    if cell is not None:
        atoms.set_cell(cell.T)
    if cell is not None or pbc is not None:  # extended XYZ without Properties
        atoms.set_pbc(True if pbc is None else pbc)
    atoms.info.update(fields)
    return atoms


def _comment_fields(comment: str) -> dict[str, Any]:
    """Key-value pairs of the comment line of plain XYZ; the other words are the name, unless it is a number.

    Raises:
        ValueError: Lattice is not a matrix.
    """
    fields: dict[str, Any] = {}
    words, has_pairs = [], False
    for part in _PART.finditer(comment):
        key, value = part["key"], part["value"]
        if key is None or _IDENTIFIER.fullmatch(part[0].rstrip(",;")):
            words.append(part["quoted"] or part[0])
            continue
        try:
            fields |= key_val_str_to_dict(f"{key}={value}") if value else {}
            has_pairs = True
        except (ValueError, KeyError, IndexError):
            if key == "Lattice":
                raise
            words.append(part[0])
    name = " ".join(words).strip(" ,;") if has_pairs else comment
    return ({"name": name} if name and not _is_number(name) else {}) | fields


def _extended_frame(body: Sequence[str], comment: str) -> Atoms:
    words = [[_number_text(word) for word in line.split()] for line in body]
    labels, elements = [line[0] for line in words], None
    if re.search(r"Properties\s*=\s*\"?species:S:1", comment, re.IGNORECASE):
        elements = [element_of(label) for label in labels]
        words = [[element.symbol, *line[1:]] for element, line in zip(elements, words, strict=True)]
    frame = "\n".join([str(len(body)), comment, *(" ".join(line) for line in words), ""])
    atoms = ase.io.read(StringIO(frame), format="extxyz")
    assert isinstance(atoms, Atoms)
    return atoms if elements is None else _named(atoms, labels, elements)


def atoms_of_lines(lines: Sequence[str]) -> Atoms:
    """Atoms of lines with a symbol, label or atomic number and three coordinates [Å]; further columns are ignored.

    Raises:
        UnknownElementError: a label is not that of an element.
        ValueError: a line does not have three coordinates.
    """
    words = [line.split() for line in lines]
    for line, found in zip(lines, words, strict=True):
        if len(found) < 4:
            raise ValueError(f"{line!r} should be an element and three coordinates")
    labels = [found[0] for found in words]
    elements = [element_of(label) for label in labels]
    positions = [[float(_number_text(word)) for word in found[1:4]] for found in words]
    atoms = Atoms([element.symbol for element in elements], np.array(positions).reshape(-1, 3))
    return _named(atoms, labels, elements)


def _named(atoms: Atoms, labels: Sequence[str], elements: Sequence[Element]) -> Atoms:
    """Adds labels that are more than symbols, and masses of isotopes, in place."""
    if any(label not in (element.symbol, str(ATOMIC_NUMBERS[element.symbol])) and element.mass is None
           for label, element in zip(labels, elements, strict=True)):  # fmt: skip
        atoms.set_array("labels", np.array(labels))
    if any(element.mass is not None for element in elements):
        pairs = zip(elements, atoms.get_masses(), strict=True)
        masses = [mass if element.mass is None else element.mass for element, mass in pairs]
        atoms.set_array("masses", np.array(masses))
    return atoms


def element_of(label: str) -> Element:
    """Element of a symbol in any case, of a label such as O1, Cl_2, CB or HG1, or of an atomic number.

    Raises:
        UnknownElementError: there is no such element, or it is a ghost atom.
    """
    if _GHOST.match(label):
        raise UnknownElementError(f"{label!r} is not an element, but a ghost atom; remove it")
    if label.isdecimal() and int(label) in CHEMICAL_SYMBOLS:
        return Element(CHEMICAL_SYMBOLS[int(label)])
    found = _LETTERS.match(label)
    letters = found[0] if found else ""
    if letters in ISOTOPES:
        return Element("H", ISOTOPES[letters])
    if letters.capitalize() in ATOMIC_NUMBERS and not _NAMED_ATOMS.match(label):
        return Element(letters.capitalize())
    # names of atoms as in PDB files, all in capitals: CB, HG1, OXT
    if letters.isupper() and letters not in _GHOSTS and letters[0] in ATOMIC_NUMBERS:
        return Element(letters[0])
    raise UnknownElementError(f"{label!r} is not an element; use a symbol of the periodic table, and no dummy atoms")


def _number_text(word: str) -> str:
    return _FORTRAN.sub(r"\1E\2", word)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# ---- writing


def write(records: Sequence[Record], path: Path) -> None:
    """Writes the geometries of records, with name, number, source, status and its reason in `info`."""
    write_frames([_with_origin(record) for record in records if record.result is not None], path)


def _with_origin(record: Record) -> Atoms:
    assert record.result is not None
    atoms = record.result.atoms.copy()
    atoms.calc = record.result.atoms.calc
    origin = {"name": record.name, "row": record.row, "source": record.source, "status": record.status}
    origin |= {"reason": one_line(record.reason), "undefined_stereo": "; ".join(record.result.undefined_stereo)}
    for name, value in origin.items():
        atoms.info.pop(name, None)  # of an earlier output that was the input
        if value:
            atoms.info[name] = value
    return atoms


def write_frames(structures: Sequence[Atoms], path: Path) -> None:
    """Writes geometries with energy, forces and `info`; texts in `info` read back exactly, blanks in those of atoms
    become "_".

    Results of an earlier calculation in `info` or `arrays`, such as the energy in the comment line of an input, are
    left out if there are new ones.
    """
    with replacing(path) as file:
        for atoms in structures:
            frame = atoms.copy()
            old = () if atoms.calc is None else all_properties
            frame.info = {
                key: _escaped(key, value) for key, value in atoms.info.items() if key not in old and value is not None
            }
            for key in frame.arrays.keys() & set(old):
                del frame.arrays[key]
            for key, values in frame.arrays.items():
                if values.dtype.kind == "U":  # a blank would end the column
                    frame.arrays[key] = np.array(["_".join(text.split()) or "_" for text in values.flat]).reshape(
                        values.shape
                    )
            frame.calc = atoms.calc
            ase.io.write(file, frame, format="extxyz")


def _escaped(key: str, value: Any) -> Any:
    """Text that the reader of extended XYZ converts back to `value`; it removes backslashes and converts numbers."""
    if not isinstance(value, str):
        return value
    as_json = [f"_JSON {json.dumps(value, ensure_ascii=to_ascii)}" for to_ascii in (False, True)]
    for text in (value, *as_json):
        escaped = text.replace("\\", "\\\\")
        if len(escaped.splitlines()) > 1:
            continue
        if escaped != escaped.strip():
            continue
        found = key_val_str_to_dict(key_val_dict_to_str({"key": escaped, "next": 1}))
        if list(found) == ["key", "next"] and isinstance(found["key"], str) and found["key"] == value:
            return escaped
    raise StoreError(f"the text {value!r} of {key!r} cannot be written to an XYZ file; remove it from atoms.info")
