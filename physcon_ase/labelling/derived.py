"""Labels of an accurate level derived from those of a cheaper one, the teacher, around minima of the accurate level.

What anchored labels (`labelling.anchored`) and transferred labels (`labelling.transferred`) have in common.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from physcon_ase.data.store import LevelLabels, Store, geometry_offsets
from physcon_ase.errors import LabelError
from physcon_ase.plurals import counted


@dataclass(frozen=True)
class DerivedReport:
    """Counts of derived labels."""

    n_minima: int
    """Number of minima with labels of the teacher."""
    n_displaced: int
    """Number of labelled displacements."""
    left_out: dict[str, int]
    """Number of geometries left out, by reason."""


@dataclass(frozen=True)
class TeacherLabels:
    """Labels of the teacher at minima of a level and at geometries displaced from them."""

    labels: LevelLabels
    """All labels of the teacher."""
    minima: Int[np.ndarray, " minima"]
    """Rows of the labelled minima."""
    displaced: Int[np.ndarray, " displaced"]
    """Rows of the labelled geometries that were displaced from these minima."""
    starts: Int[np.ndarray, " displaced"]
    """Row of the minimum of each displacement."""


def teacher_labels(
    store: Store, level: str, teacher: str, *, is_usable: Bool[np.ndarray, " geometries"] | None = None
) -> TeacherLabels:
    """Labels of the teacher around the minima of a level.

    Args:
        store: a store written by `physcon label STORE --minima-of LEVEL --geometries start,...`.
        level: level of theory of the minima.
        teacher: level of theory of the labels.
        is_usable: geometries to be considered; all by default.

    Raises:
        LabelError: the store has no forces of the teacher.
    """
    labels = store.labels.get(teacher)
    if labels is None or labels.forces is None:
        raise LabelError(f"{store.source} has no forces of {teacher!r}; levels with labels: {', '.join(store.labels)}")
    geometries = store.geometries
    is_labelled = np.isfinite(labels.forces[geometry_offsets(store)[:-1], 0])
    if is_usable is not None:
        is_labelled &= is_usable
    minima = np.flatnonzero((geometries.minimum_of == level) & is_labelled)
    starts = np.full(len(geometries), -1) if geometries.start is None else geometries.start
    displaced = np.flatnonzero(np.isin(starts, minima) & is_labelled)
    return TeacherLabels(labels, minima, displaced, starts[displaced])


def minima_in(store: Store) -> str:
    """Levels that the store has minima of, as text for errors."""
    return ", ".join(sorted(set(store.geometries.minimum_of.tolist()) - {""})) or "none"


def format_derived_report(report: DerivedReport, source: str) -> str:
    """The report as text for the terminal."""
    lines = [
        f"{source}: {counted(report.n_minima, 'minimum', 'minima')}, {counted(report.n_displaced, 'displacement')}"
    ]
    return "\n".join(lines + [f"  left out: {count} {reason}" for reason, count in report.left_out.items()])
