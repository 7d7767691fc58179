"""Records of torsion scans: grid, minima and barriers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from jaxtyping import Float
from scipy.ndimage import maximum_filter, minimum_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from physcon_ase.chem.graph import MolGraph
from physcon_ase.inference.pages.view import NotebookView
from physcon_ase.inference.results import UNITS, Status
from physcon_ase.inference.run_records import judged_by_doubts
from physcon_ase.plurals import counted
from physcon_ase.units import EV_PER_KCAL_PER_MOL


@dataclass(frozen=True)
class Barrier:
    """Highest grid point on the way between two minima of a scan; energies are relative to the lowest grid point."""

    minima: tuple[tuple[float, ...], tuple[float, ...]]
    """Dihedral angles [degrees] of the two minima."""
    top: tuple[float, ...]
    """Dihedral angles [degrees] of the highest point between them."""
    energy: float
    """Energy [kcal/mol] of the highest point above the lowest grid point."""
    heights: tuple[float, float]
    """Energy [kcal/mol] of the highest point above each of the two minima."""


@dataclass(frozen=True, repr=False)
class Scan(NotebookView):
    """Relaxed energies of one molecule on a periodic grid of one or two dihedral angles."""

    dihedrals: tuple[tuple[int, int, int, int], ...]
    """Atoms of each dihedral angle."""
    angles: Float[np.ndarray, " points"]
    """Values [degrees] of each dihedral angle, from -180 in equal steps."""
    energies: Float[np.ndarray, "*points"]
    """Total energy [eV], one axis per dihedral angle; NaN where no geometry was found."""
    geometries: Mapping[tuple[int, ...], Atoms]
    """Relaxed geometry of each grid point, by its indices, with energy and forces attached; the forces include those
    along the scanned angles."""
    failures: Mapping[tuple[int, ...], str]
    """Reason for each grid point without geometry."""
    graph: MolGraph
    """The molecule."""
    smiles: str
    """Canonical SMILES of the graph."""
    undefined_stereo: tuple[str, ...]
    """Stereocentres and double bonds whose configuration is undefined in the input; chosen by the seed."""
    n_starts: int
    """Number of conformers from which the scan started."""
    n_relaxations: int
    """Number of constrained relaxations."""
    n_waves: int
    """Number of rounds of relaxations until the energy of no point decreased further."""
    fmax: float
    """Convergence threshold [eV/Å] for the largest force without the components along the scanned angles."""
    seed: int
    """Random seed of the start geometries."""
    model: str
    """Name of the checkpoint."""
    revision: str
    """SHA-256 of the weights."""
    level: str
    """Level of theory."""
    seconds: float
    """Wall time [s] without loading the model."""
    doubts: tuple[str, ...] = ()
    """Reasons to doubt the energies, see `doubts.doubts_of`."""
    units: str = UNITS
    """Units of the results."""

    def __repr__(self) -> str:
        angles = " and ".join("-".join(map(str, members)) for members in self.dihedrals)
        return (
            f"<Scan of {self.smiles} about {angles}: {counted(self.energies.size, 'point')}, {len(self.failures)} "
            f"failed, level {self.level} of {self.model}>"
        )

    def judged(self) -> tuple[Status, str]:
        """Status of the record of this molecule, and its reason."""
        failed = f"{len(self.failures)} of {counted(self.energies.size, 'grid point')} failed"
        return judged_by_doubts([*([failed] if self.failures else []), *self.doubts])

    @property
    def relative_energies(self) -> Float[np.ndarray, "*points"]:
        """Energies [kcal/mol] above the lowest grid point; NaN where no geometry was found."""
        return (self.energies - np.nanmin(self.energies)) / EV_PER_KCAL_PER_MOL

    @property
    def minima(self) -> list[tuple[int, ...]]:
        """Indices of the grid points lower than all their neighbours (diagonal ones included), the lowest first.

        Of neighbours with equal energies, which mirror images can be, one is a minimum. A point beside one without
        energy is none, unless it is the lowest of all.
        """
        energies = np.where(np.isnan(self.energies), np.inf, self.energies)
        is_lowest = (energies == minimum_filter(energies, size=3, mode="wrap")) & np.isfinite(energies)
        beside_failed = maximum_filter(np.isnan(self.energies), size=3, mode="wrap")
        is_lowest &= np.logical_not(beside_failed) | (energies == energies.min())
        found: list[tuple[int, ...]] = []
        for indices in sorted(np.argwhere(is_lowest).tolist(), key=lambda indices: energies[tuple(indices)]):
            if not any(self._are_neighbours(indices, other) for other in found):
                found.append(tuple(indices))
        return found

    @property
    def barriers(self) -> list[Barrier]:
        """Barriers between minima; empty if there is only one minimum.

        For one dihedral angle, the barrier between each pair of neighbouring minima, unless a point between them has no
        energy. For two, the lowest pass from each minimum to a lower one through points with energies.
        """
        return _barriers_of_profile(self) if len(self.dihedrals) == 1 else _passes_of_map(self)

    def _are_neighbours(self, one: Sequence[int], other: Sequence[int]) -> bool:
        apart = np.abs(np.subtract(one, other))
        return bool((np.minimum(apart, len(self.angles) - apart) <= 1).all())

    def angles_of(self, indices: tuple[int, ...]) -> tuple[float, ...]:
        """Dihedral angles [degrees] of a grid point."""
        return tuple(float(self.angles[index]) for index in indices)

    def to_dict(self) -> dict[str, Any]:
        """The scan as numbers, texts and lists, for instance for `json.dump`; units in the names, NaN becomes None."""
        status, reason = self.judged()
        return {
            "kind": "scan",
            "smiles": self.smiles,
            "formula": next((atoms.get_chemical_formula() for atoms in self.geometries.values()), ""),
            "charge": self.graph.charge,
            "status": status,
            "reason": reason,
            "atomic_numbers": self.graph.atomic_numbers.tolist(),
            "dihedrals": [list(members) for members in self.dihedrals],
            "points": [self._point_as_dict(point) for point in np.ndindex(self.energies.shape)],
            "minima_degrees": [list(self.angles_of(point)) for point in self.minima],
            "barriers": [_barrier_as_dict(barrier) for barrier in self.barriers],
            "undefined_stereo": list(self.undefined_stereo),
            "doubts": list(self.doubts),
            "n_starts": self.n_starts,
            "n_relaxations": self.n_relaxations,
            "n_waves": self.n_waves,
            "fmax_eV_per_A": self.fmax,
            "seed": self.seed,
            "model": self.model,
            "revision": self.revision,
            "level": self.level,
            "seconds": self.seconds,
        }

    def _point_as_dict(self, point: tuple[int, ...]) -> dict[str, Any]:
        is_there = point in self.geometries
        return {
            "angles_degrees": list(self.angles_of(point)),
            "energy_eV": float(self.energies[point]) if is_there else None,
            "relative_energy_kcal_per_mol": float(self.relative_energies[point]) if is_there else None,
            "positions_A": self.geometries[point].positions.tolist() if is_there else None,
            "failure": self.failures.get(point, ""),
        }


def in_degrees(angles: Iterable[float]) -> str:
    """Angles [°] as text."""
    return ", ".join(f"{angle:g}°" for angle in angles)


def _barrier_as_dict(barrier: Barrier) -> dict[str, Any]:
    return {
        "minima_degrees": [list(angles) for angles in barrier.minima],
        "top_degrees": list(barrier.top),
        "energy_kcal_per_mol": barrier.energy,
        "heights_kcal_per_mol": list(barrier.heights),
    }


def _barriers_of_profile(scan: Scan) -> list[Barrier]:
    minima = sorted(index for (index,) in scan.minima)
    if len(minima) < 2:
        return []
    n_points, found = len(scan.angles), []
    for first, second in zip(minima, [*minima[1:], minima[0] + n_points], strict=True):
        between = [(index % n_points,) for index in range(first, second + 1)]
        if not any(np.isnan(scan.energies[point]) for point in between):
            found.append(_barrier(scan, between))
    return found


def _passes_of_map(scan: Scan) -> list[Barrier]:
    minima = scan.minima
    shape, size = scan.energies.shape, scan.energies.size
    energies = np.where(np.isnan(scan.energies), np.inf, scan.energies).ravel()
    index = np.arange(size).reshape(shape)
    first = np.concatenate([index.ravel()] * 2)
    second = np.concatenate([np.roll(index, -1, axis=axis).ravel() for axis in (0, 1)])
    tops = np.maximum(energies[first], energies[second])
    usable = np.isfinite(tops)
    # the path in the minimum spanning tree has the lowest possible top; 1 is added, since 0 would be no edge
    weights = tops[usable] - np.nanmin(scan.energies) + 1
    tree = minimum_spanning_tree(coo_array((weights, (first[usable], second[usable])), shape=(size, size)))
    found = []
    for rank, minimum in enumerate(minima):
        start = int(np.ravel_multi_index(minimum, shape))
        _, before = breadth_first_order(tree, start, directed=False, return_predecessors=True)
        ways = [_way(before, start, int(np.ravel_multi_index(lower, shape))) for lower in minima[:rank]]
        ways = [way for way in ways if way]
        if ways:
            lowest = min(ways, key=lambda way: (energies[way].max(), len(way)))
            points = [tuple(int(i) for i in np.unravel_index(place, shape)) for place in reversed(lowest)]
            found.append(_barrier(scan, points))
    return found


def _way(before: np.ndarray, start: int, end: int) -> list[int]:
    """Nodes from the end to the start of a breadth-first search; empty if they are not connected."""
    way = [end]
    while way[-1] != start:
        if before[way[-1]] < 0:
            return []
        way.append(int(before[way[-1]]))
    return way


def _barrier(scan: Scan, points: list[tuple[int, ...]]) -> Barrier:
    """Barrier along a path of grid points that begins and ends at minima."""
    relative = scan.relative_energies
    top = max(points, key=lambda point: relative[point])
    energy, ends = float(relative[top]), (points[0], points[-1])
    return Barrier(
        minima=(scan.angles_of(ends[0]), scan.angles_of(ends[1])),
        top=scan.angles_of(top),
        energy=energy,
        heights=(energy - float(relative[ends[0]]), energy - float(relative[ends[1]])),
    )
