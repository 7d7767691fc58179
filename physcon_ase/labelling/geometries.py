"""Sampling of geometries: conformers, thermal displacements, relaxation paths, rotated torsions, short dynamics.

A sampler is a reproducible function (origin, seed, n) -> geometries of one kind. All samplers of a molecule share an
`Origin`: a given geometry, or an ETKDG conformer and its relaxation with MMFF94. A sampler that needs the label of the
start geometry returns a `NewtonStep` in place of a geometry.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np
import torch
from ase import Atoms
from ase import units as ase_units
from ase.md.langevin import Langevin
from jaxtyping import Float
from scipy.linalg import solve_triangular

from physcon_ase.batch import make_batch
from physcon_ase.chem.compare import BondCheck, bonds_intact
from physcon_ase.chem.conformers import embed, mmff94_minimize
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.torsions import RotatableBond, rotatable_bonds, turned
from physcon_ase.errors import MissingParametersError, PhysConError
from physcon_ase.labelling.engines import Engine, EngineCalculator, EngineFunction, engine_forces, record_as_dict
from physcon_ase.relax.driver import RelaxStatus, relax
from physcon_ase.units import CHEMICAL_SYMBOLS, EV_PER_HARTREE, EV_PER_KELVIN
from physcon_ase.valence.internals import make_internals
from physcon_ase.valence.model_hessian import internal_gradient, model_hessian, model_hessians, newton_steps

Geometry: TypeAlias = tuple[str, np.ndarray]
"""Kind and positions [Å], [atoms, 3]."""


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


@dataclass(frozen=True)
class NewtonStep:
    """A geometry (kind "newton") that is sampled once the start geometry has been labelled."""

    graph: MolGraph
    """The molecule."""
    start: Float[np.ndarray, "atoms 3"]
    """Start geometry [Å]."""
    kind: ClassVar[str] = "newton"
    """Kind of the geometry."""

    def sampled(self, forces: Float[np.ndarray, "atoms 3"]) -> "Geometry | Rejected":
        """Start geometry after one Newton step with the forces [eV/Å] of the engine and the model Hessian.

        Bond lengths and angles are then close to those of the engine's own minimum. Torsions are nearly fixed, since
        the Hessian describes them poorly, as are the bends of linear chains. Displacements are at most 0.1 Å.
        """
        batch = make_batch([self.graph.atomic_numbers], [self.start], dtype=torch.float64)
        internals = make_internals(batch, [_bonds(self.graph)])
        pull = torch.as_tensor(np.asarray(forces, dtype=np.float64))[None]
        _, rest = internal_gradient(batch, internals, pull)
        hessians = model_hessians(batch, batch.positions, internals, torsion_stiffness=_FIXED_TORSION)
        step = _STEP_SCALE * newton_steps(pull - rest, hessians)[0].numpy()
        longest = float(np.linalg.norm(step, axis=1).max())
        return _checked(self.graph, self.kind, self.start + step * min(1.0, _LONGEST_STEP / max(longest, _TINY)))

    def without_forces(self) -> "Rejected":
        """The record of a molecule whose start geometry could not be labelled."""
        return Rejected(self.kind, "EngineError", "the start geometry has no label, so there are no forces to follow")


Sampler: TypeAlias = Callable[[Origin, int, int], "list[Geometry] | list[NewtonStep]"]
"""Function (origin, seed, n) -> geometries; raises PhysConError."""

MAX_KELVIN: Final = 700.0
"""Default maximum temperature [K] of thermal displacements."""

_MMFF94_STEPS: Final = 100
"""Maximum number of MMFF94 steps for a conformer; drug-like molecules of 42 atoms end 0.13 eV above the minimum on
average, at 40 % of the cost of full convergence."""

_TURNS_TRIED: Final = 20
_SMALLEST_TURN: Final = np.radians(30)
_TWISTS: Final = (np.radians(5.0), np.radians(40.0))
"""Smallest and largest angle [rad] of a twist."""
_MOST_TWISTED: Final = 3
"""Maximum number of bonds twisted simultaneously."""
_PATH_FMAX: Final = 0.05
_PATH_STEPS: Final = 100
_TIME_STEP_FS: Final = 0.5
_FRICTION_PER_FS: Final = 0.02
_RIGID_STIFFNESS: Final = 1e4
"""Force constant [eV/Å²] that suppresses rigid motions to 0.003 Å at 700 K."""

_OUT_OF_PLANE_STIFFNESS: Final = 16.0
"""Force constant [eV/Å²] of the out-of-plane displacement of a planar centre."""

_FLAT: Final = 0.15
"""Distance [Å] from the plane of its neighbours up to which a centre counts as planar."""

_TINY: Final = 1e-6
"""Lower bound [Å²] on the area in a denominator, for three neighbours on a line."""

_FIXED_TORSION: Final = EV_PER_HARTREE
"""Force constant [eV/rad²] of torsions in a Newton step."""

_STEP_SCALE: Final = 1.4
"""Length of a Newton step; the model Hessian overestimates curvatures: for AIMNet2 at minima of B3LYP-D3(BJ), the
projection of the remaining forces on the initial ones is 0.30 of these after a step of length 1."""

_LONGEST_STEP: Final = 0.1
"""Maximum displacement [Å] of an atom in a Newton step."""

DISPLACED: Final = ("thermal", "torsion", "twist", "md", "newton")
"""Kinds of geometries that are displacements of the start geometry."""

_PROPAGATED: Final = ("path", "md")
"""Kinds of geometries that require an engine."""


@dataclass(frozen=True)
class Sampling:
    """Sampler and number of geometries."""

    kind: str
    """Kind of the geometries, for messages."""
    n: int
    """Number of geometries per molecule."""
    sampler: Sampler
    """Sampler function; must be picklable for labelling in several processes."""


@dataclass(frozen=True)
class Rejected:
    """A geometry that could not be sampled or labelled."""

    kind: str
    """Kind of the geometry."""
    error: str
    """Name of the error class."""
    reason: str
    """Error message."""


Sampled: TypeAlias = Geometry | Rejected | NewtonStep
"""Result of a sampler for one geometry."""


# ---- samplers


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
        engine_forces(engine), batch, fmax=_PATH_FMAX, max_steps=_PATH_STEPS, bonds=[_bonds(graph)], history=True
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
    hessian = model_hessian(graph.atomic_numbers, positions, _bonds(graph), rigid_stiffness=rigid_stiffness)
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


# ---- samplings


def parse_samplings(text: str, *, engine: Engine | None = None, max_kelvin: float = MAX_KELVIN) -> list[Sampling]:
    """Parses samplings from a text such as "thermal:2,conformer:1".

    Args:
        text: comma-separated KIND:NUMBER with kind start, conformer, relaxing, thermal, torsion, twist, newton, path
            or md.
        engine: engine that computes the forces of path and md.
        max_kelvin: maximum temperature [K] of thermal displacements.

    Raises:
        PhysConError: an unknown kind, an invalid number, path or md without an engine, or newton without start.
    """
    samplers: dict[str, Sampler] = {
        "start": start_geometry,
        "conformer": conformers,
        "relaxing": relaxing,
        "thermal": functools.partial(thermal, max_kelvin=max_kelvin),
        "torsion": torsion,
        "twist": twist,
        "newton": newton,
    }
    if engine is not None:
        samplers |= {"path": functools.partial(path, engine=engine), "md": functools.partial(md, engine=engine)}
    samplings = []
    for part in text.split(","):
        matched = re.fullmatch(r"\s*([a-z]+)(?::(\d+))?\s*", part)
        kind, n = (matched[1], int(matched[2] or 1)) if matched else ("", 0)
        if n < 1 or kind not in (*samplers, *_PROPAGATED):
            allowed = ", ".join(dict.fromkeys((*samplers, *_PROPAGATED)))
            raise PhysConError(f"geometries {part.strip()!r}: write KIND:NUMBER with a kind of {allowed}")
        if kind not in samplers:
            raise PhysConError(f"geometries of kind {kind!r} require an engine: give one")
        samplings.append(Sampling(kind, n, samplers[kind]))
    kinds = [sampling.kind for sampling in samplings]
    if "newton" in kinds and "start" not in kinds:
        raise PhysConError("geometries of kind 'newton' follow the forces at the start geometry: add the kind start")
    return samplings


def sample(graph: MolGraph, samplings: Sequence[Sampling], seed: int, start: np.ndarray | None = None) -> list[Sampled]:
    """Geometries of all samplers, in order, centred and rounded to float32 as in a store.

    Failed samplers and geometries with broken or formed bonds are replaced by `Rejected`. The bonds of a given `start`
    are not checked.
    """
    first_seed, *seeds = np.random.SeedSequence(seed).generate_state(1 + len(samplings)).tolist()
    origin = Origin(graph, first_seed, start)
    found: list[Sampled] = []
    for sampling, own_seed in zip(samplings, seeds, strict=True):
        try:
            geometries = sampling.sampler(origin, own_seed, sampling.n)
        except Exception as error:  # of RDKit or of linear algebra, too: one molecule must not end a run
            found.append(Rejected(sampling.kind, type(error).__name__, str(error)))
            continue
        for geometry in geometries:
            if isinstance(geometry, NewtonStep):
                found.append(geometry)
            else:
                kind, positions = geometry
                found.append(_checked(graph, kind, positions, is_given=kind == "start" and start is not None))
    return found


def describe_samplings(samplings: Sequence[Sampling]) -> list[dict[str, Any]]:
    """Description of the samplings for fingerprint and provenance."""
    return [
        {"kind": sampling.kind, "n": sampling.n, "sampler": sampling_name, **settings}
        for sampling in samplings
        for sampling_name, settings in [_name_and_settings(sampling.sampler)]
    ]


def _name_and_settings(sampler: Sampler) -> tuple[str, dict[str, Any]]:
    if not isinstance(sampler, functools.partial):
        return getattr(sampler, "__name__", repr(sampler)), {}
    settings = {
        name: record_as_dict(value.record) if isinstance(value, Engine) else value
        for name, value in sampler.keywords.items()
    }
    return getattr(sampler.func, "__name__", repr(sampler.func)), settings


def _checked(graph: MolGraph, kind: str, positions: np.ndarray, *, is_given: bool = False) -> Geometry | Rejected:
    centred = (positions - positions.mean(axis=0)).astype(np.float32).astype(np.float64)
    has_no_bonds = len(graph.bonds) == 0 and graph.n_atoms > 1  # unknown bonds
    if not (is_given or has_no_bonds):
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


def _out_of_plane(
    graph: MolGraph, positions: Float[np.ndarray, "atoms 3"]
) -> Float[np.ndarray, "coordinates coordinates"]:
    """Hessian [eV/Å²] of out-of-plane displacements of planar centres with three neighbours.

    The model Hessian has no such term if no torsion involves the centre (CH2O, NO3-, BF3); displacements would reach
    0.5 Å at 400 K. The coordinate is n · (r_centre - mean of the neighbours), n being the normal of the plane.
    """
    neighbours: list[list[int]] = [[] for _ in range(graph.n_atoms)]
    for first, second in graph.bonds.tolist():
        neighbours[first].append(second)
        neighbours[second].append(first)
    hessian = np.zeros((3 * graph.n_atoms, 3 * graph.n_atoms))
    for centre, around in enumerate(neighbours):
        if len(around) != 3:
            continue
        corners = positions[around]
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        normal /= max(float(np.linalg.norm(normal)), _TINY)
        if abs((positions[centre] - corners[0]) @ normal) < _FLAT:
            gradient = np.zeros((graph.n_atoms, 3))
            gradient[centre], gradient[around] = normal, -normal / 3
            hessian += _OUT_OF_PLANE_STIFFNESS * np.outer(gradient, gradient)
    return hessian


def _bonds(graph: MolGraph) -> np.ndarray | None:
    """Bonds of the graph; None if they are unknown and must be inferred from distances."""
    return graph.bonds if len(graph.bonds) or graph.n_atoms == 1 else None
