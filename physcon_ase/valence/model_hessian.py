"""Model Hessian of a valence force field (stretches, bends and torsions).

Force constants of Lindh, Bernhardsson, Karlström and Malmqvist 1995, doi 10.1016/0009-2614(95)00646-L, restricted to
chains of bonded atoms. Mean number of BFGS steps with GFN2-xTB to fmax 0.01 eV/Å from MMFF94 minima of QM9 molecules,
from rattled QM9 geometries and from MMFF94 minima of molecules with 34 atoms: 12, 13 and 18; with uniform springs
between 1-2, 1-3, 1-4 and 1-5 pairs 15, 14 and 40; with the scaled unit matrix of ASE's BFGS 63, 52 and 107.
"""

from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from physcon_ase.batch import Batch, make_batch
from physcon_ase.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE
from physcon_ase.valence.internals import (
    LINEAR_SINE,
    Internals,
    bend_vectors,
    internal_values,
    make_internals,
    pick,
    stretch_vectors,
    torsion_vectors,
)
from physcon_ase.valence.rigid import rigid_motions

STRETCH_STIFFNESS: Final = 0.45 * EV_PER_HARTREE / ANGSTROM_PER_BOHR**2
"""Force constant [eV/Å²] of a bond at its reference length."""

BEND_STIFFNESS: Final = 0.15 * EV_PER_HARTREE
"""Force constant [eV/rad²] of the angle between two such bonds."""

TORSION_STIFFNESS: Final = 0.005 * EV_PER_HARTREE
"""Force constant [eV/rad²] of a torsion over three such bonds."""

UNIT_TERM: Final = 0.1
"""Multiple [eV/Å²] of the unit matrix that makes the Hessian positive definite."""

SMALL_UNIT_TERM: Final = 1e-3
"""Unit term [eV/Å²] for gradients without rigid motions, which it need not limit."""

_DECAYS: Final = ((1.0, 0.3949, 0.3949), (0.3949, 0.28, 0.28), (0.3949, 0.28, 0.28))
"""Decay exponent α [1/bohr²] for bonds between elements of the first, second and later rows."""

_LENGTHS: Final = ((1.35, 2.10, 2.53), (2.10, 2.87, 3.40), (2.53, 3.40, 3.40))
"""Reference length r_0 [bohr] for bonds between elements of the first, second and later rows."""


def model_hessian(
    atomic_numbers: Integer[np.ndarray, " atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    bonds: Int[np.ndarray, "bonds 2"] | None = None,
    *,
    rigid_stiffness: float = 0.0,
) -> Float[np.ndarray, "coordinates coordinates"]:
    """Model Hessian [eV/Å²] of one molecule, for instance as `H0` of `ase.optimize.BFGS`.

    Args:
        atomic_numbers: atomic number of each atom.
        positions: positions [Å].
        bonds: `MolGraph.bonds`; inferred from covalent radii if not given.
        rigid_stiffness: force constant [eV/Å²] of translations and rotations in addition to the unit term.
    """
    batch = make_batch([atomic_numbers], [positions], dtype=torch.float64)
    hessian = model_hessians(batch, batch.positions, make_internals(batch, [bonds]))[0].numpy()
    if not rigid_stiffness:
        return hessian
    rigid = rigid_motions(positions)
    return hessian + rigid_stiffness * rigid @ rigid.T


def model_hessians(
    batch: Batch,
    positions: Float[Tensor, "molecules slots 3"],
    internals: Internals,
    *,
    torsion_stiffness: float = TORSION_STIFFNESS,
    unit_term: float = UNIT_TERM,
) -> Float[Tensor, "molecules coordinates coordinates"]:
    """Model Hessians [eV/Å²]; coordinates are ordered x, y, z of slot 0, then of slot 1, and so on.

    H = u 1 + Σ_q k_q b_q b_qᵀ with b_q = ∂q/∂R for every stretch, bend and torsion q; k_q is the force constant of this
    type of coordinate times ρ = exp(α (r_0² - r²)) of each of its bonds. Empty slots contain only the unit term u.
    """
    n_molecules, n_slots, _ = positions.shape
    blocks = torch.zeros(n_molecules * n_slots**2, 9, dtype=torch.float64, device=positions.device)
    bends, linear_bends = bend_vectors(positions, internals.bends)
    for atoms, vectors in (
        (internals.stretches, stretch_vectors(positions, internals.stretches)),
        (internals.bends, bends),
        (internals.bends, linear_bends),
        (internals.torsions, torsion_vectors(positions, internals.torsions)),
    ):
        strengths = stiffnesses(batch.atomic_numbers, positions, atoms, torsion_stiffness=torsion_stiffness)
        _add_springs(blocks, n_slots, atoms, vectors, strengths)
    hessians = blocks.view(n_molecules, n_slots, n_slots, 3, 3).transpose(2, 3).reshape(n_molecules, 3 * n_slots, -1)
    hessians.diagonal(dim1=1, dim2=2).add_(unit_term)
    return hessians


def stiffnesses(
    atomic_numbers: Int[Tensor, "molecules slots"],
    positions: Float[Tensor, "molecules slots 3"],
    atoms: Int[Tensor, "molecules internals members"],
    *,
    torsion_stiffness: float = TORSION_STIFFNESS,
) -> Float[Tensor, "molecules internals"]:
    """Force constants k_q of stretches [eV/Å²], bends or torsions [eV/rad²]; 0 for padding.

    The type of coordinate follows from the number of atoms (`members`).
    """
    constants = {2: STRETCH_STIFFNESS, 3: BEND_STIFFNESS, 4: torsion_stiffness}
    return constants[atoms.shape[2]] * _bond_strengths(atomic_numbers, positions, atoms)


def newton_steps(
    forces: Float[Tensor, "molecules slots 3"], hessians: Float[Tensor, "molecules coordinates coordinates"]
) -> Float[Tensor, "molecules slots 3"]:
    """Newton steps H⁻¹ F [Å] for forces [eV/Å] and positive definite Hessians [eV/Å²]."""
    return torch.cholesky_solve(forces.flatten(1)[..., None], torch.linalg.cholesky(hessians)).view_as(forces)


def internal_gradient(
    batch: Batch, internals: Internals, gradient: Float[Tensor, "molecules slots 3"]
) -> tuple[tuple[Tensor, Tensor, Tensor], Float[Tensor, "molecules slots 3"]]:
    """Gradient along internal coordinates, c = K B H⁻¹ g with B = ∂q/∂x, and the remainder g - Bᵀ c.

    c is the solution of Bᵀ c = g that minimises Σ c²/k, k being the diagonal elements of K. It is 0 for coordinates
    that are not differentiable at the geometry, angles and torsions of linear chains; these are the remainder.

    Args:
        batch: the molecules, float64.
        internals: their internal coordinates.
        gradient: Cartesian gradient [eV/Å] without rigid motions.

    Returns:
        Gradients along stretches [eV/Å], bends and torsions [eV/rad], each [molecules, internals]; remainder [eV/Å].
    """
    positions = batch.positions
    steps = newton_steps(gradient, model_hessians(batch, positions, internals, unit_term=SMALL_UNIT_TERM))
    _, angles, _ = internal_values(positions, internals)
    bends, _ = bend_vectors(positions, internals.bends)
    bends = bends * (angles.sin() > LINEAR_SINE)[:, :, None, None]
    rest, components = gradient.clone(), []
    for atoms, vectors in (
        (internals.stretches, stretch_vectors(positions, internals.stretches)),
        (internals.bends, bends),
        (internals.torsions, torsion_vectors(positions, internals.torsions)),
    ):
        changes = (vectors * pick(steps, atoms)).sum(dim=(2, 3))
        components.append(stiffnesses(batch.atomic_numbers, positions, atoms) * changes)
        molecule = torch.arange(len(atoms), device=positions.device)[:, None, None].expand(atoms.shape)
        rest.index_put_((molecule, atoms.clamp(min=0)), -components[-1][:, :, None, None] * vectors, accumulate=True)
    return (components[0], components[1], components[2]), rest


def _bond_strengths(
    atomic_numbers: Int[Tensor, "molecules slots"],
    positions: Float[Tensor, "molecules slots 3"],
    atoms: Int[Tensor, "molecules internals members"],
) -> Float[Tensor, "molecules internals"]:
    """Product of ρ over the bonds of each internal coordinate; 0 for padding."""
    decays = torch.tensor(_DECAYS, dtype=torch.float64, device=positions.device)
    lengths = torch.tensor(_LENGTHS, dtype=torch.float64, device=positions.device)
    numbers = pick(atomic_numbers, atoms)
    row = (numbers > 2).long() + (numbers > 10).long()
    bonds_bohr = pick(positions, atoms).diff(dim=2) / ANGSTROM_PER_BOHR
    squares = lengths[row[:, :, 1:], row[:, :, :-1]].square() - bonds_bohr.square().sum(dim=-1)
    strengths = torch.exp((decays[row[:, :, 1:], row[:, :, :-1]] * squares).sum(dim=-1))
    return strengths * (atoms[:, :, 0] >= 0)


def _add_springs(
    blocks: Float[Tensor, "pairs_of_slots 9"],
    n_slots: int,
    atoms: Int[Tensor, "molecules internals members"],
    vectors: Float[Tensor, "molecules internals members 3"],
    stiffness: Float[Tensor, "molecules internals"],
) -> None:
    """Adds Σ_q k_q b_q b_qᵀ in place, as 3 x 3 blocks for each pair of atoms of an internal coordinate."""
    molecule = torch.arange(len(atoms), device=atoms.device)[:, None, None, None]
    slots = atoms.clamp(min=0)
    places = (molecule * n_slots + slots[:, :, :, None]) * n_slots + slots[:, :, None, :]
    pulls = stiffness[:, :, None, None] * vectors
    springs = pulls[:, :, :, None, :, None] * vectors[:, :, None, :, None, :]
    blocks.index_add_(0, places.flatten(), springs.reshape(-1, 9))
