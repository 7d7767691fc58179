"""Anchored labels: minima of an accurate level combined with the curvature of a cheaper level, the teacher.

For many molecules only the minimum x₀ and its energy are known at an accurate level. A cheaper teacher level T provides
the change of the energy around it. Bond lengths and angles of the two levels differ, and force constants depend on
them, so the curvature of the teacher is taken around its own minimum: a label at x comes from the teacher at the
geometry φ(x) whose bond lengths, angles and torsions q are shifted by δ,

    q(φ(x)) = q(x) + δ,    δ = q(x₁) - q(x₀),
    E(x) = E(x₀) + E_T(φ(x)) - E_T(x₁) - C(φ(x)),    F(x) = -∂E/∂x,

x₁ being x₀ after a Newton step of the teacher (kind "newton" of `physcon label`). The correction C vanishes at x₁ and
cancels the forces F_T(x₁) there (`labelling.correction`), so that the anchored force at x₀ is zero.

The teacher's labels are given, so that x follows from φ(x): q is redundant, and x minimises Σ k (q(x) + δ - q(φ))².
With K = diag(k), the force is F = B(x)ᵀ c', c' = K B H⁻¹ F' at φ with H = Bᵀ K B and F' = F_T + ∂C/∂φ.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from physcon_ase.batch import Batch, in_chunks, unpad
from physcon_ase.data.store import (
    LevelLabels,
    Store,
    check_other_file,
    geometry_offsets,
    molecule_graph,
    open_store,
    select_geometries,
    write_store,
)
from physcon_ase.errors import LabelError
from physcon_ase.labelling.correction import LARGEST_CORRECTION, Correction, changes, correction_at, float64_batch
from physcon_ase.labelling.derived import DerivedReport, minima_in, teacher_labels
from physcon_ase.labelling.geometries import NewtonStep
from physcon_ase.valence.internals import internal_values
from physcon_ase.valence.model_hessian import (
    SMALL_UNIT_TERM,
    internal_gradient,
    model_hessians,
    newton_steps,
    stiffnesses,
)

_SLOTS: Final = 1024
"""Number of slots per batch of minima."""

_SHIFT_STEPS: Final = 3
"""Number of Gauss-Newton steps for the geometry with shifted internal coordinates."""

_LARGEST_SHIFT: Final = 1.0
"""Largest distance [Å] between an atom of the anchored geometry x and of φ(x); it is larger only where the Gauss-Newton
steps diverge, and such displacements are left out."""


def anchor(store: Store, level: str, teacher: str) -> tuple[Store, DerivedReport]:
    """Store with anchored labels of `level` for its minima of this level and for geometries displaced from them.

    Energies are NaN if the energy of the minimum is unknown. All other geometries are left out and counted.

    Args:
        store: a store written by `physcon label STORE --minima-of LEVEL --geometries start,newton,...`: minima of the
            level, their Newton steps and displacements, all with labels of the teacher.
        level: level of theory of the minima.
        teacher: level of theory of the curvature. The displaced geometries of the result are not those of the store,
            so that it has no labels of the teacher.

    Raises:
        LabelError: the store has no forces of the teacher, or no displaced minima of the level.
    """
    known = teacher_labels(store, level, teacher)
    is_newton = store.geometries.kind[known.displaced] == NewtonStep.kind
    newton = dict(zip(known.starts[is_newton].tolist(), known.displaced[is_newton].tolist(), strict=True))
    if not newton:
        raise LabelError(
            f"{store.source} has no minima of {level!r} with a Newton step, but minima of: {minima_in(store)}; create "
            f"them with `physcon label STORE --minima-of {level} --geometries start,newton,thermal:1`"
        )
    minima = np.array(sorted(newton))
    displaced = known.displaced[~is_newton & np.isin(known.starts, minima)]
    found = _anchored_labels(store, level, known.labels, newton, displaced)
    is_kept = ~(found.is_far | found.is_lost)
    kept = np.sort(np.concatenate([minima, displaced[is_kept]]))
    left_out = {
        "not displaced from a minimum of the level, or without label": len(store.geometries)
        - len(minima)
        - len(newton)
        - len(displaced),
        f"corrected by more than {LARGEST_CORRECTION:g} eV/Å": int((found.is_far & ~found.is_lost).sum()),
        f"shifted by more than {_LARGEST_SHIFT:g} Å": int(found.is_lost.sum()),
    }
    anchored = replace(
        store,
        geometries=replace(store.geometries, positions=found.positions),
        labels={level: found.labels},
        source=f"{store.source}, anchored",
        provenance=f"anchored at {level}, curvature of {teacher}; {store.provenance}",
    )
    return select_geometries(anchored, kept), DerivedReport(len(minima), int(is_kept.sum()), left_out)


def anchor_file(path: str | Path, output: str | Path, *, level: str, teacher: str) -> DerivedReport:
    """Applies `anchor` to a store file and writes the result to another file.

    Raises:
        StoreError: a store cannot be read or written, or input and output are the same.
        LabelError: see `anchor`.
    """
    check_other_file(output, [path])
    anchored, report = anchor(open_store(path), level, teacher)
    write_store(output, anchored)
    return report


@dataclass(frozen=True)
class _Anchored:
    """Positions and labels of all geometries of a store, and which displacements are unusable."""

    positions: Float[np.ndarray, "geometry_atoms 3"]
    """Positions [Å]."""
    labels: LevelLabels
    """Anchored labels; NaN if absent."""
    is_far: Bool[np.ndarray, " displaced"]
    """Whether the correction of a displacement is too large."""
    is_lost: Bool[np.ndarray, " displaced"]
    """Whether its shifted internal coordinates were not found."""


def _anchored_labels(
    store: Store,
    level: str,
    of_teacher: LevelLabels,
    newton: dict[int, int],
    displaced: Int[np.ndarray, " displaced"],
) -> _Anchored:
    """Anchors all displacements.

    Args:
        store: the store.
        level: level of theory of the minima.
        of_teacher: labels of the teacher.
        newton: row of the Newton step of each minimum by row of the minimum.
        displaced: rows of the displacements.
    """
    offsets, known, teacher_forces = geometry_offsets(store), store.labels.get(level), of_teacher.forces
    assert teacher_forces is not None
    positions, n, minima = store.geometries.positions.copy(), len(store.geometries), list(newton)
    energies = np.full(n, np.nan)
    if known is not None:
        energies[minima] = known.energy[minima]
    forces = np.full((int(offsets[-1]), 3), np.nan, dtype=np.float32)
    is_far, is_lost = np.zeros((2, n), dtype=bool)
    of_minimum: dict[int, list[int]] = {row: [] for row in minima}
    assert store.geometries.start is not None
    for row, start in zip(displaced.tolist(), store.geometries.start[displaced].tolist(), strict=True):
        of_minimum[start].append(row)
    graphs = {m: molecule_graph(store, m) for m in np.unique(store.geometries.molecule[minima]).tolist()}

    def atoms(row: int) -> slice:
        return slice(int(offsets[row]), int(offsets[row + 1]))

    def work(chosen: list[int]) -> None:
        rows = [minima[index] for index in chosen]
        own = [graphs[int(store.geometries.molecule[row])] for row in rows]
        levels, teachers = (
            float64_batch(own, [store.geometries.positions[atoms(row)] for row in some])
            for some in (rows, [newton[row] for row in rows])
        )
        n_slots = levels.atomic_numbers.shape[1]
        pulls = float64_batch(own, [teacher_forces[atoms(newton[row])] for row in rows]).positions
        correction = correction_at(teachers, own, pulls)
        shifts = changes(levels.positions, teachers.positions, correction.internals)
        for row in rows:
            forces[atoms(row)] = 0.0
        for turn in range(max((len(of_minimum[row]) for row in rows), default=0)):
            some = [index for index, row in enumerate(rows) if len(of_minimum[row]) > turn]
            moved = [of_minimum[rows[index]][turn] for index in some]
            graphs_of = [own[index] for index in some]
            places = float64_batch(graphs_of, [store.geometries.positions[atoms(row)] for row in moved], n_slots)
            pulls = float64_batch(graphs_of, [teacher_forces[atoms(row)] for row in moved], n_slots).positions
            s, b, t = shifts
            found = _anchored(correction.chosen(some), (s[some], b[some], t[some]), places, pulls)
            for index, row, value, slope, place, force in zip(some, moved, *found, strict=True):
                start = rows[index]
                is_far[row] = not np.isfinite(force).all() or np.abs(slope).max() > LARGEST_CORRECTION
                distances = np.linalg.norm(place - positions[atoms(row)], axis=1)
                is_lost[row] = not distances.max() <= _LARGEST_SHIFT  # NaN, too
                energies[row] = energies[start] + of_teacher.energy[row] - of_teacher.energy[newton[start]] - value
                positions[atoms(row)], forces[atoms(row)] = place, force

    sizes = [graphs[int(store.geometries.molecule[row])].n_atoms for row in minima]
    for error in in_chunks(sizes, _SLOTS, work).values():
        raise error
    return _Anchored(positions, LevelLabels(energies, forces), is_far[displaced], is_lost[displaced])


def _anchored(
    correction: Correction,
    shifts: tuple[Tensor, Tensor, Tensor],
    moved: Batch,
    forces: Float[Tensor, "molecules slots 3"],
) -> tuple[list[float], list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Anchored labels at displacements φ of the teacher.

    Args:
        correction: the correction C.
        shifts: δ of stretches [Å], bends and torsions [rad], each [molecules, internals].
        moved: the displacements φ.
        forces: forces [eV/Å] of the teacher there.

    Returns:
        Corrections C [eV], their gradients ∂C/∂φ [eV/Å], the positions x [Å] and the forces F(x) [eV/Å].
    """
    internals = correction.internals
    values, slopes = correction(moved.positions)
    coefficients, rest = internal_gradient(moved, internals, forces + slopes)
    weights = tuple(
        # coordinates without a component of the force may not be differentiable
        torch.where(c != 0, stiffnesses(moved.atomic_numbers, moved.positions, atoms), 0.0)
        for c, atoms in zip(coefficients, (internals.stretches, internals.bends, internals.torsions), strict=True)
    )
    positions = moved.positions.detach()
    for _ in range(_SHIFT_STEPS):
        place = positions.detach().requires_grad_()
        parts = zip(weights, changes(place, moved.positions, internals), shifts, strict=True)
        strains = [torch.where(k != 0, k * (change - shift) ** 2, 0.0).sum() / 2 for k, change, shift in parts]
        (gradient,) = torch.autograd.grad(torch.stack(strains).sum(), place)
        # the Hessian at these positions: with that at others, a rotation would be a long step
        hessians = model_hessians(moved, positions, internals, unit_term=SMALL_UNIT_TERM)
        positions = positions - newton_steps(gradient, hessians)
    place = positions.detach().requires_grad_()
    values_of = zip(coefficients, internal_values(place, internals), strict=True)
    works = [torch.where(c != 0, c * value, 0.0).sum() for c, value in values_of]
    (anchored,) = torch.autograd.grad(torch.stack(works).sum(), place)
    return values.tolist(), unpad(moved, slopes), unpad(moved, positions), unpad(moved, anchored + rest)
