"""Coverage of a level: elements, charge and spin; choice of the level for a molecule."""

from collections.abc import Iterable
from typing import Final

import numpy as np
from jaxtyping import Int

from physcon_ase.errors import SpinParityError, UnsupportedChargeError, UnsupportedElementError
from physcon_ase.model.physcon import PhysCon
from physcon_ase.plurals import counted
from physcon_ase.units import CHEMICAL_SYMBOLS

AUTO: Final = "auto"
"""Name for the first level of the model that covers a molecule."""


def checked_level(level: str, model: PhysCon) -> str:
    """The name of a level of the model, or `AUTO`.

    Raises:
        UnknownLevelError: the model has no such level.
    """
    return level if level == AUTO else model.level(level).name


def level_for(level: str, molecules: Iterable[tuple[np.ndarray, int]], model: PhysCon) -> str:
    """The level itself, or for `AUTO` the first one that covers the elements and the charge of all molecules.

    If there is none, it is the first level, which `check_elements` or `check_charge` then refuses.

    Args:
        level: name of a level, or `AUTO`.
        molecules: atomic numbers and total charge [e] of each.
        model: the model.
    """
    if level != AUTO:
        return level
    needed = [(set(numbers.tolist()), charge) for numbers, charge in molecules]
    fitting = (
        own.name
        for own in model.config.levels
        if all(numbers.issubset(own.elements) and charge in own.charges for numbers, charge in needed)
    )
    return next(fitting, model.level_names[0])


def check_elements(atomic_numbers: Int[np.ndarray, " atoms"], model: PhysCon, level: str) -> None:
    """Refuses elements that the level does not cover.

    Raises:
        UnsupportedElementError: there is one; the message names the levels that cover the whole structure.
    """
    present = set(atomic_numbers.tolist())
    covered = model.level(level).elements
    missing = sorted(present.difference(covered))
    if missing:
        others = [name for name in model.level_names if present.issubset(model.level(name).elements)]
        every = {element for own in model.config.levels for element in own.elements}
        if others:
            remedy = f"use level {' or '.join(map(repr, others))}"
        elif present.issubset(every):
            remedy = "no level of this model covers all atoms"
        else:
            remedy = f"no level of this model covers {format_elements(present - every)}, only {format_elements(every)}"
        raise UnsupportedElementError(
            f"level {level!r} does not cover {', '.join(CHEMICAL_SYMBOLS[number] for number in missing)}; it covers "
            f"{format_elements(covered)}: {remedy}"
        )


def check_charge(
    atomic_numbers: Int[np.ndarray, " atoms"], charge: int, multiplicity: int, model: PhysCon, level: str
) -> None:
    """Refuses a total charge [e] and spin multiplicity 2S + 1 that do not fit the electrons or that the level does not
    cover.

    Raises:
        SpinParityError: the number of electrons and the multiplicity are both odd or both even, or it is below 1.
        UnsupportedChargeError: open-shell, or a charge that the level was not trained on.
    """
    n_electrons = int(atomic_numbers.sum()) - charge
    if multiplicity < 1 or (n_electrons + multiplicity) % 2 == 0:
        raise SpinParityError(
            f"{counted(n_electrons, 'electron')} (charge {charge:+d}) cannot have spin multiplicity {multiplicity}; it "
            f"must be one of {'1, 3, 5' if n_electrons % 2 == 0 else '2, 4, 6'}, ...: correct atoms.info['charge'] or "
            "['spin'] (2S + 1), or the atoms; only singlets are supported"
        )
    if multiplicity != 1:
        raise UnsupportedChargeError(
            f"charge {charge:+d} with spin multiplicity {multiplicity} is not supported: only closed shells "
            "(multiplicity 1) are; use another program for radicals and other open shells"
        )
    check_covers_charge(charge, model, level)


def check_covers_charge(charge: int, model: PhysCon, level: str) -> None:
    """Refuses a total charge [e] that the level was not trained on.

    Raises:
        UnsupportedChargeError: the message names the levels that were.
    """
    if charge not in model.level(level).charges:
        others = [name for name in model.level_names if charge in model.level(name).charges]
        remedy = f"use level {' or '.join(map(repr, others))}" if others else "no level of this model covers it"
        covered = format_charges(model.level(level).charges)
        raise UnsupportedChargeError(
            f"level {level!r} does not cover charge {charge:+d}; it covers {covered}: {remedy}"
        )


def format_elements(elements: Iterable[int]) -> str:
    """Symbols of elements by atomic number."""
    return " ".join(CHEMICAL_SYMBOLS[element] for element in sorted(elements))


def format_charges(charges: Iterable[int]) -> str:
    """Total charges with their signs, the most negative first."""
    return ", ".join(f"{charge:+d}" if charge else "0" for charge in sorted(charges))
