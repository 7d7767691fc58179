"""Which of many candidate geometries deserve a label: those on which several models disagree most."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Integer

from physcon_ase.errors import EngineError, PhysConError
from physcon_ase.labelling.engines import EngineFunction


def force_disagreement(
    models: Sequence[EngineFunction],
    atomic_numbers: Integer[np.ndarray, " atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    charge: int = 0,
    multiplicity: int = 1,
) -> float:
    """Largest spread of the force on any atom [eV/Å]: max_i sqrt(mean_m |F_mi - mean_m F_mi|²).

    Models are checkpoints of one kind, or levels whose forces are comparable.

    Raises:
        EngineError: a model refuses the geometry.
        PhysConError: fewer than two models.
    """
    if len(models) < 2:
        raise PhysConError(f"{len(models)} models cannot disagree; give at least two")
    forces = np.stack([model(atomic_numbers, positions, charge, multiplicity).forces for model in models])
    spread = ((forces - forces.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0)  # (atoms,)
    return float(np.sqrt(spread.max(initial=0.0)))


def select_disputed(
    models: Sequence[EngineFunction],
    candidates: Sequence[tuple[np.ndarray, np.ndarray]],
    n: int,
    *,
    per_group: int | None = None,
    groups: Sequence[int] | None = None,
) -> Int[np.ndarray, " chosen"]:
    """Indices of the candidates on which the models disagree most, most disputed first.

    Args:
        models: at least two.
        candidates: atomic numbers and positions [Å] of neutral closed-shell geometries; those that a model refuses are
            never chosen.
        n: number of candidates to choose.
        per_group: at most so many of one group, so that one odd molecule does not take all.
        groups: group of each candidate, for instance its molecule.

    Raises:
        PhysConError: fewer than two models, or `per_group` without `groups`.
    """
    if per_group is not None and groups is None:
        raise PhysConError("per_group needs groups: say which molecule each candidate belongs to")
    scores = np.array([_score(models, numbers, positions) for numbers, positions in candidates])
    taken: dict[int, int] = {}
    chosen: list[int] = []
    for index in np.argsort(-scores, kind="stable").tolist():
        group = index if groups is None else groups[index]
        is_full = per_group is not None and taken.get(group, 0) >= per_group
        if len(chosen) == n or np.isneginf(scores[index]):
            break
        if not is_full:
            chosen.append(index)
            taken[group] = taken.get(group, 0) + 1
    return np.array(chosen, dtype=np.int64)


def _score(models: Sequence[EngineFunction], numbers: np.ndarray, positions: np.ndarray) -> float:
    try:
        return force_disagreement(models, numbers, positions)
    except EngineError:
        return -np.inf
