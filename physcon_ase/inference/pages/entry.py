"""Record of one molecule on a page: content of its row, its numbers and its figures."""

from dataclasses import dataclass
from typing import Any

from physcon_ase.inference.pages.structure import Structures


@dataclass(frozen=True)
class Table:
    """Table of texts below the numbers of a molecule."""

    title: str
    """Title."""
    columns: tuple[str, ...]
    """Header of each column, with the unit."""
    rows: tuple[tuple[str, ...], ...]
    """Rows of texts."""
    selects: bool = False
    """Whether a click on row i shows structure i."""


@dataclass(frozen=True)
class Entry:
    """One molecule of a page; texts are those of the user, not escaped."""

    kind: str
    """Kind of calculation, a key of `kinds.KINDS`."""
    name: str
    """Name in the input, or SMILES."""
    status: str
    """One of `results.STATUSES`."""
    reason: str = ""
    """Problem and remedy."""
    smiles: str = ""
    """SMILES; as given for a molecule that failed."""
    formula: str = ""
    """Chemical formula."""
    source: str = ""
    """Name of the result file; empty without one."""
    summary: str = ""
    """Main result in a few words, with units."""
    energy: float | None = None
    """Total energy [eV]."""
    energy_uncertainty: float | None = None
    """Standard deviation [eV] of the error of `energy`."""
    fmax: float | None = None
    """Largest force [eV/Å] on any atom."""
    steps: int | None = None
    """Number of optimiser steps."""
    model: str = ""
    """Name of the checkpoint."""
    revision: str = ""
    """SHA-256 of the weights."""
    level: str = ""
    """Level of theory."""
    numbers: tuple[tuple[str, str], ...] = ()
    """Names and values, with units."""
    structures: Structures | None = None
    """Geometries; None for a molecule without a geometry."""
    plots: tuple[dict[str, Any], ...] = ()
    """Plots, see `plots`."""
    tables: tuple[Table, ...] = ()
    """Tables."""
    strains: tuple[float, ...] = ()
    """Energies [kcal/mol] of conformers above the lowest one."""
