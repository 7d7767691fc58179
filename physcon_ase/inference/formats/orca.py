"""Reader of ORCA inputs."""

import re
from collections.abc import Iterator
from typing import Final

import numpy as np
from ase import Atoms

from physcon_ase.chem.isotopes import mass_of_isotope
from physcon_ase.errors import PhysConError, StoreError
from physcon_ase.inference.formats.rows import ReadOptions, Row
from physcon_ase.inference.formats.xyz import atoms_of_lines
from physcon_ase.units import ANGSTROM_PER_BOHR

_NEW_JOB: Final = re.compile(r"(?im)^\s*\$new_job.*\n?")
_BLOCK: Final = re.compile(
    r"^\s*\*\s*xyz\s+([+-]?\d+)\s+(\d+)\s*\n(.*?)^\s*\*", re.MULTILINE | re.IGNORECASE | re.DOTALL
)
_IN_BOHR: Final = re.compile(r"(?im)^\s*!.*\bbohrs?\b")
"""Keyword line that says that coordinates are in bohr."""

_CONSTRAINED: Final = re.compile(r"(?im)^[^#\n]*\bconstraints\b")
"""Line that begins a block of constraints."""

_MASS: Final = re.compile(r"(?i)\bM\s*=\s*(\d+\.?\d*)")
"""Mass of an isotope after the coordinates of its atom."""


def read(text: str, options: ReadOptions) -> Iterator[Row]:
    """Geometries of the blocks `* xyz CHARGE MULTIPLICITY` of an ORCA input, one for each job that has one.

    ASE's reader of these blocks leaves out charge and multiplicity.
    """
    found = [(_BLOCK.search(job), job) for job in _NEW_JOB.split(text)]
    blocks = [(block, job) for block, job in found if block is not None]
    if not blocks:
        reason = "the ORCA input has no block '* xyz CHARGE MULTIPLICITY'; give the coordinates there, or as XYZ"
        yield Row(StoreError(reason), number=1)
    for number, (block, job) in enumerate(blocks, start=1):
        if _CONSTRAINED.search(job):
            reason = "the ORCA input has constraints, which are not read: remove them, or set those of ASE in Python"
            yield Row(StoreError(reason), number=number)
            continue
        try:
            atoms = _geometry(block[3])
        except PhysConError as error:
            yield Row(error, number=number)
            continue
        except ValueError as error:
            reason = f"the coordinates of the ORCA input cannot be read ({error}); correct them"
            yield Row(StoreError(reason), number=number)
            continue
        if _IN_BOHR.search(job):
            atoms.positions *= ANGSTROM_PER_BOHR
        atoms.info["charge"], atoms.info["spin"] = int(block[1]), int(block[2])
        yield Row(atoms, number=number)


def _geometry(block: str) -> Atoms:
    lines = [line for line in (line.partition("#")[0] for line in block.split("\n")) if line.strip()]
    atoms = atoms_of_lines(lines)
    masses = [(atom, _MASS.search(line)) for atom, line in enumerate(lines)]
    stated = {atom: mass_of_isotope(int(atoms.numbers[atom]), float(mass[1])) for atom, mass in masses if mass}
    if stated:
        found = atoms.get_masses()
        found[list(stated)] = list(stated.values())
        atoms.set_array("masses", np.array(found))
    return atoms
