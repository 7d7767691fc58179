"""Samplers of geometries: conformers, thermal displacements, relaxation paths, rotated torsions, short dynamics.

A sampler is a reproducible function (origin, seed, n) -> geometries of one kind. All samplers of a molecule share an
`Origin`: a given geometry, or an ETKDG conformer and its relaxation with MMFF94. A sampler that needs the label of the
start geometry returns a `NewtonStep` in place of a geometry.
"""

import functools
from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
import torch
from ase import Atoms
from ase import units as ase_units
from ase.md.langevin import Langevin
from jaxtyping import Float

from physcon_ase.batch import make_batch
from physcon_ase.chem.compare import bonds_intact
from physcon_ase.chem.conformers import embed, mmff94_minimize
from physcon_ase.chem.graph import MolGraph, known_bonds
from physcon_ase.chem.torsions import RotatableBond, rotatable_bonds, turned
from physcon_ase.errors import MissingParametersError, PhysConError
from physcon_ase.labelling.displacements import MAX_KELVIN, hessian_factor, thermal_displacements
from physcon_ase.labelling.engines import EngineCalculator, EngineFunction, engine_forces
from physcon_ase.labelling.geometries import Geometry, NewtonStep
from physcon_ase.relax.driver import RelaxStatus, relax
from physcon_ase.units import CHEMICAL_SYMBOLS, EV_PER_KELVIN

_MMFF94_STEPS: Final = 100
"""Maximum number of MMFF94 steps for a conformer; drug-like molecules of 42 atoms end 0.13 eV above the minimum on
average, at 40 % of the cost of full convergence."""

_TURNS_TRIED: Final = 20
"""Maximum number of attempts to rotate bonds without clashes."""

_SMALLEST_TURN: Final = np.radians(30)
"""Smallest angle [rad] of a torsion, in both directions."""

_TWISTS: Final = (np.radians(5.0), np.radians(40.0))
"""Smallest and largest angle [rad] of a twist."""

_MOST_TWISTED: Final = 3
"""Maximum number of bonds twisted simultaneously."""

_PATH_FMAX: Final = 0.05
"""Convergence threshold [eV/Å] of a relaxation path."""

_PATH_STEPS: Final = 100
"""Maximum number of steps of a relaxation path."""

_TIME_STEP_FS: Final = 0.5
_FRICTION_PER_FS: Final = 0.02


class Origin:
    """Start geometries shared by the samplers of one molecule; computed on first use."""

    def __init__(self, graph: MolGraph, seed: int, given: Float[np.ndarray, "atoms 3"] | None = None):
        """Stores the arguments.

        Args:
            graph: the molecule.
            seed: random seed of the ETKDG conformer.
            given: positions [Å] of a given start geometry.
        """
        self.graph, self.seed, self.given = graph, seed, given

    @functools.cached_property
    def conformer(self) -> Float[np.ndarray, "atoms 3"]:
        """ETKDG conformer [Å].

        Raises:
            EmbeddingError, BondPerceptionError: see `chem.conformers.embed`.
        """
        return embed(self.graph, seed=self.seed)[0]

    @functools.cached_property
    def start(self) -> Float[np.ndarray, "atoms 3"]:
        """Given geometry [Å], otherwise the conformer relaxed with MMFF94, or the conformer if this fails."""
        if self.given is not None:
            return self.given
        try:
            relaxed = mmff94_minimize(self.graph, self.conformer, max_steps=_MMFF94_STEPS).positions
        except MissingParametersError:
            return self.conformer
        return relaxed if bonds_intact(self.graph, relaxed).intact else self.conformer

    @functools.cached_property
    def hessian_factor(self) -> Float[np.ndarray, "coordinates coordinates"]:
        """`hessian_factor` at the start geometry."""
        return hessian_factor(self.graph, self.start)

    @functools.cached_property
    def rotors(self) -> list[RotatableBond]:
        """Rotatable bonds."""
        return rotatable_bonds(self.graph)


Sampler: TypeAlias = Callable[[Origin, int, int], "list[Geometry] | list[NewtonStep]"]
"""Function (origin, seed, n) -> geometries; raises PhysConError."""


def start_geometry(origin: Origin, seed: int, n: int) -> list[Geometry]:
    """Start geometry (kind "start"); a single one for any `n` > 0."""
    return [("start", origin.start)] if n > 0 else []


def conformers(origin: Origin, seed: int, n: int) -> list[Geometry]:
    """ETKDG conformers (kind "conformer"); the first one is that from which the start geometry was relaxed.

    Raises:
        EmbeddingError, BondPerceptionError: see `chem.conformers.embed`.
    """
    if n == 1:
        return [("conformer", origin.conformer)]
    return [("conformer", positions) for positions in embed(origin.graph, n=n, seed=origin.seed)] if n > 0 else []


def relaxing(origin: Origin, seed: int, n: int) -> list[Geometry]:
    """Random linear interpolations between the ETKDG conformer and its MMFF94 relaxation (kind "relaxing").

    Raises:
        PhysConError: a start geometry was given, so there is no conformer.
        EmbeddingError, BondPerceptionError: see `chem.conformers.embed`.
    """
    if origin.given is not None:
        raise PhysConError("a start geometry was given, so there is no conformer to relax; omit the kind relaxing")
    shares = np.random.default_rng(seed).uniform(0, 1, n)
    return [("relaxing", share * origin.start + (1 - share) * origin.conformer) for share in shares]


def thermal(origin: Origin, seed: int, n: int, *, max_kelvin: float = MAX_KELVIN) -> list[Geometry]:
    """Harmonic thermal displacements at random temperatures up to `max_kelvin` [K] (kind "thermal")."""
    generator = np.random.default_rng(seed)
    places = thermal_displacements(origin.start, origin.hessian_factor, generator, n, max_kelvin=max_kelvin)
    return [("thermal", place) for place in places]


def newton(origin: Origin, seed: int, n: int) -> list[NewtonStep]:
    """Start geometry after one Newton step of the engine (kind "newton"); a single one for any `n` > 0."""
    return [NewtonStep(origin.graph, origin.start)] if n > 0 else []


def path(origin: Origin, seed: int, n: int, *, engine: EngineFunction) -> list[Geometry]:
    """Frames of a relaxation with the engine, from the given geometry or an ETKDG conformer (kind "path").

    The frames are evenly spaced over the steps, including first and last; short relaxations give fewer frames.

    Raises:
        PhysConError: the engine failed for a geometry of the relaxation, or the molecule dissociated.
    """
    graph = origin.graph
    batch = make_batch(
        [graph.atomic_numbers],
        [embed(graph, seed=seed)[0] if origin.given is None else origin.given],
        charges=[graph.charge],
        multiplicities=[graph.multiplicity],
        dtype=torch.float64,
    )
    ended = relax(
        engine_forces(engine), batch, fmax=_PATH_FMAX, max_steps=_PATH_STEPS, bonds=[known_bonds(graph)], history=True
    )
    if ended.statuses[0] in (RelaxStatus.NOT_FINITE, RelaxStatus.EXPLODED):
        raise PhysConError(f"the relaxation failed: {ended.statuses[0]}")
    assert ended.trajectories is not None
    frames = ended.trajectories[0].positions
    chosen = np.unique(np.linspace(0, len(frames) - 1, n).round().astype(int))
    return [("path", frames[index]) for index in chosen]


def torsion(origin: Origin, seed: int, n: int) -> list[Geometry]:
    """Start geometry rotated about one random bond by a random angle without clashes (kind "torsion").

    Raises:
        PhysConError: there is no rotatable bond, or atoms clash for all angles tried.
    """
    generator = np.random.default_rng(seed)
    return [("torsion", _turned(origin, "torsion", 1, _SMALLEST_TURN, 2 * np.pi - _SMALLEST_TURN, generator))
            for _ in range(n)]  # fmt: skip


def twist(origin: Origin, seed: int, n: int) -> list[Geometry]:
    """Start geometry rotated about one to three random bonds by 5 to 40 degrees (kind "twist").

    Raises:
        PhysConError: there is no rotatable bond, or atoms clash for all angles tried.
    """
    generator, (smallest, largest) = np.random.default_rng(seed), _TWISTS
    return [("twist", _turned(origin, "twist", _MOST_TWISTED, smallest, largest, generator)) for _ in range(n)]


def md(
    origin: Origin, seed: int, n: int, *, engine: EngineFunction, kelvin: float = 500.0, steps: int = 100
) -> list[Geometry]:
    """Frames of Langevin dynamics from the start geometry with a time step of 0.5 fs (kind "md").

    Args:
        origin: start geometries of the molecule.
        seed: random seed of velocities and noise.
        n: number of frames.
        engine: engine that computes the forces.
        kelvin: temperature [K].
        steps: number of steps between frames, and before the first one.

    Raises:
        EngineError: the engine failed for a geometry of the trajectory.
    """
    graph, generator = origin.graph, np.random.default_rng(seed)
    symbols = [CHEMICAL_SYMBOLS[number] for number in graph.atomic_numbers.tolist()]
    atoms = Atoms(symbols, origin.start)
    atoms.calc = EngineCalculator(engine, charge=graph.charge, multiplicity=graph.multiplicity)
    spread = np.sqrt(EV_PER_KELVIN * kelvin * atoms.get_masses())[:, None]  # Maxwell-Boltzmann distribution
    atoms.set_momenta(spread * generator.normal(size=atoms.positions.shape))
    friction = _FRICTION_PER_FS / ase_units.fs
    run = Langevin(
        atoms, _TIME_STEP_FS * ase_units.fs, temperature_K=kelvin, friction=friction, rng=generator, fixcm=False
    )
    frames = []
    for _ in range(n):
        run.run(steps)
        frames.append(("md", atoms.positions.copy()))
    return frames


def _turned(
    origin: Origin, kind: str, most: int, smallest: float, largest: float, generator: np.random.Generator
) -> np.ndarray:
    """Start geometry rotated about one to `most` bonds by angles [rad] in the given range, with random sign."""
    if not origin.rotors:
        raise PhysConError(f"no rotatable bond; omit the kind {kind} for this molecule")
    for _ in range(_TURNS_TRIED):
        n_turned = int(generator.integers(1, min(most, len(origin.rotors)) + 1))
        place = origin.start
        for index in generator.choice(len(origin.rotors), n_turned, replace=False):
            angle = generator.choice((-1, 1)) * generator.uniform(smallest, largest)
            place = turned(place, origin.rotors[index], angle)
        if bonds_intact(origin.graph, place).intact:
            return place
    raise PhysConError(f"atoms clash in all of {_TURNS_TRIED} attempts; omit the kind {kind} for this molecule")
