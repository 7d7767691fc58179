"""Validation of user input: structures, molecules and numbers.

Input is validated here once, and other modules rely on it. The coverage of a level is checked by `model.coverage`;
choices by name (optimiser, mode, start) are checked where they are defined.
"""

import operator
from collections.abc import Callable
from numbers import Real
from typing import Any, TypeVar

import numpy as np
from ase import Atoms

from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.overlap import overlapping_atoms
from physcon_ase.chem.states import check_other_keys
from physcon_ase.errors import (
    EmptyStructureError,
    NonFinitePositionsError,
    OverlappingAtomsError,
    PeriodicCellError,
    PhysConError,
    UnknownElementError,
    UnsupportedChargeError,
)
from physcon_ase.model.coverage import check_charge, check_elements, level_for
from physcon_ase.model.physcon import PhysCon
from physcon_ase.units import CHEMICAL_SYMBOLS

_Value = TypeVar("_Value")


# ---- structures


def check_structure(
    atoms: Atoms, model: PhysCon, level: str, charge: int = 0, multiplicity: int = 1
) -> tuple[int, int]:
    """Checks that a structure is a valid molecule and covered by the level.

    Args:
        atoms: the structure.
        model: the model.
        level: level of theory, or "auto".
        charge: default total charge [e], if `atoms.info` has none.
        multiplicity: default spin multiplicity 2S + 1, if `atoms.info` has none.

    Returns:
        Total charge and spin multiplicity of the structure.

    Raises:
        PhysConError: see `check_atoms`, `charge_and_multiplicity` and `model.coverage`.
    """
    check_atoms(atoms)
    charge, multiplicity = charge_and_multiplicity(atoms, charge, multiplicity)
    level = level_for(level, [(atoms.numbers, charge)], model)
    check_elements(atoms.numbers, model, level)
    check_charge(atoms.numbers, charge, multiplicity, model, level)
    return charge, multiplicity


def check_atoms(atoms: Atoms) -> None:
    """Checks that a structure is a valid molecule.

    Raises:
        PhysConError: it is not an `ase.Atoms`.
        EmptyStructureError: there are no atoms.
        PeriodicCellError: periodic in any direction; a cell without periodicity is ignored.
        UnknownElementError: an unknown atomic number, e.g. 0 of ASE's dummy "X".
        NonFinitePositionsError: positions that are NaN or infinite.
        OverlappingAtomsError: two atoms closer than `overlap.CLOSEST_ATOMS`.
    """
    if not isinstance(atoms, Atoms):
        raise PhysConError(f"a structure must be an ase.Atoms, received {atoms!r}: use optimize() for a SMILES")
    if len(atoms) == 0:
        raise EmptyStructureError("the structure has no atoms: at least one is needed")
    if atoms.pbc.any():
        raise PeriodicCellError(
            f"the structure is periodic (pbc {atoms.pbc.tolist()}), but the model only supports molecules: extract a "
            "molecule and set atoms.pbc = False"
        )
    numbers, positions = atoms.numbers, atoms.positions
    if numbers.min() < 1 or numbers.max() > len(CHEMICAL_SYMBOLS):
        atom = int(np.flatnonzero((numbers < 1) | (numbers > len(CHEMICAL_SYMBOLS)))[0])
        raise UnknownElementError(
            f"atom {atom} has the unknown atomic number {numbers[atom]}; allowed are 1 to "
            f"{len(CHEMICAL_SYMBOLS)}: remove dummy atoms"
        )
    if not np.isfinite(positions).all():
        atom = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise NonFinitePositionsError(
            f"atom {atom} ({CHEMICAL_SYMBOLS[int(numbers[atom])]}) is at {positions[atom].tolist()}: positions must be "
            "finite [Å]; check whether an earlier step diverged"
        )
    if overlap := overlapping_atoms(numbers, positions):
        raise OverlappingAtomsError(overlap)


def charge_and_multiplicity(atoms: Atoms, charge: int = 0, multiplicity: int = 1) -> tuple[int, int]:
    """Total charge [e] and spin multiplicity 2S + 1 from `atoms.info["charge"]` and `["spin"]`, or the defaults.

    Raises:
        UnsupportedChargeError: one of them is not an integer, or contradicts another key (`chem.states`).
    """
    stated = state_in_info(atoms)
    charge = _as_whole_number("charge", charge if stated[0] is None else stated[0])
    multiplicity = _as_whole_number("spin", multiplicity if stated[1] is None else stated[1])
    check_other_keys(atoms.info, charge, multiplicity)
    return charge, multiplicity


def state_in_info(atoms: Atoms) -> tuple[Any, Any]:
    """Unchecked values of `atoms.info["charge"]` and `["spin"]`; None if absent."""
    return atoms.info.get("charge"), atoms.info.get("spin")


def check_same_atoms(start: Atoms, graph: MolGraph) -> None:
    """Checks that a start geometry has the atoms of the molecule, in the order of its graph.

    Raises:
        PhysConError: the atoms or their order differ.
    """
    if start.numbers.tolist() != graph.atomic_numbers.tolist():
        raise PhysConError(
            f"start has the atoms {start.get_chemical_formula('reduce')}, but the molecule has "
            f"{Atoms(graph.atomic_numbers).get_chemical_formula('reduce')}: give the atoms in the order of the graph "
            "(as StructureGenerator does)"
        )


def _as_whole_number(name: str, value: Any) -> int:
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if is_number and float(value).is_integer():
        return int(value)
    raise UnsupportedChargeError(f"{name} {value!r} is not an integer: give the value of the molecule, such as 0 or 1")


# ---- molecules


def checked_graph(molecule: object, model: PhysCon, level: str, fragments: str = "one") -> MolGraph:
    """Graph of a molecule whose elements and charge are covered by the level.

    Args:
        molecule: SMILES or graph.
        model: the model.
        level: level of theory, or "auto".
        fragments: what to do with several fragments, see `chem.fragments.chosen_fragments`.

    Raises:
        PhysConError: see `as_graph` and `model.coverage`.
    """
    graph = as_graph(molecule, fragments)
    atomic_numbers = graph.atomic_numbers.astype(np.int64)
    level = level_for(level, [(atomic_numbers, graph.charge)], model)
    check_elements(atomic_numbers, model, level)
    check_charge(atomic_numbers, graph.charge, graph.multiplicity, model, level)
    return graph


def as_graph(molecule: object, fragments: str = "one") -> MolGraph:
    """Graph of a SMILES or an RDKit molecule, or the graph itself, with the chosen fragments.

    Raises the errors of `chem.smiles.graph_from_smiles`, `chem.rdkit_molecules.known_from_rdkit` and
    `chem.fragments.chosen_fragments`.
    """
    # Imported lazily: RDKit is slow to load and modifies the environment, and the calculator does not need it.
    from physcon_ase.chem.fragments import chosen_fragments
    from physcon_ase.chem.rdkit_molecules import known_from_rdkit
    from physcon_ase.chem.smiles import graph_from_smiles

    if isinstance(molecule, str):
        molecule = graph_from_smiles(molecule, allow_fragments=True)
    elif type(molecule).__module__.startswith("rdkit."):
        molecule = known_from_rdkit(molecule).graph
    if not isinstance(molecule, MolGraph):
        raise PhysConError(
            f"a molecule must be a SMILES, an RDKit molecule or a MolGraph, received {molecule!r}; optimize_many and "
            "ensembles take lists of molecules"
        )
    return chosen_fragments(molecule, fragments)


def check_fragments(fragments: str) -> None:
    """Checks the choice for several fragments.

    Raises:
        PhysConError: it is neither "all" nor "largest".
    """
    if fragments not in ("all", "largest"):
        raise PhysConError(f"unknown choice of fragments {fragments!r}; choose 'all' or 'largest'")


# ---- numbers


def check_relaxation(fmax: float, max_steps: int) -> None:
    """Checks the force threshold [eV/Å] and the maximum number of steps.

    Raises:
        PhysConError: `fmax` is not finite and larger than 0, or `max_steps` is below 0 or not a whole number.
    """
    if not _is_above_zero(fmax) or not fmax < np.inf:
        raise PhysConError(
            f"fmax must be a force larger than 0 eV/Å and finite, received {fmax!r}; 0.01 gives tight convergence"
        )
    if whole_number("max_steps", max_steps) < 0:
        raise PhysConError(f"max_steps must be 0 or more, received {max_steps}")


def checked_seed(seed: Any) -> int:
    """Returns a random seed, such as an integer of numpy, as an `int`.

    Raises:
        PhysConError: it is not a whole number, or negative.
    """
    number = whole_number("seed", seed)
    if number < 0:
        raise PhysConError(f"seed must be 0 or more, received {seed}")
    return number


def check_seconds(max_seconds: float) -> None:
    """Checks that a time limit is larger than 0; it may be infinite.

    Raises:
        PhysConError: it is not.
    """
    if not _is_above_zero(max_seconds):
        raise PhysConError(f"max_seconds is {max_seconds!r}; a time larger than 0 s is needed")


def at_least_one(name: str, value: int) -> int:
    """Returns the value if it is a whole number and 1 or larger.

    Raises:
        PhysConError: it is not; the message contains `name`.
    """
    if whole_number(name, value) < 1:
        raise PhysConError(f"{name} is {value}; 1 or more is needed")
    return value


def whole_number(name: str, value: Any) -> int:
    """Returns the value as an integer.

    Raises:
        PhysConError: it is not one, such as 1.5 or "2"; the message contains `name`.
    """
    try:
        return operator.index(value)
    except TypeError as error:
        raise PhysConError(f"{name} is {value!r}; a whole number is needed") from error


def above_zero(name: str, value: float) -> float:
    """Returns the value if it is finite and larger than 0.

    Raises:
        PhysConError: it is not; the message contains `name`.
    """
    if not _is_above_zero(value) or not value < np.inf:
        raise PhysConError(f"{name} is {value!r}; a finite number larger than 0 is needed")
    return value


def _is_above_zero(value: Any) -> bool:
    return isinstance(value, Real) and float(value) > 0


# ---- errors of one molecule among many


def or_error(function: Callable[..., _Value], *arguments: Any, **options: Any) -> _Value | PhysConError:
    """Return value of the function, or the PhysConError that it raises."""
    try:
        return function(*arguments, **options)
    except PhysConError as error:
        return error


def unless_error(outcome: _Value | PhysConError) -> _Value:
    """Returns the outcome, or raises it if it is an error."""
    if isinstance(outcome, PhysConError):
        raise outcome
    return outcome
