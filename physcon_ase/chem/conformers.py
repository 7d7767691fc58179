"""Start geometries from RDKit: distance geometry (ETKDG) and the force field MMFF94."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from physcon_ase.chem.compare import bonds_intact, stereo_intact
from physcon_ase.chem.fragments import Fragment, fragments_of, n_fragments, placed_apart
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import canonical_smiles, to_rdkit
from physcon_ase.errors import EmbeddingError, EmptyStructureError, MissingParametersError
from physcon_ase.interrupts import interruptible
from physcon_ase.units import EV_PER_KCAL_PER_MOL


@dataclass(frozen=True)
class _Rung:
    """One embedding method; the ladder is ordered by decreasing quality of the geometries."""

    name: str
    options: dict[str, bool]
    iterations: int
    """Maximum number of random starts."""


_LOOSE: Final = {"enforceChirality": False}
"""Disables RDKit's final check of chiral volumes, which rejects every geometry of e.g. bicyclo[2.1.0]pentanes (a few
per cent of QM9). The configuration is still a target of the embedding and is checked by `stereo_intact`."""

_RANDOM: Final = {"useRandomCoords": True}
_PLAIN: Final = {"useRandomCoords": True, "useExpTorsionAnglePrefs": False, "useBasicKnowledge": False}
"""Distance geometry without preferences for torsions and planar rings; needed for C60, which ETKDG cannot embed."""

_FEW, _MANY = 20, 2000
_LADDER: Final = (
    _Rung("ETKDGv3", {}, _FEW),
    _Rung("ETKDGv3, loose", _LOOSE, _FEW),
    _Rung("ETKDGv3 from random coordinates, loose", _LOOSE | _RANDOM, _FEW),
    _Rung("distance geometry, loose", _LOOSE | _PLAIN, _FEW),
    _Rung("ETKDGv3 from random coordinates", _RANDOM, _MANY),
    _Rung("distance geometry, loose, unsmoothed", _LOOSE | _PLAIN | {"ignoreSmoothingFailures": True}, _MANY),
)

_RING_LADDER: Final = tuple(
    rung if rung.options.get("useExpTorsionAnglePrefs") is False
    else replace(rung, options={**rung.options, "useSmallRingTorsions": True})
    for rung in _LADDER
)  # fmt: skip
"""The same methods with the torsion preferences of small rings; those of macrocycles are part of ETKDGv3."""

_ATTEMPT_STRIDE: Final = 500_009
"""Offset between the RDKit seeds of successive attempts."""

_ATTEMPTS: Final = 10
"""Maximum number of geometries per method that may fail the check of bonds and configuration."""

_SEED_STRIDE: Final = 1_000_003
"""Offset between the RDKit seeds of successive user seeds, so that no two of them share a geometry."""

_N_RDKIT_SEEDS: Final = 2**31 - 2
"""Number of distinct seeds of RDKit's embedding: 1 to this number. Seed 0 gives the geometry of seed 1."""


_LONGEST: Final = 1e9
"""Largest time limit [s] passed to RDKit, for which infinity is no number."""


_TOGETHER: Final = 4
"""Number of conformers embedded by one call of RDKit."""

_FIRST_STEPS: Final = 100
"""Number of MMFF94 steps after which high conformers are discarded."""

_WINDOW: Final = 0.1
"""Excess [eV] over the lowest energy from which a conformer is discarded: for 58 of 60 drug-like molecules the lowest
of four minima is then within 0.005 eV of that without discarding, in three quarters of the time."""

_MAX_STEPS: Final = 2000
"""Maximum number of MMFF94 steps to a minimum."""


class Minimized(NamedTuple):
    """A geometry relaxed with a force field."""

    positions: Float[np.ndarray, "atoms 3"]
    """Positions [Å]."""
    energy: float
    """MMFF94 energy [eV]; only comparable between conformers of one molecule."""
    converged: bool
    """Whether RDKit's convergence criterion was met within the step limit."""


@interruptible()
def embed(
    graph: MolGraph, *, n: int = 1, seed: int = 0, max_seconds: float = 30.0
) -> Float[np.ndarray, "conformers atoms 3"]:
    """Conformers [Å] with the bonds and the configuration of the graph, embedded with RDKit's ETKDGv3.

    If ETKDGv3 fails, less restrictive embedding methods are tried; the bonds and configuration of every geometry are
    checked. Undefined stereo elements take either configuration, depending on the seed. The result is reproducible for
    a given seed unless the time limit is reached, and the first geometries do not depend on `n`. Several fragments are
    embedded one by one and placed beside each other in contact, in a different arrangement in each geometry.

    ETKDG: Riniker and Landrum 2015, doi 10.1021/acs.jcim.5b00654; version 3: Wang et al. 2020,
    doi 10.1021/acs.jcim.0c00025.

    Args:
        graph: the molecule.
        n: number of geometries.
        seed: random seed, 0 or larger.
        max_seconds: limit on the total time, rounded up to full seconds. It is only checked between RDKit's random
            starts, each of which takes seconds for more than 200 atoms.

    Raises:
        EmbeddingError: not all geometries were found in time; the message gives the causes and their counts.
        EmptyStructureError: the graph has no atoms.
        BondPerceptionError: RDKit finds the bonds chemically impossible.
    """
    parts = _parts(graph)
    deadline = monotonic() + max_seconds
    geometries = [
        _embed_parts(parts, seed * _SEED_STRIDE + index, f"{index + 1} of {n}", max_seconds, deadline)
        for index in range(n)
    ]
    return np.stack(geometries)


def mmff94_minimize(
    graph: MolGraph, positions: Float[np.ndarray, "atoms 3"], *, max_steps: int = _MAX_STEPS
) -> Minimized:
    """Relaxes a geometry with the force field MMFF94.

    Halgren 1996, doi 10.1002/(SICI)1096-987X(199604)17:5/6<490::AID-JCC1>3.0.CO;2-P.

    Raises:
        MissingParametersError: MMFF94 has no parameters for the molecule (H2, HCl, boron, many ions).
    """
    return _ForceField(graph, positions).minimize(max_steps)


class _ForceField:
    """MMFF94 of a molecule at one geometry, which `minimize` changes.

    Raises:
        MissingParametersError: MMFF94 has no parameters for the molecule.
    """

    def __init__(self, graph: MolGraph, positions: Float[np.ndarray, "atoms 3"]):
        self._mol, field = to_rdkit(graph, positions), None
        with rdBase.BlockLogs():
            properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(self._mol, "MMFF94")
            if properties is not None:
                field = rdForceFieldHelpers.MMFFGetMoleculeForceField(
                    self._mol, properties, ignoreInterfragInteractions=False
                )
        if field is None:
            raise MissingParametersError(
                f"MMFF94 has no parameters for {canonical_smiles(graph)!r}; it covers organic molecules "
                "without boron and metals: use the embedded geometry without relaxation"
            )
        field.Initialize()
        self._field = field

    def minimize(self, max_steps: int) -> Minimized:
        """Relaxes the geometry further."""
        try:
            converged = self._field.Minimize(maxIts=max_steps) == 0
        except RuntimeError:  # as in `_climb`; the positions are those of the last step
            converged = False
        energy = self._field.CalcEnergy() * EV_PER_KCAL_PER_MOL
        return Minimized(self._mol.GetConformer().GetPositions(), energy, converged)


def has_parameters(graph: MolGraph) -> bool:
    """Whether MMFF94 has parameters for the molecule."""
    with rdBase.BlockLogs():
        return rdForceFieldHelpers.MMFFHasAllMoleculeParams(to_rdkit(graph))


@interruptible()
def lowest_conformer(
    graph: MolGraph, *, n: int, seed: int = 0, max_seconds: float = 30.0
) -> Float[np.ndarray, "atoms 3"]:
    """Positions [Å] of the lowest MMFF94 minimum among those reached from `n` ETKDG geometries.

    Geometries are not relaxed to the end if they are more than `_WINDOW` above the lowest after `_FIRST_STEPS` steps.
    Geometries not found in time and minima whose bonds or configuration differ from the graph are skipped. If none
    remain, or MMFF94 has no parameters for the molecule, the first geometry is returned.

    Raises:
        EmbeddingError, EmptyStructureError, BondPerceptionError: see `embed`.
    """
    starts = _embed_in_time(graph, n, seed, max_seconds, _LADDER)
    try:
        fields = [_ForceField(graph, start) for start in starts]
    except MissingParametersError:
        return starts[0]
    energies = np.array([field.minimize(_FIRST_STEPS).energy for field in fields])
    promising = np.flatnonzero(energies < energies.min() + _WINDOW)
    minima = sorted((fields[index].minimize(_MAX_STEPS) for index in promising), key=lambda minimum: minimum.energy)
    for minimum in minima:
        if not _defect(graph, minimum.positions):
            return minimum.positions
    return starts[0]


@interruptible()
def embed_ensemble(
    graph: MolGraph, *, n: int, seed: int = 0, max_seconds: float = 30.0
) -> list[Float[np.ndarray, "atoms 3"]]:
    """Up to `n` conformers [Å] as in `embed`, with the torsion preferences of small rings; as many as found in time.

    Small rings: Wang et al. 2020, doi 10.1021/acs.jcim.0c00025.

    Raises:
        EmbeddingError, EmptyStructureError, BondPerceptionError: see `embed`.
    """
    return _embed_in_time(graph, n, seed, max_seconds, _RING_LADDER)


def _embed_in_time(
    graph: MolGraph, n: int, seed: int, max_seconds: float, ladder: tuple[_Rung, ...]
) -> list[Float[np.ndarray, "atoms 3"]]:
    """Geometries found within the time limit, at least one."""
    parts = _parts(graph)
    deadline, found = monotonic() + max_seconds, []
    while len(found) < n:
        own_seed, count = seed * _SEED_STRIDE + len(found), min(_TOGETHER, n - len(found))
        together = _embed_together(graph, ladder[0], own_seed, count, deadline) if len(parts) == 1 else []
        if together:
            found += together
            continue
        try:
            place = f"{len(found) + 1} of {n}"
            found.append(_embed_parts(parts, own_seed, place, max_seconds, deadline, ladder))
        except EmbeddingError:
            if not found:
                raise
            break
    return found


def _embed_together(
    graph: MolGraph, rung: _Rung, seed: int, count: int, deadline: float
) -> list[Float[np.ndarray, "atoms 3"]]:
    """Up to `count` geometries without defects by one call of RDKit, which sets up its distance bounds once."""
    remaining = deadline - monotonic()
    if remaining <= 0:
        return []
    mol, parameters = to_rdkit(graph), _parameters(rung, 1 + seed % _N_RDKIT_SEEDS, remaining / count)
    try:
        with rdBase.BlockLogs():
            rdDistGeom.EmbedMultipleConfs(mol, count, parameters)
    except RuntimeError:  # as in `_climb`
        return []
    geometries = (_with_bonds(graph, conformer.GetPositions()) for conformer in mol.GetConformers())
    return [positions for positions in geometries if not _defect(graph, positions)]


def _embed_parts(
    parts: Sequence[Fragment],
    seed: int,
    place: str,
    max_seconds: float,
    deadline: float,
    ladder: tuple[_Rung, ...] = _LADDER,
) -> Float[np.ndarray, "atoms 3"]:
    """Geometry of a molecule, or of several in contact."""
    places = [
        _embed_one(part.graph, to_rdkit(part.graph), seed, place, max_seconds, deadline, ladder) for part in parts
    ]
    if len(parts) > 1:
        places = placed_apart([part.graph.atomic_numbers for part in parts], places, seed=seed)
    positions = np.zeros((sum(len(part.atoms) for part in parts), 3))
    for part, own in zip(parts, places, strict=True):
        positions[part.atoms] = own
    return positions


def _embed_one(
    graph: MolGraph,
    mol: Chem.Mol,
    seed: int,
    place: str,
    max_seconds: float,
    deadline: float,
    ladder: tuple[_Rung, ...],
) -> Float[np.ndarray, "atoms 3"]:
    failures: list[str] = []
    for number, rung in enumerate(ladder):
        remaining = deadline - monotonic()
        if remaining <= 0:
            failures.append("time cap reached")
            break
        is_last = number == len(ladder) - 1
        rung_deadline = deadline if is_last else monotonic() + remaining / 2
        positions, failure = _climb(graph, mol, rung, seed, rung_deadline)
        if positions is not None:
            return positions
        failures.append(f"{rung.name}: {failure}")
    raise EmbeddingError(
        f"no start geometry {place} found for {canonical_smiles(graph)!r} within {max_seconds:g} s "
        f"({'; '.join(failures)}); check the requested stereochemistry, or increase max_seconds"
    )


def _climb(
    graph: MolGraph, mol: Chem.Mol, rung: _Rung, seed: int, deadline: float
) -> tuple[Float[np.ndarray, "atoms 3"] | None, str]:
    """Positions, or None and the reason for the failure."""
    failure = "time cap reached"
    for attempt in range(_ATTEMPTS):
        remaining = deadline - monotonic()
        if attempt and remaining <= 0:
            break
        parameters = _parameters(rung, 1 + (seed + attempt * _ATTEMPT_STRIDE) % _N_RDKIT_SEEDS, remaining)
        try:
            with rdBase.BlockLogs():
                found = rdDistGeom.EmbedMolecule(mol, parameters) >= 0
        except RuntimeError:  # RDKit's line search violates an invariant, for cyclopentane with torsions of small rings
            return None, "minimisation failed in RDKit"
        if not found:
            return None, _most_frequent_failures(parameters)
        positions = _with_bonds(graph, mol.GetConformer().GetPositions())
        failure = _defect(graph, positions)
        if not failure:
            return positions, ""
    return None, failure


def _parameters(rung: _Rung, seed: int, max_seconds: float) -> rdDistGeom.EmbedParameters:
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed
    parameters.numThreads = 1
    parameters.trackFailures = True
    parameters.maxIterations = rung.iterations
    parameters.timeout = max(1, math.floor(min(max_seconds, _LONGEST)))
    for name, value in rung.options.items():
        setattr(parameters, name, value)
    return parameters


def _with_bonds(graph: MolGraph, positions: Float[np.ndarray, "atoms 3"]) -> Float[np.ndarray, "atoms 3"]:
    """The geometry, relaxed with MMFF94 if non-bonded atoms are too close, as in small cages."""
    if bonds_intact(graph, positions).intact:
        return positions
    try:
        return mmff94_minimize(graph, positions).positions
    except MissingParametersError:
        return positions


def _defect(graph: MolGraph, positions: Float[np.ndarray, "atoms 3"]) -> str:
    """Description of the defect of a geometry; empty if there is none."""
    if not bonds_intact(graph, positions).intact:
        return "bonds broken or formed"
    return "" if stereo_intact(graph, positions).intact else "wrong stereochemistry"


def _most_frequent_failures(parameters: rdDistGeom.EmbedParameters) -> str:
    counts = list(parameters.GetFailureCounts())
    names = {int(cause): name.lower() for name, cause in rdDistGeom.EmbedFailureCauses.names.items()}
    order = sorted(range(len(counts)), key=lambda cause: -counts[cause])
    return ", ".join(f"{counts[cause]} {names[cause]}" for cause in order[:3] if counts[cause]) or "no reason given"


def _parts(graph: MolGraph) -> list[Fragment]:
    """The molecule, or the molecules of a graph of several."""
    if graph.n_atoms == 0:
        raise EmptyStructureError("graph with 0 atoms; at least one is needed: pass a molecule")
    if n_fragments(graph) == 1:
        return [Fragment(graph, np.arange(graph.n_atoms))]
    return fragments_of(graph)
