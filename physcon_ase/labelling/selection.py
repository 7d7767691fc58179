"""Selection of geometries to be labelled by the disagreement of a committee of models (query by committee)."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Integer

from physcon_ase.errors import PhysConError
from physcon_ase.labelling.engines import (
    Engine,
    EngineFunction,
    EngineLabel,
    EngineRecord,
    Molecule,
    force_disagreement,
    record_as_dict,
)
from physcon_ase.plurals import counted


@dataclass(frozen=True)
class CommitteeSelection:
    """Selection of the sampled geometries with the largest disagreement of a committee."""

    n: int
    """Number of geometries to be labelled."""
    committee: tuple[Engine, ...]
    """At least two engines with comparable forces, e.g. checkpoints trained on the same level."""
    per_molecule: int | None = None
    """Maximum number of geometries per molecule; by default no limit."""


@dataclass(frozen=True)
class Disagreement:
    """Statistics of the committee disagreement on the candidates."""

    n_candidates: int
    """Number of candidates evaluated by all members of the committee."""
    median: float
    """Median disagreement [eV/Å] of the candidates."""
    smallest_chosen: float
    """Smallest disagreement [eV/Å] of the selected candidates."""
    largest: float
    """Largest disagreement [eV/Å]."""


def committee_engine(committee: Sequence[Engine]) -> Engine:
    """Engine that returns the disagreement [eV/Å] of a committee as "energy" and its mean forces [eV/Å].

    Candidates can thus be evaluated in the same way as geometries are labelled: in parallel and resumable.
    """
    record = EngineRecord(
        "disagreement", "committee", "", {"members": [record_as_dict(engine.record) for engine in committee]}
    )
    return Engine(record, functools.partial(_judge, committee=tuple(committee)))


def _judge(molecule: Molecule, *, committee: tuple[EngineFunction, ...]) -> EngineLabel:
    forces = np.stack([engine(molecule).forces for engine in committee])
    return EngineLabel(force_disagreement(forces), forces.mean(axis=0))


def most_disputed(
    scores: Float[np.ndarray, " candidates"],
    molecules: Integer[np.ndarray, " candidates"],
    n: int,
    *,
    per_molecule: int | None = None,
) -> Int[np.ndarray, " chosen"]:
    """Indices of the candidates with the highest scores, in descending order.

    Args:
        scores: disagreement on each candidate.
        molecules: index of the molecule of each candidate.
        n: number of candidates to select.
        per_molecule: maximum number of candidates per molecule.
    """
    taken: dict[int, int] = {}
    chosen: list[int] = []
    for index in np.argsort(-scores, kind="stable").tolist():
        if len(chosen) == n:
            break
        molecule = int(molecules[index])
        if per_molecule is None or taken.get(molecule, 0) < per_molecule:
            chosen.append(index)
            taken[molecule] = taken.get(molecule, 0) + 1
    return np.array(chosen, dtype=np.int64)


def check_selection(selection: CommitteeSelection) -> None:
    """Checks the settings of a selection.

    Raises:
        PhysConError: fewer than two committee members, or a number below 1.
    """
    if len(selection.committee) < 2:
        raise PhysConError(f"the committee has {counted(len(selection.committee), 'member')}; give at least two")
    for name, number in (("select", selection.n), ("per_molecule", selection.per_molecule)):
        if number is not None and number < 1:
            raise PhysConError(f"{name} is {number}; it must be 1 or larger")
