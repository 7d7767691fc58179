"""ASE calculators as engines."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, CalculatorError

from physcon_ase.errors import EngineError
from physcon_ase.labelling.engines.engine import Engine, EngineLabel, EngineRecord, Molecule, one_line


def ase_engine(
    factory: Callable[[int, int], Calculator],
    *,
    level: str,
    program: str = "ASE",
    program_version: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Engine:
    """Engine for any ASE calculator with energies and forces.

    Args:
        factory: (total charge [e], multiplicity) -> new calculator; called once per geometry. Must be picklable for
            labelling in several processes: a module-level function, or a `functools.partial` of one.
        level: level of theory.
        program: name of the program, for the provenance.
        program_version: version of the program, for the provenance.
        settings: further settings of the program, for the provenance. Those of a `functools.partial` are included.
    """
    record = EngineRecord(level, program, program_version, {**_settings_of(factory), **(settings or {})})
    return Engine(record, functools.partial(_label_with_factory, factory=factory, program=program))


def _settings_of(factory: Callable[[int, int], Calculator]) -> dict[str, Any]:
    """The function and its fixed arguments: an interrupted labelling does not go on with others."""
    if isinstance(factory, functools.partial):
        fixed = {f"argument {place}": value for place, value in enumerate(factory.args)} | factory.keywords
        return {**_settings_of(factory.func), **fixed}
    return {"calculator": factory}


def _label_with_factory(molecule: Molecule, *, factory: Callable[[int, int], Calculator], program: str) -> EngineLabel:
    atoms = Atoms(molecule.atomic_numbers, molecule.positions)
    try:
        atoms.calc = factory(molecule.charge, molecule.multiplicity)
    except ImportError as error:
        raise EngineError(f"{program} is not installed: {one_line(error)}; install it") from error
    return label_of_atoms(atoms, program)


def label_of_atoms(atoms: Atoms, program: str) -> EngineLabel:
    """Energy and forces from the calculator of `atoms`.

    Raises:
        EngineError: the calculator failed; the message names the program.
    """
    try:
        return EngineLabel(float(atoms.get_potential_energy()), np.array(atoms.get_forces(), dtype=float))
    # Parsers of incomplete output files can raise any of these.
    except (CalculatorError, RuntimeError, ValueError, KeyError, IndexError, AssertionError, OSError) as error:
        raise EngineError(f"{program} failed: {type(error).__name__}: {one_line(error)}") from error
