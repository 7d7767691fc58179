"""Reader of Gaussian inputs."""

import re
from collections.abc import Iterator
from io import StringIO
from typing import Final

from ase import Atoms
from ase.io import ParseError
from ase.io.gaussian import read_gaussian_in

from physcon_ase.chem.isotopes import mass_of_isotope
from physcon_ase.errors import StoreError
from physcon_ase.inference.formats.rows import ReadOptions, Row
from physcon_ase.units import ANGSTROM_PER_BOHR

_FREEZE_CODE: Final = re.compile(r"(?m)^[ \t]*[A-Za-z]\S*[ \t,]+(-[1-9]\d*)(?:[ \t,]+[-+]?\d*\.\d+){3}")
"""Line of an atom that is held, with its freeze code."""

_LINK: Final = re.compile(r"(?im)^--link1--.*\n")


def read(text: str, options: ReadOptions) -> Iterator[Row]:
    """Geometries of a Gaussian input, one for each link, with charge, multiplicity, isotopes and units of length."""
    for number, section in enumerate(_LINK.split(text), start=1):
        try:
            atoms = _geometry(section)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, ParseError) as error:
            reason = " ".join(str(error).split())
            yield Row(StoreError(f"ASE cannot read the Gaussian input ({reason}); give an XYZ file"), number=number)
            continue
        yield Row(atoms, number=number)


def _geometry(section: str) -> Atoms:
    """Geometry of one link. ASE reads the keyword `units` and the isotopes, but does not apply them.

    Raises:
        ValueError: angles in radians, atoms that are held, or an isotope that does not exist; ASE raises this and other
            errors.
    """
    if (frozen := _FREEZE_CODE.search(section)) is not None:
        raise ValueError(f"the freeze code {frozen[1]} of {frozen[0].split()[0]} is not supported: delete it")
    atoms = read_gaussian_in(StringIO(section), attach_calculator=True)
    parameters = atoms.calc.parameters
    atoms.calc = None
    atoms.info["charge"], atoms.info["spin"] = int(parameters["charge"]), int(parameters["mult"])
    units = re.split(r"\W+", str(parameters.get("units") or "").lower())
    if any(unit.startswith("rad") for unit in units):
        raise ValueError("angles in radians are not supported")
    if {"au", "bohr"} & set(units):
        atoms.positions *= ANGSTROM_PER_BOHR
    stated = parameters.get("isolist") or ()
    if any(isotope is not None for isotope in stated):
        own = zip(atoms.numbers.tolist(), stated, atoms.get_masses(), strict=True)
        atoms.set_masses([mass if isotope is None else mass_of_isotope(z, float(isotope)) for z, isotope, mass in own])
    return atoms
