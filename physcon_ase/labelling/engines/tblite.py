"""GFN1-xTB and GFN2-xTB with tblite."""

import functools
from typing import Final

import numpy as np

from physcon_ase.errors import EngineError
from physcon_ase.labelling.engines.engine import (
    Engine,
    EngineLabel,
    EngineRecord,
    Molecule,
    installed_version,
    one_line,
)
from physcon_ase.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE

TBLITE_METHODS: Final = {"gfn2": "GFN2-xTB", "gfn1": "GFN1-xTB"}
"""Method name of each level in tblite."""


def tblite_engine(level: str = "gfn2", *, accuracy: float = 1.0) -> Engine:
    """Engine for GFN1-xTB or GFN2-xTB with tblite.

    Bannwarth, Ehlert and Grimme 2019, doi 10.1021/acs.jctc.8b01176 (GFN2).

    Args:
        level: a key of `TBLITE_METHODS`.
        accuracy: tblite's scaling factor of all thresholds; smaller is tighter.

    Raises:
        EngineError: tblite is not installed, or the level is unknown.
    """
    if level not in TBLITE_METHODS:
        raise EngineError(f"tblite has no level {level!r}; choose one of {', '.join(TBLITE_METHODS)}")
    settings = {"method": TBLITE_METHODS[level], "accuracy": accuracy}
    record = EngineRecord(level, "tblite", installed_version("tblite", "pip install 'physcon-ase[label]'"), settings)
    return Engine(record, functools.partial(_tblite_label, **settings))


def _tblite_label(molecule: Molecule, *, method: str, accuracy: float) -> EngineLabel:
    from tblite.interface import Calculator as TBLiteCalculator

    try:
        calculator = TBLiteCalculator(
            method,
            molecule.atomic_numbers,
            molecule.positions / ANGSTROM_PER_BOHR,
            charge=float(molecule.charge),
            uhf=molecule.multiplicity - 1,
        )
        calculator.set("accuracy", accuracy)
        calculator.set("verbosity", 0)
        result = calculator.singlepoint()
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"tblite failed: {one_line(error)}") from error
    return EngineLabel(
        energy=float(result.get("energy")) * EV_PER_HARTREE,
        forces=-np.asarray(result.get("gradient")) * (EV_PER_HARTREE / ANGSTROM_PER_BOHR),
        charges=np.asarray(result.get("charges")),
    )
