"""Geometries of a molecule that are to be labelled, and the check of their bonds.

A sampler (`samplers`) yields geometries, or a `NewtonStep` if it needs the label of the start geometry first.
"""

from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

import numpy as np
import torch
from jaxtyping import Float

from physcon_ase.batch import make_batch
from physcon_ase.chem.compare import BondCheck, bonds_intact
from physcon_ase.chem.graph import MolGraph, known_bonds
from physcon_ase.units import CHEMICAL_SYMBOLS, EV_PER_HARTREE
from physcon_ase.valence.internals import make_internals
from physcon_ase.valence.model_hessian import internal_gradient, model_hessians, newton_steps

DISPLACED: Final = ("thermal", "torsion", "twist", "md", "newton")
"""Kinds of geometries that are displacements of the start geometry."""

_FIXED_TORSION: Final = EV_PER_HARTREE
"""Force constant [eV/rad²] of torsions in a Newton step."""

_STEP_SCALE: Final = 1.4
"""Length of a Newton step; the model Hessian overestimates curvatures: for AIMNet2 at minima of B3LYP-D3(BJ), the
projection of the remaining forces on the initial ones is 0.30 of these after a step of length 1."""

_LONGEST_STEP: Final = 0.1
"""Maximum displacement [Å] of an atom in a Newton step."""

Geometry: TypeAlias = tuple[str, np.ndarray]
"""Kind and positions [Å], [atoms, 3]."""


@dataclass(frozen=True)
class Rejected:
    """A geometry that could not be sampled or labelled."""

    kind: str
    """Kind of the geometry."""
    error: str
    """Name of the error class."""
    reason: str
    """Error message."""


@dataclass(frozen=True)
class NewtonStep:
    """A geometry (kind "newton") that is sampled once the start geometry has been labelled."""

    graph: MolGraph
    """The molecule."""
    start: Float[np.ndarray, "atoms 3"]
    """Start geometry [Å]."""
    kind: ClassVar[str] = "newton"
    """Kind of the geometry."""

    def sampled(self, forces: Float[np.ndarray, "atoms 3"]) -> Geometry | Rejected:
        """Start geometry after one Newton step with the forces [eV/Å] of the engine and the model Hessian.

        Bond lengths and angles are then close to those of the engine's own minimum. Torsions are nearly fixed, since
        the Hessian describes them poorly, as are the bends of linear chains. Displacements are at most 0.1 Å.
        """
        batch = make_batch([self.graph.atomic_numbers], [self.start], dtype=torch.float64)
        internals = make_internals(batch, [known_bonds(self.graph)])
        pull = torch.as_tensor(np.asarray(forces, dtype=np.float64))[None]
        _, rest = internal_gradient(batch, internals, pull)
        hessians = model_hessians(batch, batch.positions, internals, torsion_stiffness=_FIXED_TORSION)
        step = _STEP_SCALE * newton_steps(pull - rest, hessians)[0].numpy()
        longest = float(np.linalg.norm(step, axis=1).max())
        return checked(self.graph, self.kind, self.start + step * (_LONGEST_STEP / max(longest, _LONGEST_STEP)))

    def without_forces(self) -> Rejected:
        """The record of a molecule whose start geometry could not be labelled."""
        return Rejected(self.kind, "EngineError", "the start geometry has no label, so there are no forces to follow")


Sampled: TypeAlias = Geometry | Rejected | NewtonStep
"""Result of a sampler for one geometry."""


def checked(graph: MolGraph, kind: str, positions: np.ndarray, *, is_given: bool = False) -> Geometry | Rejected:
    """The geometry, centred and rounded to float32 as in a store; `Rejected` if bonds are broken or formed.

    Bonds are not checked if they are unknown or if the geometry was given by the user (`is_given`).
    """
    centred = (positions - positions.mean(axis=0)).astype(np.float32).astype(np.float64)
    if not is_given and known_bonds(graph) is not None:
        check = bonds_intact(graph, centred)
        if not check.intact:
            return Rejected(kind, "BondsChanged", _bond_changes(graph, check))
    return kind, centred


def _bond_changes(graph: MolGraph, check: BondCheck) -> str:
    def names(pairs: list[tuple[int, int]]) -> str:
        return ", ".join(
            "-".join(f"{CHEMICAL_SYMBOLS[int(graph.atomic_numbers[i])]}{i}" for i in pair) for pair in pairs
        )

    changes = (("bonds broken", check.broken), ("bonds formed", check.formed))
    return "; ".join(f"{what}: {names(pairs)}" for what, pairs in changes if pairs)
