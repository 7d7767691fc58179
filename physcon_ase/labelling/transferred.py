"""Transferred labels: minima of an accurate level, and residuals of a model at a cheaper level, the teacher.

Errors of a model M at two levels at the same geometry are correlated. Where only the teacher level T has been
calculated, its residual therefore improves the prediction of the accurate level L, like a control variate:

    E'(x) = E_M^L(x) + w (E_T(x) - E_M^T(x)).

The error of E' at a minimum x₀ of L is known, because forces vanish there, and much of it is the same at displaced
geometries. The labels are

    E(x) = E_L(x₀) + E'(x) - E'(x₀) - C(x),    F(x) = -∂E/∂x,

with the correction C that cancels the forces F'(x₀) (`labelling.correction`). Full residuals (w = 1) would add their
own errors to the labels; those of w = 1/2 are the smallest on held-out molecules (`benchmarks/transferred.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from physcon_ase.batch import in_chunks, make_batch, unpad
from physcon_ase.chem.graph import MolGraph
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
from physcon_ase.labelling.derived import DerivedReport, TeacherLabels, minima_in, teacher_labels
from physcon_ase.model.config import LevelConfig
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import LoadedModel, load_model

WEIGHT: Final = 0.5
"""Weight w of the residuals."""

_SLOTS: Final = 1024
"""Number of slots per batch."""


def transfer(
    store: Store, level: str, teacher: str, loaded: LoadedModel, *, progress_bar: bool = True
) -> tuple[Store, DerivedReport]:
    """Store with labels of `level` for its minima of this level and for geometries displaced from them.

    Energies are NaN if the energy of the minimum is unknown. All other geometries are left out and counted.

    Args:
        store: a store written by `physcon label STORE --minima-of LEVEL --geometries start,...`: minima of the level
            and displacements, all with labels of the teacher.
        level: level of theory of the minima.
        teacher: level of theory of the labels.
        loaded: a model of both levels.
        progress_bar: whether to show a progress bar on a terminal.

    Raises:
        LabelError: the store has no forces of the teacher, or no displaced minima of the level.
        UnknownLevelError: the model lacks a level.
    """
    covers = [loaded.model.level(name) for name in (level, teacher)]
    graphs = [molecule_graph(store, row) for row in range(len(store.molecules))]
    is_covered = np.array([all(_covers(own, graph) for own in covers) for graph in graphs])[store.geometries.molecule]
    known = teacher_labels(store, level, teacher, is_usable=is_covered)
    if not len(known.displaced):
        raise LabelError(
            f"{store.source} has no displaced minima of {level!r} that the model covers, but minima of: "
            f"{minima_in(store)}; create them with `physcon label STORE --minima-of {level} --geometries "
            "start,thermal:1`"
        )
    n_used = len(known.minima) + len(known.displaced)
    with tqdm(total=n_used, disable=None if progress_bar else True, unit="geometry") as bar:
        predicted = _predicted(store, graphs, known, loaded, (level, teacher), bar)
    found, is_far = _corrected(store, graphs, level, known, predicted)
    kept = np.sort(np.concatenate([known.minima, known.displaced[~is_far]]))
    n_covered = int(is_covered.sum())
    left_out = {
        "not covered by the model": len(is_covered) - n_covered,
        "not displaced from a minimum of the level, or without label": n_covered - n_used,
        f"corrected by more than {LARGEST_CORRECTION:g} eV/Å": int(is_far.sum()),
    }
    transferred = replace(
        store,
        labels={level: found},
        source=f"{store.source}, transferred",
        provenance=f"transferred to {level} from {teacher} with {loaded.name} {loaded.revision}; {store.provenance}",
    )
    return select_geometries(transferred, kept), DerivedReport(len(known.minima), int((~is_far).sum()), left_out)


def transfer_file(
    path: str | Path,
    output: str | Path,
    *,
    level: str,
    teacher: str,
    checkpoint: str | Path,
    progress_bar: bool = True,
) -> DerivedReport:
    """Applies `transfer` with the model of a checkpoint to a store file and writes the result to another file.

    Raises:
        StoreError: a store cannot be read or written, or input and output are the same.
        CheckpointNotFoundError, CorruptCheckpointError, CheckpointVersionError: see `load_model`.
        LabelError, UnknownLevelError: see `transfer`.
    """
    check_other_file(output, [path])
    transferred, report = transfer(open_store(path), level, teacher, load_model(checkpoint), progress_bar=progress_bar)
    write_store(output, transferred)
    return report


def with_residuals(
    accurate: Float[np.ndarray, "*values"],
    cheap: Float[np.ndarray, "*values"],
    label: Float[np.ndarray, "*values"],
    weight: float = WEIGHT,
) -> Float[np.ndarray, "*values"]:
    """Energies E' [eV] or forces [eV/Å]: predictions of the accurate level with weighted residuals at another level.

    Args:
        accurate: predictions of the accurate level.
        cheap: predictions of the level of the teacher.
        label: labels of the teacher.
        weight: weight w of the residuals.
    """
    return accurate + weight * (label - cheap)


def _covers(level: LevelConfig, graph: MolGraph) -> bool:
    return graph.charge in level.charges and set(graph.atomic_numbers.tolist()) <= set(level.elements)


def _predicted(
    store: Store,
    graphs: Sequence[MolGraph],
    known: TeacherLabels,
    loaded: LoadedModel,
    levels: tuple[str, str],
    bar: tqdm,
) -> LevelLabels:
    """E' [eV] and F' [eV/Å] of minima and displacements, NaN for other geometries.

    Args:
        store: the store.
        graphs: its molecules.
        known: labels of the teacher.
        loaded: the model.
        levels: the accurate level and the teacher.
        bar: counts the geometries.
    """
    offsets, labels, rows = geometry_offsets(store), known.labels, np.concatenate([known.minima, known.displaced])
    teacher_forces = labels.forces
    assert teacher_forces is not None
    dtype = next(loaded.model.parameters()).dtype
    energies, forces = np.full_like(labels.energy, np.nan), np.full_like(teacher_forces, np.nan)

    def work(chosen: list[int]) -> None:
        own = rows[chosen].tolist()
        atoms = [slice(*offsets[row : row + 2].tolist()) for row in own]
        of = [graphs[molecule] for molecule in store.geometries.molecule[own].tolist()]
        batch = make_batch(
            [graph.atomic_numbers for graph in of],
            [store.geometries.positions[place] for place in atoms],
            charges=[graph.charge for graph in of],
            dtype=dtype,
        )
        accurate, cheap = (energies_and_forces(loaded.model.energy_fn(name), batch) for name in levels)
        energies[own] = with_residuals(accurate[0].numpy(), cheap[0].numpy(), labels.energy[own])
        for place, force, cheap_force in zip(atoms, *(unpad(batch, own[1]) for own in (accurate, cheap)), strict=True):
            forces[place] = with_residuals(force, cheap_force, teacher_forces[place])
        bar.update(len(own))

    _in_chunks(store, rows, work)
    return LevelLabels(energies, forces)


def _corrected(
    store: Store, graphs: Sequence[MolGraph], level: str, known: TeacherLabels, predicted: LevelLabels
) -> tuple[LevelLabels, Bool[np.ndarray, " displaced"]]:
    """Labels of minima and displacements, NaN for other geometries; which displacements are corrected too much.

    Args:
        store: the store.
        graphs: its molecules.
        level: level of theory of the minima.
        known: labels of the teacher.
        predicted: E' [eV] and F' [eV/Å].
    """
    offsets, exact = geometry_offsets(store), store.labels.get(level)
    assert predicted.forces is not None
    energies, forces = np.full_like(predicted.energy, np.nan), np.full_like(predicted.forces, np.nan)
    is_far = np.zeros(len(known.displaced), dtype=bool)

    def atoms(row: int) -> slice:
        return slice(*offsets[row : row + 2].tolist())

    for row in known.minima.tolist():
        forces[atoms(row)] = 0.0
        energies[row] = np.nan if exact is None else exact.energy[row]

    def work(chosen: list[int]) -> None:
        assert predicted.forces is not None
        moved, starts = known.displaced[chosen].tolist(), known.starts[chosen].tolist()
        own = [graphs[molecule] for molecule in store.geometries.molecule[moved].tolist()]
        at, places = (
            float64_batch(own, [store.geometries.positions[atoms(row)] for row in rows]) for rows in (starts, moved)
        )
        errors = float64_batch(own, [predicted.forces[atoms(row)] for row in starts]).positions
        values, gradients = correction_at(at, own, errors)(places.positions)
        for index, row, start, value, gradient in zip(
            chosen, moved, starts, values.tolist(), unpad(places, gradients), strict=True
        ):
            is_far[index] = not np.abs(gradient).max() <= LARGEST_CORRECTION  # NaN, too
            energies[row] = energies[start] + predicted.energy[row] - predicted.energy[start] - value
            forces[atoms(row)] = predicted.forces[atoms(row)] + gradient

    _in_chunks(store, known.displaced, work)
    return LevelLabels(energies, forces), is_far


def _in_chunks(store: Store, rows: Int[np.ndarray, " chosen"], work: Callable[[list[int]], None]) -> None:
    """Calls `work` with indices of these geometries in batches of similar size."""
    sizes = store.molecules.n_atoms[store.geometries.molecule[rows]].tolist()
    for error in in_chunks(sizes, _SLOTS, work).values():
        raise error
