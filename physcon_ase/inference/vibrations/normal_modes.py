"""Normal modes and infrared intensities from the second derivatives of a molecule."""

from dataclasses import dataclass
from typing import Final

import ase.units
import numpy as np
from ase import Atoms
from jaxtyping import Float
from scipy.linalg import null_space

from physcon_ase.batch import make_batch
from physcon_ase.inference.intake import charge_and_multiplicity
from physcon_ase.model.hessian import dipole_derivative, hessian
from physcon_ase.model.physcon import PhysCon
from physcon_ase.units import KM_PER_MOL
from physcon_ase.valence.rigid import rigid_motions

_PER_CM: Final = ase.units._hbar * ase.units.m / np.sqrt(ase.units._e * ase.units._amu) / ase.units.invcm
"""Wavenumber [1/cm] of an eigenvalue of 1 eV Å⁻² amu⁻¹."""


@dataclass(frozen=True)
class NormalModes:
    """Normal modes of a molecule without translations and rotations; 3N - 6 modes, 3N - 5 for a linear molecule."""

    frequencies: Float[np.ndarray, " modes"]
    """Harmonic frequencies [1/cm] in ascending order; imaginary ones as negative numbers."""
    displacements: Float[np.ndarray, "modes atoms 3"]
    """Cartesian displacements of the atoms in each mode, normalised to 1."""
    reduced_masses: Float[np.ndarray, " modes"]
    """Reduced masses [amu]."""
    intensities: Float[np.ndarray, " modes"] | None
    """Infrared intensities [km/mol] in the double harmonic approximation; None for a model without charges."""
    hessian: Float[np.ndarray, "coordinates coordinates"]
    """Second derivatives of the energy [eV/Å²]."""


def normal_modes(atoms: Atoms, model: PhysCon, level: str) -> NormalModes:
    """Normal modes of a geometry, from exact derivatives of the model.

    Args:
        atoms: a stationary point, with the masses of its isotopes.
        model: model in float64.
        level: level of theory.
    """
    molecule = make_batch(
        [atoms.numbers],
        [atoms.positions - atoms.positions.mean(axis=0)],
        charges=[charge_and_multiplicity(atoms)[0]],
        dtype=model.energy.embedding.weight.dtype,
        device=model.energy.embedding.weight.device,
    )
    second = hessian(model.energy_fn(level), molecule).numpy(force=True).astype(np.float64)
    slopes = dipole_derivative(model, level, molecule)
    return modes_of_hessian(atoms, second, None if slopes is None else slopes.numpy(force=True).astype(np.float64))


def modes_of_hessian(
    atoms: Atoms,
    second: Float[np.ndarray, "coordinates coordinates"],
    dipole_slopes: Float[np.ndarray, "3 coordinates"] | None = None,
) -> NormalModes:
    """Normal modes from second derivatives of any method.

    The mass-weighted Hessian is restricted to the complement of translations and rotations before it is diagonalised,
    so that forces left by a relaxation do not mix with the vibrations (Miller, Handy and Adams 1980,
    doi 10.1063/1.438959).

    Args:
        atoms: the geometry, with its masses.
        second: second derivatives of the energy [eV/Å²]; made symmetric.
        dipole_slopes: derivatives [e] of the dipole moment with respect to the positions; None for no intensities.
    """
    second = 0.5 * (second + second.T)
    roots = np.repeat(np.sqrt(atoms.get_masses()), 3)
    internal = null_space(rigid_motions(atoms.positions, atoms.get_masses()).T)
    eigenvalues, vectors = np.linalg.eigh(internal.T @ (second / np.outer(roots, roots)) @ internal)
    cartesian = (internal @ vectors).T / roots  # (modes, coordinates), per normal coordinate of 1 Å amu^1/2
    norms = np.linalg.norm(cartesian, axis=1)
    intensities = None
    if dipole_slopes is not None:
        intensities = KM_PER_MOL * np.square(cartesian @ dipole_slopes.T).sum(axis=1)
    return NormalModes(
        frequencies=np.sign(eigenvalues) * np.sqrt(np.abs(eigenvalues)) * _PER_CM,
        displacements=(cartesian / norms[:, None]).reshape(-1, len(atoms), 3),
        reduced_masses=norms**-2,
        intensities=intensities,
        hessian=second,
    )
