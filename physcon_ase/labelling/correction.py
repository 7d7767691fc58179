"""Correction of energies that makes the forces at one geometry vanish and rotates with the molecule.

The correction C is a function of the internal coordinates, linear in bond lengths and angles q and periodic in torsions
τ. It vanishes at a geometry x₁, where its gradient cancels the forces F(x₁),

    C(x) = Σ_q c_q (q(x) - q(x₁)) + Σ_τ c_τ sin(3 (τ(x) - τ(x₁))) / 3.

A term linear in a torsion would grow to more than the energy of the turn itself; the sine has the period of most single
bonds and stays small. c is the solution of Bᵀc = -F(x₁), B = ∂(q, τ)/∂x, that minimises Σ c²/k, where k is the force
constant of each coordinate in the model Hessian; components that internal coordinates cannot represent (bends of linear
chains) are linear in x.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from physcon_ase.batch import Batch, make_batch, select
from physcon_ase.chem.graph import MolGraph
from physcon_ase.valence.internals import Internals, internal_values, make_internals
from physcon_ase.valence.model_hessian import internal_gradient

LARGEST_CORRECTION: Final = 10.0
"""Largest component [eV/Å] of a force correction; geometries with larger ones are left out."""

_PERIODS: Final = 3
"""Periods of the correction per turn of a torsion."""


@dataclass(frozen=True)
class Correction:
    """Corrections C of a batch of molecules."""

    at: Batch
    """Geometries x₁, where C vanishes."""
    internals: Internals
    """Internal coordinates."""
    coefficients: tuple[Tensor, Tensor, Tensor]
    """Coefficients c of stretches [eV/Å], bends and torsions [eV/rad], each [molecules, internals]."""
    rest: Float[Tensor, "molecules slots 3"]
    """Gradient [eV/Å] of the part of C that is linear in x."""

    def __call__(
        self, positions: Float[Tensor, "molecules slots 3"]
    ) -> tuple[Float[Tensor, " molecules"], Float[Tensor, "molecules slots 3"]]:
        """C [eV] and its gradient [eV/Å] at positions [Å]."""
        place = positions.detach().requires_grad_()
        stretches, bends, torsions = changes(self.at.positions, place, self.internals)
        terms = [
            # where instead of a product, because 0 * NaN = NaN
            torch.where(c != 0, c * change, 0.0).sum(dim=1)
            for c, change in zip(
                self.coefficients, (stretches, bends, torch.sin(_PERIODS * torsions) / _PERIODS), strict=True
            )
        ]
        values = torch.stack(terms).sum(dim=0) + (self.rest * (place - self.at.positions)).sum(dim=(1, 2))
        (gradient,) = torch.autograd.grad(values.sum(), place)
        return values.detach(), gradient

    def chosen(self, rows: list[int]) -> "Correction":
        """The corrections of some molecules of the batch."""
        internals = Internals(*(getattr(self.internals, name)[rows] for name in ("stretches", "bends", "torsions")))
        c, d, e = self.coefficients
        return Correction(select(self.at, torch.tensor(rows)), internals, (c[rows], d[rows], e[rows]), self.rest[rows])


def correction_at(
    geometries: Batch, graphs: Sequence[MolGraph], forces: Float[Tensor, "molecules slots 3"]
) -> Correction:
    """Correction that cancels forces [eV/Å] at geometries, given in float64 (see `float64_batch`)."""
    internals = make_internals(geometries, [graph.bonds if len(graph.bonds) else None for graph in graphs])
    coefficients, rest = internal_gradient(geometries, internals, -forces)
    return Correction(geometries, internals, coefficients, rest)


def float64_batch(graphs: Sequence[MolGraph], values: Sequence[np.ndarray], n_slots: int | None = None) -> Batch:
    """Positions [Å], or forces [eV/Å] in their place, of molecules as a batch in float64."""
    numbers = [graph.atomic_numbers for graph in graphs]
    return make_batch(numbers, [own.astype(np.float64) for own in values], n_slots=n_slots, dtype=torch.float64)


def changes(before: Tensor, after: Tensor, internals: Internals) -> tuple[Tensor, Tensor, Tensor]:
    """Changes of stretches [Å], bends and torsions [rad, -π to π] between two sets of positions [Å]."""
    stretches, bends, torsions = (
        new - old
        for new, old in zip(internal_values(after, internals), internal_values(before, internals), strict=True)
    )
    return stretches, bends, torch.remainder(torsions + torch.pi, 2 * torch.pi) - torch.pi
