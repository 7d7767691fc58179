"""ASE constraints in batched relaxations: `FixAtoms`, and fixed dihedral angles of `FixInternals`."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixInternals

from physcon_ase.batch import Batch
from physcon_ase.errors import ConstraintError
from physcon_ase.relax.constraints import Constraints, make_constraints
from physcon_ase.valence.internals import LINEAR_SINE

LARGEST_TURN: Final = 45.0
"""Largest difference [degrees] between a dihedral angle and the value at which it is to be fixed; a larger one would
distort the bonds."""


def unsupported_constraint(atoms: Atoms) -> str:
    """Name of a constraint that is not supported in batches; empty if there is none."""
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms | FixInternals) or _others(constraint):
            return _others(constraint) or type(constraint).__name__
    return ""


def satisfy_constraints(atoms: Atoms) -> None:
    """Checks the constraints of a geometry and moves its atoms, in place, so that they are satisfied.

    Raises:
        ConstraintError: atoms that do not exist, or see `check_constraints`; or the constraints cannot be satisfied.
    """
    if unsupported_constraint(atoms):
        _check_indices(atoms)
    else:
        check_constraints(atoms)
    try:
        atoms.set_positions(atoms.get_positions())  # ASE adjusts new positions to the constraints
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ConstraintError(
            f"the constraints cannot be satisfied from this geometry ({error}): begin with one that is closer"
        ) from error


def _check_indices(atoms: Atoms) -> None:
    for constraint in atoms.constraints:
        get_indices = getattr(constraint, "get_indices", None)
        if get_indices is not None:
            _refuse_missing(type(constraint).__name__, np.ravel(get_indices()).tolist(), len(atoms))


def _refuse_missing(name: str, indices: Sequence[int], n_atoms: int) -> None:
    wrong = [index for index in indices if not -n_atoms <= index < n_atoms]
    if wrong:
        raise ConstraintError(
            f"{name} of the atoms {wrong}, which do not exist: indices from {-n_atoms} to {n_atoms - 1} are allowed"
        )


def check_constraints(atoms: Atoms) -> None:
    """Checks that the constraints of a geometry are supported in batches.

    Raises:
        ConstraintError: a constraint of another kind, a fixed atom that does not exist, or a dihedral angle that is
            undefined because three of its atoms are collinear, far from its value, or defined by fixed atoms only.
    """
    if name := unsupported_constraint(atoms):
        raise ConstraintError(
            f"constraint {name} is not supported in batches, only FixAtoms and dihedral angles of FixInternals: "
            "relax this geometry with optimize()"
        )
    fixed = set(_fixed(atoms))
    for members, angle in _dihedrals(atoms):
        check_dihedral(atoms, members)
        if fixed.issuperset(members):
            raise ConstraintError(f"dihedral angle {members} has fixed atoms only: remove one of the two constraints")
        turn = abs((atoms.get_dihedral(*members) - angle + 180) % 360 - 180)
        if turn > LARGEST_TURN:
            raise ConstraintError(
                f"dihedral angle {members} is {atoms.get_dihedral(*members):.1f} degrees and to be fixed at "
                f"{angle % 360:.1f}; at most {LARGEST_TURN:g} degrees apart are allowed: call atoms.set_dihedral first"
            )


def check_dihedral(atoms: Atoms, members: Sequence[int]) -> None:
    """Checks that four atoms define a dihedral angle.

    Raises:
        ConstraintError: atoms that do not exist or are repeated, or three of them are collinear.
    """
    if len(set(members)) != 4 or not all(0 <= member < len(atoms) for member in members):
        raise ConstraintError(
            f"dihedral angle {tuple(members)} is invalid: four different atoms from 0 to {len(atoms) - 1} are needed"
        )
    for apex in (1, 2):
        before, after = (atoms.positions[members[apex + side]] - atoms.positions[members[apex]] for side in (-1, 1))
        sine = np.linalg.norm(np.cross(before, after)) / (np.linalg.norm(before) * np.linalg.norm(after))
        if sine < LINEAR_SINE:
            three = tuple(members[apex - 1 : apex + 2])
            raise ConstraintError(
                f"dihedral angle {tuple(members)} is not defined, since the atoms {three} are on a line: choose others"
            )


def constraints_of(structures: Sequence[Atoms], batch: Batch) -> Constraints:
    """Constraints of structures that have been checked, for the batch made of them."""
    radians = [[(members, np.radians(angle)) for members, angle in _dihedrals(atoms)] for atoms in structures]
    return make_constraints(batch, radians, [_fixed(atoms) for atoms in structures])


def _others(constraint: Any) -> str:
    """Names of the internal coordinates fixed by a `FixInternals` other than dihedral angles."""
    kinds = ("bonds", "angles", "bondcombos") if isinstance(constraint, FixInternals) else ()
    return ", ".join(f"FixInternals({kind})" for kind in kinds if getattr(constraint, kind))


def _fixed(atoms: Atoms) -> list[int]:
    """Indices of the fixed atoms; ASE counts negative ones from the last atom."""
    n_atoms = len(atoms)
    found = [int(i) for fix in atoms.constraints if isinstance(fix, FixAtoms) for i in fix.get_indices()]
    _refuse_missing("FixAtoms", found, n_atoms)
    return [i % n_atoms for i in found]


def _dihedrals(atoms: Atoms) -> list[tuple[tuple[int, int, int, int], float]]:
    """Atoms and value [degrees] of each fixed dihedral angle; ASE's None stands for the current value."""
    found = []
    for constraint in atoms.constraints:
        for angle, members in constraint.dihedrals if isinstance(constraint, FixInternals) else ():
            first, second, third, fourth = (int(member) for member in members)
            members = first, second, third, fourth
            if angle is None:
                check_dihedral(atoms, members)  # before its value is computed
            found.append((members, atoms.get_dihedral(*members) if angle is None else float(angle)))
    return found
