"""Isotopes of a molecular graph, and their masses."""

from typing import Final

import numpy as np
from jaxtyping import Float, Int, Integer
from rdkit import Chem

from physcon_ase.chem.graph import MolGraph

_SAME: Final = 0.02
"""Deviation [amu] below which a mass is attributed to an isotope, so that 2 or 2.014 is deuterium."""

_PERIODIC_TABLE: Final = Chem.GetPeriodicTable()


def is_isotope(atomic_number: int, mass_number: int) -> bool:
    """Whether the element has an isotope of this mass number; always true for 0, the natural mixture."""
    return mass_number == 0 or _PERIODIC_TABLE.GetMassForIsotope(atomic_number, mass_number) > 0


def mass_of_isotope(atomic_number: int, stated: float) -> float:
    """Mass [amu] of an isotope that a file states by its mass number or its mass.

    Raises:
        ValueError: the element has no such isotope.
    """
    mass = _PERIODIC_TABLE.GetMassForIsotope(atomic_number, round(stated))
    if stated < 0.5 or mass <= 0:
        raise ValueError(f"{_PERIODIC_TABLE.GetElementSymbol(atomic_number)} has no isotope of mass {stated:g}")
    return mass if float(stated).is_integer() else stated


def isotope_masses(graph: MolGraph) -> list[float | None]:
    """Mass [amu] of each atom whose isotope is given; None for the natural mixture (`ase.Atoms.set_masses`)."""
    pairs = zip(graph.atomic_numbers.tolist(), graph.isotopes.tolist(), strict=True)
    return [_PERIODIC_TABLE.GetMassForIsotope(*pair) if pair[1] else None for pair in pairs]


def isotopes_of_masses(
    atomic_numbers: Integer[np.ndarray, " atoms"],
    masses: Float[np.ndarray, " atoms"],
    natural: Float[np.ndarray, " atoms"],
) -> Int[np.ndarray, " atoms"]:
    """Mass number of each atom whose mass is that of an isotope, 0 for others.

    Args:
        atomic_numbers: atomic number of each atom.
        masses: masses [amu]; values that match no isotope (other units, repartitioned masses) give 0.
        natural: standard atomic weights [amu] of the atoms.
    """
    isotopes = np.zeros(len(masses), dtype=np.int32)
    for atom in np.flatnonzero(np.abs(masses - natural) > 0.01):
        number, nearest = int(atomic_numbers[atom]), round(float(masses[atom]))
        if nearest > 0 and abs(_PERIODIC_TABLE.GetMassForIsotope(number, nearest) - masses[atom]) < _SAME:
            isotopes[atom] = nearest
    return isotopes
