"""Which of many candidate geometries deserve a label: those on which several models disagree most."""

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


@dataclass(frozen=True)
class Selection:
    """Choice of those sampled geometries on which a committee disagrees most."""

    n: int
    """Geometries to be labelled."""
    committee: tuple[Engine, ...]
    """At least two: checkpoints of one kind, or levels whose forces are comparable."""
    per_molecule: int | None = None
    """At most so many of one molecule, so that an odd one does not take all."""


@dataclass(frozen=True)
class Disagreement:
    """What a committee said of the candidates; all but the first in eV/Å."""

    n_candidates: int
    """Candidates that the whole committee could judge."""
    median: float
    """Disagreement on the candidate in the middle."""
    smallest_chosen: float
    """Smallest disagreement on a chosen one."""
    largest: float
    """Largest disagreement."""


def committee_engine(committee: Sequence[Engine]) -> Engine:
    """An engine whose "energy" is the disagreement [eV/Å] of others, and whose forces are their mean [eV/Å].

    Candidates are so judged by the same resumable work in many processes that labels them.
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
    """Indices of the candidates with the highest scores, the highest first.

    Args:
        scores: disagreement on each candidate.
        molecules: molecule of each candidate.
        n: number of candidates to choose.
        per_molecule: at most so many of one molecule.
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


def check_selection(selection: Selection) -> None:
    """Refuses a selection that chooses nothing.

    Raises:
        PhysConError: says what is wrong.
    """
    if len(selection.committee) < 2:
        raise PhysConError(f"a committee of {len(selection.committee)} cannot disagree; give at least two models")
    for name, number in (("select", selection.n), ("per_molecule", selection.per_molecule)):
        if number is not None and number < 1:
            raise PhysConError(f"{name} is {number}; allowed are 1 and larger")
