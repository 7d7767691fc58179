"""Relaxed scans of dihedral angles, batched over the angles, with wavefront propagation."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from time import perf_counter
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixInternals
from tqdm import tqdm

from physcon_ase.chem.graph import MolGraph, neighbours_of
from physcon_ase.chem.smiles import canonical_smiles
from physcon_ase.chem.torsions import RotatableBond, dihedral_matching, rotor_about, turned
from physcon_ase.errors import ConstraintError, NoConformersError, NotEnoughMemoryError, PhysConError
from physcon_ase.inference.batched import relax_jobs
from physcon_ase.inference.constraints import check_dihedral
from physcon_ase.inference.embedding import MAX_SECONDS
from physcon_ase.inference.ensembles.search import ensemble
from physcon_ase.inference.ensembles.stages import LOOSE_FMAX
from physcon_ase.inference.generator import ATOMS_PER_BATCH, atoms_of
from physcon_ase.inference.intake import at_least_one, checked_seed
from physcon_ase.inference.results import Result
from physcon_ase.inference.scans.scan import Scan, in_degrees
from physcon_ase.inference.starts import RelaxationJob, Settings, graph_and_positions, settings_of
from physcon_ase.model.coverage import AUTO
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel
from physcon_ase.plurals import counted

N_CONFORMERS: Final = 10
"""Default number of ETKDG geometries from whose minima a scan starts."""

GAIN: Final = 1e-3
"""Decrease of the energy [eV] of a grid point after which its geometry is passed on to the neighbouring points."""

Dihedral: TypeAlias = tuple[int, int, int, int]
"""Atom indices of a dihedral angle."""

_Point: TypeAlias = tuple[int, ...]
"""Indices of a grid point, one per dihedral angle."""


def scan(
    molecule: str | MolGraph | Atoms | Any,
    dihedral: str | Sequence[int] | Sequence[str | Sequence[int]],
    *,
    step: float = 15.0,
    level: str = AUTO,
    checkpoint: str | Path | LoadedModel = DEFAULT_CHECKPOINT,
    n_conformers: int = N_CONFORMERS,
    seed: int = 0,
    fmax: float = 0.02,
    max_steps: int = 300,
    atoms_per_batch: int = ATOMS_PER_BATCH,
    max_seconds: float = MAX_SECONDS,
    progress_bar: bool = True,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float64,
) -> Scan:
    """Energy as a function of one or two dihedral angles, all other coordinates relaxed.

    The scan starts from the conformers of a small search, or from a given geometry: every grid point starts from the
    conformer nearest to it, rotated about the bond. Then each geometry that lowered the energy of its point is rotated
    to the neighbouring points in both directions and relaxed there, until no energy decreases further (wavefront
    propagation; Qiu et al. 2020, doi 10.1063/5.0009232). The profile therefore does not depend on a direction of the
    scan. All relaxations of a round form one batch; the dihedral angles are exact in every geometry.

    Args:
        molecule: SMILES, graph, geometry, RDKit molecule or row of a file; geometries without known bonds need bonds
            that can be perceived.
        dihedral: four atom indices from 0, bonded in a chain about a bond that is not in a ring, or a SMARTS pattern
            that matches one such bond (`chem.torsions.dihedral_matching`); or two of them. The atoms of a SMILES are
            counted in its order, followed by its implicit hydrogens.
        step: spacing [degrees] of the grid points; a divisor of 360.
        level: level of theory; "auto" for the first of the checkpoint that covers the molecule.
        checkpoint: shipped name, folder or loaded model.
        n_conformers: number of ETKDG geometries of the search; ignored for a given geometry, which is the only start.
        seed: random seed of the ETKDG geometries.
        fmax: convergence threshold [eV/Å] for the largest force without the components along the scanned angles.
        max_steps: maximum number of steps per relaxation.
        atoms_per_batch: number of slots per batch; halved if memory runs out.
        max_seconds: time limit [s] for the ETKDG geometries.
        progress_bar: whether to show a progress bar on a terminal.
        device: device of the model; ignored for a loaded model.
        dtype: dtype of the model; ignored for a loaded model.

    Raises:
        ConstraintError: the atoms do not define dihedral angles that can be scanned.
        NoConformersError, EmbeddingError, BondPerceptionError: see `ensemble`.
        PhysConError: other invalid input; see `errors`.
    """
    began = perf_counter()
    seed, settings = checked_seed(seed), settings_of(checkpoint, level, fmax, max_steps, max_seconds, device, dtype)
    settings = replace(settings, atoms_per_batch=atoms_per_batch)
    angles, n_conformers = grid(step), at_least_one("n_conformers", n_conformers)
    graph, given, settings = graph_and_positions(molecule, settings)
    dihedrals = _dihedrals(dihedral, graph)
    rotors = _rotors(graph, dihedrals)
    undefined: tuple[str, ...] = ()
    if given is None:
        common = {"level": settings.level, "checkpoint": settings.loaded, "atoms_per_batch": atoms_per_batch}
        common |= {"max_seconds": max_seconds, "progress_bar": False}
        found = ensemble(graph, n=n_conformers, seed=seed, fmax=LOOSE_FMAX, **common)
        graph, undefined = found.graph, found.undefined_stereo
        starts = [conformer.atoms.positions for conformer in found.conformers]
    else:
        starts = [given]
    for members in dihedrals:
        check_dihedral(atoms_of(graph, starts[0]), members)
    front = _Front(graph, dihedrals, rotors, angles, settings)
    with tqdm(disable=None if progress_bar else True, unit="relaxation") as bar:
        tasks = front.first(starts)
        while tasks:
            tasks = front.advance(tasks, bar)
    if not front.best:
        reason = next(iter(front.failures.values()))
        raise NoConformersError(f"no point of the scan of {canonical_smiles(graph)!r} could be relaxed: {reason}")
    return Scan(
        dihedrals=dihedrals,
        angles=angles,
        energies=front.energies,
        geometries={point: front.atoms_at(point) for point in front.points if point in front.best},
        failures={point: front.failures[point] for point in front.points if point not in front.best},
        graph=graph,
        smiles=canonical_smiles(graph),
        undefined_stereo=undefined,
        n_starts=len(starts),
        n_relaxations=front.n_relaxations,
        n_waves=front.n_waves,
        fmax=fmax,
        seed=seed,
        model=settings.loaded.name,
        revision=settings.loaded.revision,
        level=settings.level,
        seconds=perf_counter() - began,
        doubts=front.doubts,
    )


class _Front:
    """State of the wavefront: the lowest geometry of every grid point so far; mutable."""

    def __init__(
        self,
        graph: MolGraph,
        dihedrals: tuple[Dihedral, ...],
        rotors: Sequence[RotatableBond],
        angles: np.ndarray,
        settings: Settings,
    ):
        self.graph, self.dihedrals, self.rotors = graph, dihedrals, rotors
        self.angles, self.settings = angles, settings
        self.points: list[_Point] = list(product(range(len(angles)), repeat=len(dihedrals)))
        self.best: dict[_Point, Result] = {}
        self.failures: dict[_Point, str] = {}
        self.n_relaxations = self.n_waves = 0

    @property
    def energies(self) -> np.ndarray:
        """Lowest energy [eV] of each grid point; NaN where there is none."""
        energies = np.full((len(self.angles),) * len(self.dihedrals), np.nan)
        for point, result in self.best.items():
            energies[point] = result.energy
        return energies

    @property
    def doubts(self) -> tuple[str, ...]:
        """Doubts about the lowest grid point and, if it has none, about the others."""
        lowest = min(self.best.values(), key=lambda result: result.energy)
        others = [point for point in self.points if point in self.best and self.best[point].doubts]
        if lowest.doubts or not others:
            return lowest.doubts
        worst = max(others, key=lambda point: self.best[point].energy)
        place, reason = in_degrees(self.angles[list(worst)].tolist()), self.best[worst].doubts[0]
        share = f"{len(others)} of {counted(len(self.points), 'grid point')}"
        return (f"{share} uncertain, the highest at {place}: {reason}",)

    def first(self, starts: Sequence[np.ndarray]) -> list[tuple[_Point, np.ndarray]]:
        """Start geometry of each point from the nearest conformer, and of the point nearest to each conformer."""
        values = np.array([self._values(start) for start in starts])
        grid = self.angles[np.array(self.points)]
        apart = np.linalg.norm(_wrapped(grid[:, None] - values[None]), axis=-1)  # (points, starts)
        nearest_start, nearest_point = apart.argmin(axis=1).tolist(), apart.argmin(axis=0).tolist()
        pairs = {*enumerate(nearest_start), *((point, start) for start, point in enumerate(nearest_point))}
        return [(self.points[point], starts[start]) for point, start in sorted(pairs)]

    def advance(self, tasks: Sequence[tuple[_Point, np.ndarray]], bar: tqdm) -> list[tuple[_Point, np.ndarray]]:
        """Relaxes geometries at grid points; returns those that lowered an energy, at the neighbouring points."""
        jobs = [
            RelaxationJob(self.graph, self._turned_to(point, positions), "scan", seed=0, level=self.settings.level)
            for point, positions in tasks
        ]
        lowered = set()
        outcomes = relax_jobs(jobs, self.settings, on_batch=lambda results: _count(bar, results))
        for (point, _), outcome in zip(tasks, outcomes, strict=True):
            if isinstance(outcome, NotEnoughMemoryError):
                self.failures[point] = str(outcome)
                continue
            if not outcome.is_minimum:
                self.failures[point] = outcome.status
                continue
            known = self.best[point].energy if point in self.best else np.inf
            if outcome.energy < known:
                self.best[point] = outcome
            if outcome.energy < known - GAIN:
                lowered.add(point)
        self.n_relaxations, self.n_waves = self.n_relaxations + len(tasks), self.n_waves + 1
        return [
            (neighbour, self.best[point].atoms.positions)
            for point in sorted(lowered)
            for neighbour in self._neighbours(point)
        ]

    def atoms_at(self, point: _Point) -> Atoms:
        """Relaxed geometry of a grid point, without constraints."""
        result = self.best[point]
        atoms = atoms_of(self.graph, result.atoms.positions)
        atoms.info |= {name: result.atoms.info[name] for name in ("smiles", "model", "revision", "level")}
        atoms.info["dihedrals_deg"] = self.angles[list(point)]
        forces = result.atoms.get_forces(apply_constraint=False)
        atoms.calc = SinglePointCalculator(atoms, energy=result.energy, forces=forces)
        return atoms

    def _values(self, positions: np.ndarray) -> list[float]:
        atoms = atoms_of(self.graph, positions)
        return [atoms.get_dihedral(*members) for members in self.dihedrals]

    def _turned_to(self, point: _Point, positions: np.ndarray) -> Atoms:
        """Geometry rotated about the bonds to the angles of a grid point, which are fixed."""
        targets = [float(self.angles[index]) for index in point]
        for rotor, value, target in zip(self.rotors, self._values(positions), targets, strict=True):
            positions = turned(positions, rotor, np.radians(target - value))
        atoms = atoms_of(self.graph, positions)
        pairs = zip(targets, self.dihedrals, strict=True)
        atoms.set_constraint(FixInternals(dihedrals_deg=[[target, list(members)] for target, members in pairs]))
        return atoms

    def _neighbours(self, point: _Point) -> list[_Point]:
        n_angles = len(self.angles)
        return [
            (*point[:axis], (point[axis] + change) % n_angles, *point[axis + 1 :])
            for axis in range(len(point))
            for change in (-1, 1)
        ]


def _count(bar: tqdm, results: Sequence[Result]) -> None:
    bar.update(len(results))


def _wrapped(degrees: np.ndarray) -> np.ndarray:
    return (degrees + 180) % 360 - 180


def grid(step: float) -> np.ndarray:
    """Angles [degrees] of the grid points.

    Raises:
        PhysConError: the step is no divisor of 360 from 1 to 120.
    """
    n_points = 360 / step if step > 0 else 0.0
    if not 3 <= n_points <= 360 or abs(n_points - round(n_points)) > 1e-9:
        raise PhysConError(f"step is {step} degrees; a divisor of 360 from 1 to 120 is needed, for instance 15")
    return -180 + step * np.arange(round(n_points))


def _dihedrals(dihedral: str | Sequence[int] | Sequence[str | Sequence[int]], graph: MolGraph) -> tuple[Dihedral, ...]:
    rows = [dihedral] if isinstance(dihedral, str) or not _are_several(dihedral) else dihedral
    if len(rows) not in (1, 2):
        raise ConstraintError(f"dihedral is {dihedral!r}; one or two dihedral angles are needed")
    return tuple(dihedral_matching(graph, row) if isinstance(row, str) else _indices(row) for row in rows)


def _are_several(dihedral: Sequence[Any]) -> bool:
    return any(isinstance(row, str | Sequence | np.ndarray) for row in dihedral)


def _indices(atoms: Any) -> Dihedral:
    members = np.array(atoms, dtype=object)
    if members.shape != (4,) or not all(isinstance(atom, (int, np.integer)) for atom in members):
        raise ConstraintError(
            f"the dihedral angle {atoms!r} is invalid: four atom indices or a SMARTS pattern are needed"
        )
    first, second, third, fourth = map(int, members)
    return first, second, third, fourth


def _rotors(graph: MolGraph, dihedrals: Sequence[Dihedral]) -> list[RotatableBond]:
    """Bonds about which the dihedral angles rotate.

    Raises:
        ConstraintError: atoms that do not exist or are not bonded in a chain, a bond in a ring, or the same bond twice.
    """
    neighbours, rotors = neighbours_of(graph), []
    for members in dihedrals:
        if len(set(members)) != 4 or not all(0 <= member < graph.n_atoms for member in members):
            raise ConstraintError(
                f"dihedral angle {members} is invalid: four different atoms from 0 to {graph.n_atoms - 1} are needed"
            )
        for first, second in pairwise(members):
            if second not in neighbours[first]:
                raise ConstraintError(
                    f"dihedral angle {members}: atoms {first} and {second} are not bonded; four atoms in a chain of "
                    "bonds are needed (counted from 0 in the order of the input, implicit hydrogens last)"
                )
        rotor = rotor_about(graph, members[1], members[2])
        if rotor is None:
            raise ConstraintError(
                f"dihedral angle {members}: the bond {members[1]}-{members[2]} is in a ring, where a dihedral angle "
                "cannot be scanned; use ensemble() to find the conformers of the ring"
            )
        rotors.append(rotor)
    if len({frozenset(rotor.bond) for rotor in rotors}) < len(rotors):
        raise ConstraintError(f"the dihedral angles {list(dihedrals)} are about the same bond: choose different bonds")
    return rotors
