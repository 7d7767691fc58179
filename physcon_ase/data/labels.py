"""Statistics of the labels of a training set, and atomic reference energies fitted to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from torch import Tensor

from physcon_ase.data.identity import formula
from physcon_ase.data.loader import Bucket, Items
from physcon_ase.errors import LabelError

LARGEST_DEVIATION: Final = 30.0
"""Largest deviation [eV per atom] of an energy from the sum of atomic reference energies: several times the binding
energy of an atom."""


@dataclass(frozen=True)
class LabelRow:
    """Label statistics of one data set at one level of theory."""

    source: str
    """Name of the data set."""
    level: str
    """Level of theory."""
    n_molecules: int
    """Number of molecules."""
    n_items: int
    """Number of geometries."""
    n_energies: int
    """Number of geometries with an energy."""
    energy_min: float
    """Lowest energy [eV]; NaN if there are none."""
    energy_max: float
    """Highest energy [eV]; NaN if there are none."""
    energy_spread: float
    """Mean absolute residual [eV/atom] of a linear regression of energy on composition; NaN if there are none."""
    n_forces: int
    """Number of geometries with computed forces."""
    force_rms: float
    """Root mean square force component [eV/Å]; NaN if there are none."""
    force_max: float
    """Largest absolute force component [eV/Å]; NaN if there are none."""
    n_zero_forces: int
    """Number of minima with zero forces as labels."""
    n_minima: int
    """Number of reference minima for the structure task."""

    @property
    def n_missing_energies(self) -> int:
        """Number of geometries without an energy."""
        return self.n_items - self.n_energies

    @property
    def n_missing_forces(self) -> int:
        """Number of geometries with neither computed nor zero forces."""
        return self.n_items - self.n_forces - self.n_zero_forces


def label_report(items: Items) -> tuple[LabelRow, ...]:
    """Label statistics of each data set and level that has items, in the order of the data sets.

    A data set without any items has one row, with "-" for the level.
    """
    rows: list[LabelRow] = []
    for source in range(len(items.sources)):
        found = [_label_row(items, source, level) for level in range(len(items.levels))]
        rows += [row for row in found if row.n_items] or [replace(row, level="-") for row in found[:1]]
    return tuple(rows)


def format_label_report(rows: Sequence[LabelRow]) -> str:
    """Label statistics as a table for the terminal."""
    head = (
        "data set", "level", "molecules", "geometries", "energies", "missing", "lowest eV", "highest eV",
        "spread eV/atom", "forces", "zero forces", "missing", "rms eV/Å", "max eV/Å", "minima",
    )  # fmt: skip
    table = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    lines = [
        "  ".join(_align(cell, width, column) for column, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in table
    ]
    return "\n".join(line.rstrip() for line in lines)


def fit_references(items: Items, level: str, known: Mapping[int, float] = MappingProxyType({})) -> dict[int, float]:
    """Atomic reference energies of a level, from a least-squares fit of energies to compositions.

    The minimum-norm solution is used, so elements that always occur together share their energy. Elements that do not
    occur at this level are omitted.

    Args:
        items: items of the training split.
        level: a level of `items`.
        known: fixed energies [eV] by atomic number; only those of other elements are fitted.

    Returns:
        Energy [eV] by atomic number.

    Raises:
        LabelError: there is no such level, or it has no energies.
    """
    if level not in items.levels:
        raise LabelError(f"unknown level {level!r}; choose one of {', '.join(items.levels)}")
    elements, counts, energies = _compositions(items, _at_level(items, level))
    if not len(energies):
        raise LabelError(
            f"level {level!r} has no energies to fit references to; add a data set with energies or remove the level"
        )
    fixed = np.array([known.get(element, np.nan) for element in elements])
    is_new = np.isnan(fixed)
    rest = energies - counts[:, ~is_new] @ fixed[~is_new]
    fixed[is_new] = np.linalg.lstsq(counts[:, is_new], rest, rcond=None)[0]
    return {**known, **dict(zip(elements, fixed.tolist(), strict=True))}


def check_energies(items: Items, level: str) -> None:
    """Refuses energies far from the sum of atomic reference energies, e.g. of another basis set, program or unit.

    A few such energies among many others degrade all predictions for their elements. The references are fitted to these
    items.

    Args:
        items: items of the training split.
        level: a level of `items` with energies.

    Raises:
        LabelError: names the data set and the worst molecule.
    """
    references, at_level = fit_references(items, level), _at_level(items, level)
    worst = (0.0, "")
    for index, source in enumerate(items.sources):
        masks = [mask & (bucket.source == index) for bucket, mask in zip(items.buckets, at_level, strict=True)]
        elements, counts, energies = _compositions(items, masks)
        if not len(energies):
            continue
        deviations = (energies - counts @ [references[element] for element in elements]) / counts.sum(axis=1)
        row = int(np.abs(deviations).argmax())
        composition = formula(np.repeat(elements, counts[row].astype(int)))
        worst = max(worst, (abs(deviations[row]), f"{source}: the energy {energies[row]:.2f} eV of {composition}"))
    deviation, what = worst
    if deviation > LARGEST_DEVIATION:
        raise LabelError(
            f"{what} at level {level!r} is {deviation:.1f} eV per atom away from the sum of the atomic reference "
            f"energies ({LARGEST_DEVIATION:g} is allowed): labels of different basis sets, programs or units seem to "
            "be mixed; leave molecules with these elements out of one of the data sets"
        )


def elements_at(items: Items, level: str) -> set[int]:
    """Atomic numbers of all elements that occur at a level."""
    chosen = zip(items.buckets, _at_level(items, level), strict=True)
    return {z for bucket, mask in chosen for z in bucket.atomic_numbers[mask].unique().tolist()} - {0}


def has_energies(items: Items, level: str) -> bool:
    """Whether any geometry has an energy at this level."""
    masks = _at_level(items, level)
    return any(bool((mask & bucket.energy.isfinite()).any()) for bucket, mask in zip(items.buckets, masks, strict=True))


def charges_at(items: Items, level: str) -> set[int]:
    """Total charges [e] of the molecules at a level."""
    masks = _at_level(items, level)
    return {
        charge
        for bucket, mask in zip(items.buckets, masks, strict=True)
        for charge in bucket.charge[mask].unique().tolist()
    }


def _at_level(items: Items, level: str) -> list[Tensor]:
    return [bucket.level == items.levels.index(level) for bucket in items.buckets]


def _compositions(items: Items, masks: Sequence[Tensor]) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Elements, number of atoms per element [items, elements] and energies [items] of masked items with an energy."""
    chosen = [mask & bucket.energy.isfinite() for bucket, mask in zip(items.buckets, masks, strict=True)]
    numbers = [bucket.atomic_numbers[mask] for bucket, mask in zip(items.buckets, chosen, strict=True)]
    elements = sorted({z for rows in numbers for z in rows.unique().tolist()} - {0})
    counts = [torch.stack([(rows == z).sum(dim=1) for z in elements], dim=1) for rows in numbers if len(elements)]
    energies = [bucket.energy[mask] for bucket, mask in zip(items.buckets, chosen, strict=True)]
    empty_counts, empty_energies = torch.zeros((0, len(elements))), torch.zeros(0, dtype=torch.float64)
    return (
        elements,
        torch.cat([empty_counts, *(part.cpu() for part in counts)]).double().numpy(),
        torch.cat([empty_energies, *(part.cpu() for part in energies)]).numpy(),
    )


def _label_row(items: Items, source: int, level: int) -> LabelRow:
    masks = [(bucket.source == source) & (bucket.level == level) for bucket in items.buckets]
    pairs = list(zip(items.buckets, masks, strict=True))
    _, counts, energies = _compositions(items, masks)
    forces = torch.cat([torch.zeros(0), *(_computed_forces(bucket, mask) for bucket, mask in pairs)])
    return LabelRow(
        source=items.sources[source],
        level=items.levels[level],
        n_molecules=sum(len(bucket.molecule[mask].unique()) for bucket, mask in pairs),
        n_items=_count(masks),
        n_energies=len(energies),
        energy_min=float(energies.min()) if len(energies) else float("nan"),
        energy_max=float(energies.max()) if len(energies) else float("nan"),
        energy_spread=_spread(counts, energies),
        n_forces=_count([mask & _has_forces(bucket) & ~bucket.is_zero_force for bucket, mask in pairs]),
        force_rms=float(forces.double().square().mean().sqrt()),
        force_max=float(forces.abs().max()) if len(forces) else float("nan"),
        n_zero_forces=_count([mask & bucket.is_zero_force for bucket, mask in pairs]),
        n_minima=_count([mask & bucket.is_minimum for bucket, mask in pairs]),
    )


def _count(masks: Sequence[Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks)


def _spread(counts: np.ndarray, energies: np.ndarray) -> float:
    if not len(energies):
        return float("nan")
    residual = energies - counts @ np.linalg.lstsq(counts, energies, rcond=None)[0]
    return float(np.mean(np.abs(residual) / counts.sum(axis=1)))


def _has_forces(bucket: Bucket) -> Tensor:
    return bucket.forces[:, 0, 0].isfinite()  # slot 0 is never empty


def _computed_forces(bucket: Bucket, mask: Tensor) -> Tensor:
    mask = mask & _has_forces(bucket) & ~bucket.is_zero_force
    return bucket.forces[mask][bucket.atomic_numbers[mask] > 0].flatten().cpu()


def _cells(row: LabelRow) -> tuple[str, ...]:
    return (
        row.source, row.level, f"{row.n_molecules}", f"{row.n_items}", f"{row.n_energies}", f"{row.n_missing_energies}",
        _number(row.energy_min), _number(row.energy_max), _number(row.energy_spread, 4), f"{row.n_forces}",
        f"{row.n_zero_forces}", f"{row.n_missing_forces}", _number(row.force_rms, 3), _number(row.force_max, 3),
        f"{row.n_minima}",
    )  # fmt: skip


def _number(value: float, digits: int = 2) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def _align(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < 2 else cell.rjust(width)
