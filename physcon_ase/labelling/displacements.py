"""Thermal displacements of a geometry in the harmonic approximation of the model Hessian."""

from typing import Final

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular

from physcon_ase.chem.graph import MolGraph, known_bonds, neighbours_of
from physcon_ase.units import EV_PER_KELVIN
from physcon_ase.valence.model_hessian import model_hessian

MAX_KELVIN: Final = 700.0
"""Default maximum temperature [K] of thermal displacements."""

_RIGID_STIFFNESS: Final = 1e4
"""Force constant [eV/Å²] that suppresses rigid motions to 0.003 Å at 700 K."""

_OUT_OF_PLANE_STIFFNESS: Final = 16.0
"""Force constant [eV/Å²] of the out-of-plane displacement of a planar centre."""

_FLAT: Final = 0.15
"""Distance [Å] from the plane of its neighbours up to which a centre counts as planar."""

_SMALLEST_AREA: Final = 1e-6
"""Lower bound [Å²] of an area in a denominator, for three neighbours on a line."""


def hessian_factor(
    graph: MolGraph, positions: Float[np.ndarray, "atoms 3"], *, keep_rigid: bool = False
) -> Float[np.ndarray, "coordinates coordinates"]:
    """Cholesky factor L of the model Hessian H = L Lᵀ [eV/Å²], for `thermal_displacements`.

    Args:
        graph: the molecule.
        positions: positions [Å].
        keep_rigid: whether displacements include rigid motions. Rotations are then linear in the displacement and
            stretch bonds: O-H in water to 1.24 Å at 700 K.
    """
    rigid_stiffness = 0.0 if keep_rigid else _RIGID_STIFFNESS
    hessian = model_hessian(graph.atomic_numbers, positions, known_bonds(graph), rigid_stiffness=rigid_stiffness)
    hessian = hessian + _out_of_plane(graph, positions)
    # the unit term of the model Hessian limits rigid motions and free torsions
    return np.linalg.cholesky(hessian)


def thermal_displacements(
    positions: Float[np.ndarray, "atoms 3"],
    factor: Float[np.ndarray, "coordinates coordinates"],
    generator: np.random.Generator,
    n: int,
    *,
    max_kelvin: float = MAX_KELVIN,
) -> list[Float[np.ndarray, "atoms 3"]]:
    """Geometries [Å] drawn from exp(-xᵀHx / 2kT), H = L Lᵀ, as x = sqrt(kT) L⁻ᵀ z with normally distributed z.

    Args:
        positions: reference geometry [Å], x = 0.
        factor: Cholesky factor L from `hessian_factor`.
        generator: random number generator.
        n: number of geometries, each at a random temperature T.
        max_kelvin: maximum temperature [K].
    """
    places = []
    for _ in range(n):
        kt = EV_PER_KELVIN * generator.uniform(0, max_kelvin)
        step = solve_triangular(factor, generator.normal(size=len(factor)), lower=True, trans=1)  # Lᵀ x = z
        places.append(positions + np.sqrt(kt) * step.reshape(-1, 3))
    return places


def _out_of_plane(
    graph: MolGraph, positions: Float[np.ndarray, "atoms 3"]
) -> Float[np.ndarray, "coordinates coordinates"]:
    """Hessian [eV/Å²] of out-of-plane displacements of planar centres with three neighbours.

    The model Hessian has no such term if no torsion involves the centre (CH2O, NO3-, BF3); displacements would reach
    0.5 Å at 400 K. The coordinate is n · (r_centre - mean of the neighbours), n being the normal of the plane.
    """
    hessian = np.zeros((3 * graph.n_atoms, 3 * graph.n_atoms))
    for centre, around in enumerate(neighbours_of(graph)):
        if len(around) != 3:
            continue
        corners = positions[around]
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        normal /= max(float(np.linalg.norm(normal)), _SMALLEST_AREA)
        if abs((positions[centre] - corners[0]) @ normal) < _FLAT:
            gradient = np.zeros((graph.n_atoms, 3))
            gradient[centre], gradient[around] = normal, -normal / 3
            hessian += _OUT_OF_PLANE_STIFFNESS * np.outer(gradient, gradient)
    return hessian
