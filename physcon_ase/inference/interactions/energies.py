"""Interaction energies of two or more molecules, and for two molecules the curve as a function of their distance."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from scipy.spatial.distance import cdist

from physcon_ase.chem.graph import MolGraph
from physcon_ase.errors import ConstraintError, FragmentsError, PhysConError
from physcon_ase.inference.calculator import PhysConCalculator
from physcon_ase.inference.embedding import MAX_SECONDS
from physcon_ase.inference.formats.rows import Geometry
from physcon_ase.inference.intake import above_zero, charge_and_multiplicity, check_structure
from physcon_ase.inference.interactions.interaction import DistanceCurve, Interaction
from physcon_ase.inference.interactions.parts import Part, parts_of
from physcon_ase.inference.one import optimize
from physcon_ase.inference.results import Result
from physcon_ase.model.coverage import AUTO, checked_level, level_for
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel, PhysCon, load_model
from physcon_ase.units import COULOMB_EV_ANGSTROM

LINES: Final = ("contact", "centres")
"""Lines of a distance curve: between the two closest atoms, or between the centres of the molecules."""

_STEPS: Final = np.concatenate([np.arange(-4, 10) * 0.1, np.arange(4, 12) * 0.25, np.arange(6, 17) * 0.5])
"""Default distances [Å] of a curve, relative to the distance in the complex."""

_SHORTEST: Final = 0.1
"""Shortest distance [Å] of two centres that defines a line."""

_FAR: Final = 50.0
"""Distance [Å] of neighbouring molecules at which only the Coulomb interaction of their partial charges remains."""

_REMAINDER: Final = 0.02
"""Largest acceptable energy [eV] between molecules 50 Å apart, beyond the Coulomb energy of their charges."""


def interaction(
    molecules: str | MolGraph | Atoms | Any | Sequence[str | MolGraph | Atoms | Any],
    *,
    relax: bool | None = None,
    level: str = AUTO,
    checkpoint: str | Path | LoadedModel = DEFAULT_CHECKPOINT,
    along: str = "contact",
    distances: Sequence[float] | None = None,
    fmax: float = 0.01,
    max_steps: int = 500,
    start: str | None = None,
    seed: int = 0,
    max_seconds: float = MAX_SECONDS,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float64,
) -> Interaction:
    """Interaction energy of two or more molecules: E(complex) minus the sum of the energies of the molecules.

    There is no counterpoise correction: the model reproduces the errors of its labels, including their basis set
    superposition error.

    Args:
        molecules: SMILES or graph of several fragments, a list of SMILES or graphs (relaxed from an arrangement in
            contact that depends on the seed: one of many minima), a complex as a geometry, whose molecules are found by
            their bonds, or a list of geometries, which stay where they are. RDKit molecules and rows of files are
            graphs or geometries. Not modified.
        relax: whether to relax the complex, and each molecule alone; by default only what has no geometry.
        level: level of theory; "auto" for the first of the checkpoint that covers the complex and each molecule.
        checkpoint: shipped name, folder or loaded model.
        along: line of the distance curve of two molecules: between their two closest atoms ("contact") or between
            their geometric centres ("centres"). The second molecule is displaced, and both are rigid.
        distances: distances [Å] of the curve; by default from 0.4 Å closer than in the complex to 8 Å farther.
        fmax: convergence threshold [eV/Å] of relaxations.
        max_steps: maximum number of steps of a relaxation.
        start: start geometry of SMILES and graphs, see `optimize`.
        seed: random seed of the arrangement.
        max_seconds: time limit [s] for the start geometry.
        device: device of the model; ignored for a loaded model.
        dtype: dtype of the model; ignored for a loaded model.

    Raises:
        FragmentsError: there is only one molecule.
        ConstraintError: a geometry that is to be relaxed has constraints.
        BondPerceptionError: no bonds were found in a complex; pass a list of geometries.
        PhysConError: other invalid input; see `errors` for the subclasses.
    """
    began = perf_counter()
    if along not in LINES:
        raise PhysConError(f"unknown line {along!r} of the distance curve; choose one of {', '.join(LINES)}")
    for distance in () if distances is None else distances:
        above_zero("distance [Å]", distance)
    whole, parts = parts_of(molecules)
    if len(parts) < 2:
        raise FragmentsError(f"{parts[0].name} is one molecule; an interaction energy needs two or more")
    placed = whole.atoms if isinstance(whole, Geometry) else whole
    if relax is False and isinstance(placed, MolGraph):
        raise PhysConError("relax=False requires geometries: omit it for SMILES and graphs, or pass ase.Atoms")
    loaded = checkpoint
    if not isinstance(loaded, LoadedModel):
        loaded = load_model(loaded, device=device, dtype=dtype)
    is_rigid = not relax and isinstance(placed, Atoms)
    geometries = [own for own in (placed, *(part.geometry for part in parts)) if isinstance(own, Atoms)]
    if not is_rigid and any(own.constraints for own in geometries):
        raise ConstraintError(
            "a geometry has constraints, which would hold the complex, but not its molecules alone: remove them "
            "(del atoms.constraints), or omit relax=True"
        )
    level = _common_level(checked_level(level, loaded.model), placed, parts, loaded.model)
    for part in parts:
        if part.geometry is not None:  # the complex has no multiplicity of its own
            check_structure(part.geometry, loaded.model, level)
    options: dict[str, Any] = {"checkpoint": loaded, "fmax": fmax, "seed": seed, "max_seconds": max_seconds}
    found = optimize(whole, level=level, start=start, max_steps=0 if is_rigid else max_steps, **options)
    calculator = PhysConCalculator(loaded, level=level)
    places = [_alone(found.atoms, part) for part in parts]
    rigid = [_with_energy(place, calculator) for place in places]
    relaxed = None
    if not is_rigid:
        relaxed = tuple(
            optimize(part.graph or place, level=level, start=part.graph and place, max_steps=max_steps, **options)
            for part, place in zip(parts, places, strict=True)
        )
    remainder = _remainder(found.atoms, rigid, parts, calculator)
    return Interaction(
        complex=found.atoms,
        molecules=tuple(rigid),
        atoms=tuple(tuple(part.atoms.tolist()) for part in parts),
        names=tuple(part.name for part in parts),
        relaxed=relaxed,
        relaxation=None if is_rigid else found,
        curve=_curve(found.atoms, rigid, parts, along, distances, calculator) if len(parts) == 2 else None,
        remainder=remainder,
        provenance=calculator.provenance,
        status=_status(remainder, found, relaxed),
        seconds=perf_counter() - began,
    )


def _common_level(level: str, whole: MolGraph | Atoms, parts: Sequence[Part], model: PhysCon) -> str:
    """The level of the complex and of all its molecules."""
    if isinstance(whole, Atoms):
        numbers, charge = whole.numbers, charge_and_multiplicity(whole)[0]
    else:
        numbers, charge = whole.atomic_numbers, whole.charge
    alone = [(numbers[part.atoms], part.charge) for part in parts]
    return level_for(level, [(numbers, charge), *alone], model)


def _alone(whole: Atoms, part: Part) -> Atoms:
    """One molecule of the complex in the geometry that it has there."""
    atoms = Atoms(whole.numbers[part.atoms], whole.positions[part.atoms], masses=whole.get_masses()[part.atoms])
    atoms.info["charge"] = part.charge
    return atoms


def _with_energy(atoms: Atoms, calculator: PhysConCalculator) -> Atoms:
    """Copy with energy and forces attached. Raises the errors of invalid structures."""
    (found,) = calculator.predict([atoms], on_error="raise")
    labelled = atoms.copy()
    labelled.calc = SinglePointCalculator(labelled, energy=found.energy, forces=found.forces)
    return labelled


def _curve(
    whole: Atoms,
    rigid: Sequence[Atoms],
    parts: Sequence[Part],
    along: str,
    distances: Sequence[float] | None,
    calculator: PhysConCalculator,
) -> DistanceCurve:
    """Energies [eV] of the complex with its second molecule displaced, relative to the molecules alone."""
    first, second = rigid
    ends = first.positions.mean(axis=0), second.positions.mean(axis=0)
    if along == "contact":
        separations = cdist(first.positions, second.positions)
        one, other = np.unravel_index(separations.argmin(), separations.shape)
        ends = first.positions[one], second.positions[other]
    line = ends[1] - ends[0]
    length = float(np.linalg.norm(line))
    if length < _SHORTEST:
        raise PhysConError(
            f"the centres of both molecules are {length:.3f} Å apart and define no line: use along='contact'"
        )
    places = length + _STEPS
    places = places[places > 0] if distances is None else np.array(distances, dtype=float)
    structures = []
    for distance in places:
        structures.append(whole.copy())
        structures[-1].positions[parts[1].atoms] += (distance - length) * line / length
    energies = [prediction.energy for prediction in calculator.predict(structures, ("energy",))]
    alone = first.get_potential_energy() + second.get_potential_energy()
    return DistanceCurve(along, places, np.array([np.nan if value is None else value - alone for value in energies]))


def _remainder(whole: Atoms, rigid: Sequence[Atoms], parts: Sequence[Part], calculator: PhysConCalculator) -> float:
    """`Interaction.remainder` [eV] of the molecules on a line, 50 Å apart."""
    apart = whole.copy()
    places = np.zeros((len(parts), 3))
    for number, (part, alone) in enumerate(zip(parts, rigid, strict=True)):
        if number:
            nearest = places[number - 1, 0] + np.ptp(rigid[number - 1].positions[:, 0]) / 2
            places[number, 0] = nearest + _FAR + np.ptp(alone.positions[:, 0]) / 2
        middle = (alone.positions.max(axis=0) + alone.positions.min(axis=0)) / 2
        apart.positions[part.atoms] += places[number] - middle
    found, *single = calculator.predict([apart, *rigid], ("energy",), on_error="raise")
    sites: list[tuple[np.ndarray, np.ndarray]] = [
        (np.array([part.charge]), place[None]) if own.charges is None else (own.charges, apart.positions[part.atoms])
        for part, own, place in zip(parts, single, places, strict=True)
    ]
    coulomb = COULOMB_EV_ANGSTROM * sum(
        float(charges @ (1 / cdist(ends, others)) @ further)
        for (charges, ends), (further, others) in combinations(sites, 2)
    )
    assert found.energy is not None
    return float(found.energy - coulomb - sum(atoms.get_potential_energy() for atoms in rigid))


def _status(remainder: float, relaxation: Result, relaxed: Sequence[Result] | None) -> str:
    if relaxed is None and False in (relaxation.bonds_intact, relaxation.stereo_intact):
        what = "bonds" if relaxation.bonds_intact is False else "configuration"
        return f"changed: the geometry does not have the {what} of the input; relax it, or correct the input"
    if abs(remainder) > _REMAINDER:
        return (
            f"the model leaves {remainder:.3f} eV between the molecules {_FAR:g} Å apart: compare with another level "
            "or method"
        )
    if relaxed is None:
        doubts = list(relaxation.doubts)
        if relaxation.start != Geometry.origin:
            doubts.insert(0, f"{relaxation.start}, and their positions affect the energy: relax the complex")
        return f"uncertain: {'; '.join(doubts)}" if doubts else "ok"
    if not relaxation.is_ok:
        return f"complex: {relaxation.status}"
    for result in relaxed:
        if not result.is_ok:
            return f"{result.smiles or result.atoms.get_chemical_formula()}: {result.status}"
    return "ok"
