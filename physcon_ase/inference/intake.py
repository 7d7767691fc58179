"""What a user gives, checked at the border: molecules, structures, and the numbers that go with them.

Each check raises the error that names the mistake (`errors`); behind the border nothing is checked again. What a level
covers is asked of `model.coverage`. A choice by name (an optimiser, a mode, a start) is refused where the choices are
listed.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import numpy as np
from ase import Atoms
from scipy.spatial.distance import pdist, squareform

from physcon_ase.chem.graph import MolGraph
from physcon_ase.errors import (
    EmptyStructureError,
    NonFinitePositionsError,
    OverlappingAtomsError,
    PeriodicCellError,
    PhysConError,
    UnknownElementError,
    UnsupportedChargeError,
)
from physcon_ase.model.coverage import check_charge, check_elements
from physcon_ase.model.physcon import PhysCon
from physcon_ase.units import CHEMICAL_SYMBOLS

CLOSEST_ATOMS: Final = 0.3
"""Distance [Å] below which two atoms are taken for a mistake. The shortest bond there is, H2 at .74 Å, would need more
than 5 eV to be squeezed that far: no dynamics gets there, while doubled atoms and positions in other units do."""

_Value = TypeVar("_Value")


# ---- structures


def check_structure(
    atoms: Atoms, model: PhysCon, level: str, charge: int = 0, multiplicity: int = 1
) -> tuple[int, int]:
    """Refuses a structure that is no molecule, or one that the level does not cover.

    Args:
        atoms: the structure.
        model: the model that is to compute it.
        level: level of theory.
        charge: total charge [e] of a structure that does not state its own.
        multiplicity: spin multiplicity 2S + 1 of a structure that does not state its own.

    Returns:
        Total charge and spin multiplicity of the structure.

    Raises:
        PhysConError: see `check_atoms`, `charge_and_multiplicity` and `model.coverage`.
    """
    check_atoms(atoms)
    check_elements(atoms.numbers, model, level)
    charge, multiplicity = charge_and_multiplicity(atoms, charge, multiplicity)
    check_charge(atoms.numbers, charge, multiplicity, model, level)
    return charge, multiplicity


def check_atoms(atoms: Atoms) -> None:
    """Refuses what is no molecule at all.

    Raises:
        EmptyStructureError: no atoms.
        PeriodicCellError: periodic in any direction; a cell without periodicity is ignored.
        UnknownElementError: an atomic number that is no element, such as that of ASE's dummy "X".
        NonFinitePositionsError: positions that are NaN or infinite.
        OverlappingAtomsError: two atoms closer than `CLOSEST_ATOMS`.
    """
    if len(atoms) == 0:
        raise EmptyStructureError("the structure has no atoms: at least one is needed")
    if atoms.pbc.any():
        raise PeriodicCellError(
            f"the structure is periodic (pbc {atoms.pbc.tolist()}), but this is a model of molecules: cut out a "
            "molecule and set atoms.pbc = False"
        )
    numbers, positions = atoms.numbers, atoms.positions
    if numbers.min() < 1 or numbers.max() > len(CHEMICAL_SYMBOLS):
        atom = int(np.flatnonzero((numbers < 1) | (numbers > len(CHEMICAL_SYMBOLS)))[0])
        raise UnknownElementError(
            f"atom {atom} has atomic number {numbers[atom]}, which is no element; elements are 1 to "
            f"{len(CHEMICAL_SYMBOLS)}: remove dummy atoms"
        )
    if not np.isfinite(positions).all():
        atom = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise NonFinitePositionsError(
            f"atom {atom} ({CHEMICAL_SYMBOLS[int(numbers[atom])]}) is at {positions[atom].tolist()}: positions must be "
            "finite numbers [Å]; did an earlier step explode?"
        )
    squared = pdist(positions, "sqeuclidean")
    if len(squared) and squared.min() < CLOSEST_ATOMS**2:
        _refuse_overlap(numbers, squareform(squared))


def charge_and_multiplicity(atoms: Atoms, charge: int = 0, multiplicity: int = 1) -> tuple[int, int]:
    """Total charge [e] and spin multiplicity 2S + 1 from `atoms.info["charge"]` and `["spin"]`, or these defaults.

    Raises:
        UnsupportedChargeError: one of them is no whole number.
    """
    stated = state_in_info(atoms)
    return (
        _as_whole_number("charge", charge if stated[0] is None else stated[0]),
        _as_whole_number("spin", multiplicity if stated[1] is None else stated[1]),
    )


def state_in_info(atoms: Atoms) -> tuple[Any, Any]:
    """`atoms.info["charge"]` and `["spin"]` as they stand there; None where nothing is stated."""
    return atoms.info.get("charge"), atoms.info.get("spin")


def check_same_atoms(start: Atoms, graph: MolGraph) -> None:
    """Refuses a start geometry whose atoms are not those of the molecule, in the order of its graph.

    Raises:
        PhysConError: other atoms, or another order.
    """
    if start.numbers.tolist() != graph.atomic_numbers.tolist():
        raise PhysConError(
            f"start has the atoms {start.get_chemical_formula('reduce')}, the molecule "
            f"{Atoms(graph.atomic_numbers).get_chemical_formula('reduce')}: give the atoms in the order of the graph "
            "(as StructureGenerator does)"
        )


def check_unconstrained(atoms: Atoms) -> None:
    """Refuses a geometry with ASE constraints, which a batch cannot keep.

    Raises:
        PhysConError: there are constraints.
    """
    if atoms.constraints:
        raise PhysConError("a geometry with constraints, which batches cannot keep: relax it alone with optimize()")


def _as_whole_number(name: str, value: Any) -> int:
    if isinstance(value, (int, float, np.integer, np.floating)) and float(value).is_integer():
        return int(value)
    raise UnsupportedChargeError(f"{name} {value!r} is no whole number: give the total of the molecule, such as 0 or 1")


def _refuse_overlap(numbers: np.ndarray, squared: np.ndarray) -> None:
    np.fill_diagonal(squared, np.inf)
    first, second = sorted(int(i) for i in np.unravel_index(squared.argmin(), squared.shape))
    raise OverlappingAtomsError(
        f"atoms {first} ({CHEMICAL_SYMBOLS[int(numbers[first])]}) and {second} "
        f"({CHEMICAL_SYMBOLS[int(numbers[second])]}) are {squared[first, second] ** 0.5:.3f} Å apart; at least "
        f"{CLOSEST_ATOMS} Å is needed: look for doubled atoms and for positions that are not in Å"
    )


# ---- molecules


def checked_graph(molecule: object, model: PhysCon, level: str) -> MolGraph:
    """The graph of a SMILES, or the graph itself, if the level covers its elements and its charge.

    Raises:
        PhysConError: see `as_graph` and `model.coverage`.
    """
    graph = as_graph(molecule)
    atomic_numbers = graph.atomic_numbers.astype(np.int64)
    check_elements(atomic_numbers, model, level)
    check_charge(atomic_numbers, graph.charge, graph.multiplicity, model, level)
    return graph


def as_graph(molecule: object) -> MolGraph:
    """The graph of a SMILES; a graph is returned as it is. Raises as `chem.smiles.graph_from_smiles`."""
    if isinstance(molecule, MolGraph):
        return molecule
    if isinstance(molecule, str):
        # Here, not above: the calculator takes no SMILES, and RDKit is slow to load and changes the environment.
        from physcon_ase.chem.smiles import graph_from_smiles

        return graph_from_smiles(molecule)
    raise PhysConError(f"a molecule is a SMILES or a MolGraph, received {molecule!r}: pass one of these")


# ---- numbers


def check_relaxation(fmax: float, max_steps: int) -> None:
    """Refuses a force threshold [eV/Å] or a number of steps with which no relaxation can end.

    Raises:
        PhysConError: `fmax` is not larger than 0, or `max_steps` is below 0.
    """
    if not fmax > 0:
        raise PhysConError(f"fmax must be a force larger than 0 eV/Å, received {fmax}: .01 is a tight minimum")
    if max_steps < 0:
        raise PhysConError(f"max_steps must be 0 or more, received {max_steps}")


def check_seed(seed: int) -> None:
    """Refuses a seed below 0.

    Raises:
        PhysConError: it is.
    """
    if seed < 0:
        raise PhysConError(f"seed must be 0 or more, received {seed}")


def at_least_one(name: str, value: int) -> int:
    """The value; one below 1 is refused.

    Raises:
        PhysConError: it is below 1; the message calls it by this name.
    """
    if value < 1:
        raise PhysConError(f"{name} is {value}; 1 or more is needed")
    return value


# ---- errors of one molecule among many


def or_error(function: Callable[..., _Value], *arguments: Any) -> _Value | PhysConError:
    """What the function returns, or the error that it raises about its input."""
    try:
        return function(*arguments)
    except PhysConError as error:
        return error


def unless_error(outcome: _Value | PhysConError) -> _Value:
    """The outcome; an error is raised."""
    if isinstance(outcome, PhysConError):
        raise outcome
    return outcome
