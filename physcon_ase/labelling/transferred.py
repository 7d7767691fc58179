"""Transferred labels: minima of an accurate level, and residuals of a model at a cheaper level, the teacher.

Errors of a model M at two levels at the same geometry are correlated. Where only the teacher level T has been
calculated, its residual therefore improves the prediction of the accurate level L, like a control variate:

    E'(x) = E_M^L(x) + w (E_T(x) - E_M^T(x)).

The error of E' at a minimum x₀ of L is known, because forces vanish there, and much of it is the same at displaced
geometries. The labels are

    E(x) = E_L(x₀) + E'(x) - E'(x₀) - w C(x),    F(x) = -∂E/∂x,

with the correction C that cancels the forces F'(x₀) (`labelling.correction`). Full residuals and corrections (w = 1)
would add their own errors to the labels; those of w = 1/2 are the smallest on held-out molecules
(`benchmarks/transferred.py`).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from physcon_ase.batch import in_chunks, make_batch, unpad
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
from physcon_ase.labelling.correction import LARGEST_CORRECTION, correction_at, float64_batch
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import LoadedModel, load_model
from physcon_ase.plurals import counted

WEIGHT: Final = 0.5
"""Weight w of the residuals and of the correction."""

_SLOTS: Final = 1024
"""Number of slots per batch."""


@dataclass(frozen=True)
class TransferReport:
    """Counts of one transfer."""

    n_minima: int
    """Number of minima."""
    n_displaced: int
    """Number of labelled displacements."""
    left_out: dict[str, int]
    """Number of geometries left out, by reason."""


def transfer(store: Store, level: str, teacher: str, loaded: LoadedModel) -> tuple[Store, TransferReport]:
    """Store with labels of `level` for its minima of this level and for geometries displaced from them.

    Energies are NaN if the energy of the minimum is unknown. All other geometries are left out and counted.

    Args:
        store: a store written by `physcon label STORE --minima-of LEVEL --geometries start,...`: minima of the level
            and displacements, all with labels of the teacher.
        level: level of theory of the minima.
        teacher: level of theory of the labels.
        loaded: a model of both levels.

    Raises:
        LabelError: the store has no forces of the teacher, or no displaced minima of the level.
        UnknownLevelError: the model lacks a level.
    """
    covers = [loaded.model.level(name) for name in (level, teacher)]
    labels = store.labels.get(teacher)
    if labels is None or labels.forces is None:
        raise LabelError(f"{store.source} has no forces of {teacher!r}; levels with labels: {', '.join(store.labels)}")
    geometries, offsets = store.geometries, geometry_offsets(store)
    graphs = [molecule_graph(store, row) for row in range(len(store.molecules))]
    is_covered = np.array(
        [
            all(g.charge in own.charges and set(g.atomic_numbers.tolist()) <= set(own.elements) for own in covers)
            for g in graphs
        ]
    )[geometries.molecule]
    is_usable = np.isfinite(labels.forces[offsets[:-1], 0]) & is_covered
    minima = np.flatnonzero((geometries.minimum_of == level) & is_usable)
    starts = np.full(len(geometries), -1) if geometries.start is None else geometries.start
    displaced = np.flatnonzero(np.isin(starts, minima) & is_usable)
    if not len(displaced):
        found = ", ".join(sorted(set(geometries.minimum_of.tolist()) - {""})) or "none"
        raise LabelError(
            f"{store.source} has no displaced minima of {level!r} that the model covers, but minima of: {found}; "
            f"create them with `physcon label STORE --minima-of {level} --geometries start,thermal:1`"
        )
    rows = np.concatenate([minima, displaced])
    predicted = _predicted(store, rows, labels, loaded, (level, teacher))
    found, is_far = _corrected(store, level, predicted, minima, displaced)
    kept = np.sort(np.concatenate([minima, displaced[~is_far]]))
    left_out = {
        "not covered by the model": int((~is_covered).sum()),
        "not displaced from a minimum of the level, or without label": len(geometries)
        - len(rows)
        - int((~is_covered).sum()),
        f"corrected by more than {LARGEST_CORRECTION:g} eV/Å": int(is_far.sum()),
    }
    transferred = replace(
        store,
        labels={level: found},
        source=f"{store.source}, transferred",
        provenance=f"transferred to {level} from {teacher} with {loaded.name} {loaded.revision}; {store.provenance}",
    )
    return select_geometries(transferred, kept), TransferReport(len(minima), int((~is_far).sum()), left_out)


def transfer_file(
    path: str | Path, output: str | Path, *, level: str, teacher: str, checkpoint: str | Path
) -> TransferReport:
    """Applies `transfer` with the model of a checkpoint to a store file and writes the result to another file.

    Raises:
        StoreError: a store cannot be read or written, or input and output are the same.
        CheckpointNotFoundError, CorruptCheckpointError, CheckpointVersionError: see `load_model`.
        LabelError, UnknownLevelError: see `transfer`.
    """
    check_other_file(output, [path])
    transferred, report = transfer(open_store(path), level, teacher, load_model(checkpoint))
    write_store(output, transferred)
    return report


def format_transfer_report(report: TransferReport, source: str) -> str:
    """The report as text for the terminal."""
    lines = [
        f"{source}: {counted(report.n_minima, 'minimum', 'minima')}, {counted(report.n_displaced, 'displacement')}"
    ]
    return "\n".join(lines + [f"  left out: {count} {reason}" for reason, count in report.left_out.items()])


def _predicted(
    store: Store, rows: Int[np.ndarray, " chosen"], labels: LevelLabels, loaded: LoadedModel, levels: tuple[str, str]
) -> tuple[Float[np.ndarray, " geometries"], Float[np.ndarray, "geometry_atoms 3"]]:
    """E' [eV] and F' [eV/Å] of some geometries, NaN for the others.

    Args:
        store: the store.
        rows: the geometries.
        labels: those of the teacher.
        loaded: the model.
        levels: the accurate level and the teacher.
    """
    offsets = geometry_offsets(store)
    assert labels.forces is not None
    dtype = next(loaded.model.parameters()).dtype
    energies, forces = np.full(len(store.geometries), np.nan), np.full(labels.forces.shape, np.nan)
    graphs = {m: molecule_graph(store, m) for m in np.unique(store.geometries.molecule[rows]).tolist()}

    def work(chosen: list[int]) -> None:
        own = rows[chosen].tolist()
        atoms = [slice(int(offsets[row]), int(offsets[row + 1])) for row in own]
        of = [graphs[int(store.geometries.molecule[row])] for row in own]
        batch = make_batch(
            [graph.atomic_numbers for graph in of],
            [store.geometries.positions[own] for own in atoms],
            charges=[graph.charge for graph in of],
            dtype=dtype,
        )
        (level_energies, level_forces), (teacher_energies, teacher_forces) = (
            energies_and_forces(loaded.model.energy_fn(name), batch) for name in levels
        )
        energies[own] = level_energies.numpy() + WEIGHT * (labels.energy[own] - teacher_energies.numpy())
        for place, level_force, teacher_force in zip(
            atoms, unpad(batch, level_forces), unpad(batch, teacher_forces), strict=True
        ):
            forces[place] = level_force + WEIGHT * (labels.forces[place] - teacher_force)

    sizes = store.molecules.n_atoms[store.geometries.molecule[rows]].tolist()
    for error in in_chunks(sizes, _SLOTS, work).values():
        raise error
    return energies, forces


def _corrected(
    store: Store,
    level: str,
    predicted: tuple[Float[np.ndarray, " geometries"], Float[np.ndarray, "geometry_atoms 3"]],
    minima: Int[np.ndarray, " minima"],
    displaced: Int[np.ndarray, " displaced"],
) -> tuple[LevelLabels, np.ndarray]:
    """Labels of the minima and of their displacements, and which displacements are corrected too much.

    Args:
        store: the store.
        level: level of theory of the minima.
        predicted: E' [eV] and F' [eV/Å].
        minima: rows of the minima.
        displaced: rows of the displacements.
    """
    offsets, known, (energies, forces) = geometry_offsets(store), store.labels.get(level), predicted
    found = np.full(len(energies), np.nan)
    slopes = np.full(forces.shape, np.nan, dtype=np.float32)
    assert store.geometries.start is not None
    starts = store.geometries.start[displaced]
    if known is not None:
        found[minima] = known.energy[minima]
    is_far = np.zeros(len(displaced), dtype=bool)
    graphs = {m: molecule_graph(store, m) for m in np.unique(store.geometries.molecule[minima]).tolist()}

    def atoms(row: int) -> slice:
        return slice(int(offsets[row]), int(offsets[row + 1]))

    for row in minima.tolist():
        slopes[atoms(row)] = 0.0

    def work(chosen: list[int]) -> None:
        moved, origins = displaced[chosen].tolist(), starts[chosen].tolist()
        own = [graphs[int(store.geometries.molecule[row])] for row in origins]
        at, places = (
            float64_batch(own, [store.geometries.positions[atoms(row)] for row in some]) for some in (origins, moved)
        )
        pulls = float64_batch(own, [forces[atoms(row)] for row in origins]).positions
        values, gradients = correction_at(at, own, pulls)(places.positions)
        for index, row, start, value, gradient in zip(
            chosen, moved, origins, values.tolist(), unpad(places, gradients), strict=True
        ):
            is_far[index] = not np.abs(gradient).max() <= LARGEST_CORRECTION  # NaN, too
            found[row] = found[start] + energies[row] - energies[start] - WEIGHT * value
            slopes[atoms(row)] = forces[atoms(row)] + WEIGHT * gradient

    sizes = store.molecules.n_atoms[store.geometries.molecule[displaced]].tolist()
    for error in in_chunks(sizes, _SLOTS, work).values():
        raise error
    return LevelLabels(found, slopes), is_far
