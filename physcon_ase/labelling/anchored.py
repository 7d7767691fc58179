"""Anchored labels: minima of an accurate level combined with the curvature of a cheaper level, the teacher.

For many molecules only the minimum x₀ and its energy are known at an accurate level. A cheaper teacher level T provides
the change of the energy around it; the label at a displaced geometry x is

    E(x) = E(x₀) + E_T(x) - E_T(x₀) - C(x),    F(x) = F_T(x) + ∂C/∂x,

with a correction C that vanishes at x₀ and has the gradient -F_T(x₀) there, so that the anchored force at x₀ is zero.
C is linear in bond lengths, angles and torsions, C = Σ_q c_q (q(x) - q(x₀)), so that corrections of internal
coordinates rotate with the molecule. c is the solution of Bᵀc = -F_T(x₀), B = ∂q/∂x, that minimises Σ c²/k, where k is
the force constant of each coordinate in the model Hessian; components that internal coordinates cannot represent (bends
of linear chains) are linear in x.

Mean absolute errors with GFN2-xTB as teacher and AIMNet2 as the accurate level for 30 drug-like molecules, without
correction, with a correction linear in x, and with this correction: geometries twisted by 5 to 40°, forces 131, 31 and
22 meV/Å, energies 34, 76 and 35 meV; thermal displacements up to 600 K, forces 159, 80 and 80 meV/Å, energies 68, 74
and 81 meV.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from physcon_ase.batch import Batch, in_chunks, make_batch, unpad
from physcon_ase.chem.graph import MolGraph
from physcon_ase.data.store import (
    LevelLabels,
    Store,
    geometry_offsets,
    molecule_graph,
    open_store,
    select_geometries,
    write_store,
)
from physcon_ase.errors import LabelError, StoreError
from physcon_ase.valence.internals import (
    LINEAR_SINE,
    Internals,
    bend_vectors,
    internal_values,
    make_internals,
    pick,
    stretch_vectors,
    torsion_vectors,
)
from physcon_ase.valence.model_hessian import model_hessians, newton_steps, stiffnesses

_SLOTS: Final = 1024
"""Number of slots per batch of minima."""

_UNIT_TERM: Final = 1e-3
"""Multiple [eV/Å²] of the unit matrix that makes the model Hessian positive definite."""

_LARGEST_CORRECTION: Final = 10.0
"""Largest component [eV/Å] of the force correction; displacements with larger ones are left out."""


@dataclass(frozen=True)
class AnchorReport:
    """Counts of one anchoring."""

    n_minima: int
    """Number of minima with labels of the teacher."""
    n_displaced: int
    """Number of labelled displacements."""
    left_out: dict[str, int]
    """Number of geometries left out, by reason."""


@dataclass(frozen=True)
class _Correction:
    """Correction C for a batch of minima."""

    internals: Internals
    coefficients: tuple[Tensor, Tensor, Tensor]
    """Coefficients c of stretches [eV/Å], bends and torsions [eV/rad], each [molecules, internals]."""
    rest: Float[Tensor, "molecules slots 3"]
    """Gradient [eV/Å] of the part that is linear in x."""


def anchor(store: Store, level: str, teacher: str) -> tuple[Store, AnchorReport]:
    """Store with anchored labels of `level` for its minima of this level and for geometries displaced from them.

    Energies are NaN if the energy of the minimum is unknown. All other geometries are left out and counted.

    Args:
        store: a store written by `physcon label STORE --minima-of LEVEL --geometries start,...`: minima of the level
            and displacements of them, all with labels of the teacher.
        level: level of theory of the minima.
        teacher: level of theory of the curvature; its labels are kept.

    Raises:
        LabelError: the store has no forces of the teacher, or no displaced minima of the level.
    """
    labels = store.labels.get(teacher)
    if labels is None or labels.forces is None:
        raise LabelError(f"{store.source} has no forces of {teacher!r}; levels with labels: {', '.join(store.labels)}")
    is_labelled = np.isfinite(labels.forces[geometry_offsets(store)[:-1], 0])
    minima = np.flatnonzero((store.geometries.minimum_of == level) & is_labelled)
    if not len(minima) or store.geometries.start is None:
        found = ", ".join(sorted(set(store.geometries.minimum_of.tolist()) - {""})) or "none"
        raise LabelError(
            f"{store.source} has no minima of {level!r} with displacements, but minima of: {found}; create them with "
            f"`physcon label STORE --minima-of {level} --geometries start,thermal:1`"
        )
    displaced = np.flatnonzero(np.isin(store.geometries.start, minima) & is_labelled)
    energies, forces, is_near = _anchored_labels(store, level, (labels.energy, labels.forces), minima, displaced)
    kept = np.sort(np.concatenate([minima, displaced[is_near]]))
    left_out = {
        "not displaced from a minimum of the level, or without label": len(store.geometries)
        - len(minima)
        - len(displaced),
        f"corrected by more than {_LARGEST_CORRECTION:g} eV/Å": int((~is_near).sum()),
    }
    anchored = replace(
        store,
        labels={**store.labels, level: LevelLabels(energies, forces)},
        source=f"{store.source}, anchored",
        provenance=f"anchored at {level}, curvature of {teacher}; {store.provenance}",
    )
    return select_geometries(anchored, kept), AnchorReport(len(minima), int(is_near.sum()), left_out)


def anchor_file(path: str | Path, output: str | Path, *, level: str, teacher: str) -> AnchorReport:
    """Applies `anchor` to a store file and writes the result to another file.

    Raises:
        StoreError: a store cannot be read or written, or input and output are the same.
        LabelError: see `anchor`.
    """
    if Path(output).resolve() == Path(path).resolve():
        raise StoreError(f"input and output are both {path}; choose another output")
    anchored, report = anchor(open_store(path), level, teacher)
    write_store(output, anchored)
    return report


def format_anchor_report(report: AnchorReport, source: str) -> str:
    """The report as text for the terminal."""
    lines = [f"{source}: {report.n_minima} minima, {report.n_displaced} displacements"]
    return "\n".join(lines + [f"  left out: {count} {reason}" for reason, count in report.left_out.items()])


def _anchored_labels(
    store: Store,
    level: str,
    of_teacher: tuple[Float[np.ndarray, " geometries"], Float[np.ndarray, "geometry_atoms 3"]],
    minima: Int[np.ndarray, " minima"],
    displaced: Int[np.ndarray, " displaced"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Energies and forces of all geometries (NaN if absent), and mask of displacements with small corrections."""
    offsets, known, (teacher_energies, teacher_forces) = geometry_offsets(store), store.labels.get(level), of_teacher
    n = len(store.geometries)
    energies = np.full(n, np.nan)
    if known is not None:
        energies[minima] = known.energy[minima]
    forces = np.full((int(offsets[-1]), 3), np.nan, dtype=np.float32)
    is_near = np.ones(n, dtype=bool)
    of_minimum: dict[int, list[int]] = {int(row): [] for row in minima}
    assert store.geometries.start is not None
    for row, start in zip(displaced.tolist(), store.geometries.start[displaced].tolist(), strict=True):
        of_minimum[start].append(row)
    graphs = {m: molecule_graph(store, m) for m in np.unique(store.geometries.molecule[minima]).tolist()}

    def atoms(row: int) -> slice:
        return slice(int(offsets[row]), int(offsets[row + 1]))

    def work(chosen: list[int]) -> None:
        rows = [int(minima[index]) for index in chosen]
        own = [graphs[int(store.geometries.molecule[row])] for row in rows]
        starts = _batch(own, [store.geometries.positions[atoms(row)] for row in rows])
        correction = _fit(starts, own, [teacher_forces[atoms(row)] for row in rows])
        for row in rows:
            forces[atoms(row)] = 0.0
        for turn in range(max((len(of_minimum[row]) for row in rows), default=0)):
            some = [index for index, row in enumerate(rows) if len(of_minimum[row]) > turn]
            moved = [of_minimum[rows[index]][turn] for index in some]
            places = [store.geometries.positions[atoms(row)] for row in moved]
            values, slopes = _correct(correction, starts, _batch([own[i] for i in some], places, starts), some)
            for index, row, value, slope in zip(some, moved, values, slopes, strict=True):
                is_near[row] = np.isfinite(slope).all() and np.abs(slope).max() <= _LARGEST_CORRECTION
                start = rows[index]
                energies[row] = energies[start] + teacher_energies[row] - teacher_energies[start] - value
                forces[atoms(row)] = teacher_forces[atoms(row)] + slope

    sizes = [graphs[int(store.geometries.molecule[row])].n_atoms for row in minima]
    if in_chunks(sizes, _SLOTS, work):
        raise MemoryError(f"not enough memory for a molecule of {max(sizes)} atoms")
    return energies, forces, is_near[displaced]


def _batch(graphs: Sequence[MolGraph], positions: Sequence[np.ndarray], like: Batch | None = None) -> Batch:
    n_slots = None if like is None else like.atomic_numbers.shape[1]
    numbers = [graph.atomic_numbers for graph in graphs]
    return make_batch(numbers, [own.astype(np.float64) for own in positions], n_slots=n_slots, dtype=torch.float64)


def _fit(starts: Batch, graphs: Sequence[MolGraph], forces: Sequence[np.ndarray]) -> _Correction:
    """Fits the correction to the forces [eV/Å] of the teacher at the minima."""
    internals = make_internals(starts, [graph.bonds if len(graph.bonds) else None for graph in graphs])
    slope = -_batch(graphs, forces, starts).positions
    hessians = model_hessians(starts, starts.positions, internals, unit_term=_UNIT_TERM)
    steps = newton_steps(slope, hessians)
    _, angles, _ = internal_values(starts.positions, internals)
    bends, _ = bend_vectors(starts.positions, internals.bends)
    bends = bends * (angles.sin() > LINEAR_SINE)[:, :, None, None]  # linear angles are not differentiable
    rest, coefficients = slope.clone(), []
    for atoms, vectors in (
        (internals.stretches, stretch_vectors(starts.positions, internals.stretches)),
        (internals.bends, bends),
        (internals.torsions, torsion_vectors(starts.positions, internals.torsions)),
    ):
        changes = (vectors * pick(steps, atoms)).sum(dim=(2, 3))
        coefficients.append(stiffnesses(starts.atomic_numbers, starts.positions, atoms) * changes)
        molecule = torch.arange(len(atoms))[:, None, None].expand(atoms.shape)
        rest.index_put_((molecule, atoms.clamp(min=0)), -coefficients[-1][:, :, None, None] * vectors, accumulate=True)
    return _Correction(internals, (coefficients[0], coefficients[1], coefficients[2]), rest)


def _correct(
    correction: _Correction, starts: Batch, moved: Batch, chosen: list[int]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Correction C [eV] and its gradient ∂C/∂x [eV/Å] at displacements of the chosen minima."""
    own = Internals(*(getattr(correction.internals, name)[chosen] for name in ("stretches", "bends", "torsions")))
    positions = moved.positions.requires_grad_()
    changes = [
        after - before
        for after, before in zip(
            internal_values(positions, own), internal_values(starts.positions[chosen], own), strict=True
        )
    ]
    changes[2] = torch.remainder(changes[2] + torch.pi, 2 * torch.pi) - torch.pi
    terms = [
        # where instead of a product, because 0 * NaN = NaN
        torch.where(c[chosen] != 0, c[chosen] * change, 0.0).sum(dim=1)
        for c, change in zip(correction.coefficients, changes, strict=True)
    ]
    values = sum(terms) + (correction.rest[chosen] * (positions - starts.positions[chosen])).sum(dim=(1, 2))
    (slopes,) = torch.autograd.grad(values.sum(), positions)
    return values.detach().numpy(), unpad(moved, slopes)
