"""Torsion scans of many molecules."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from ase import Atoms

from physcon_ase.chem.graph import MolGraph
from physcon_ase.inference.embedding import MAX_SECONDS
from physcon_ase.inference.generator import ATOMS_PER_BATCH
from physcon_ase.inference.intake import at_least_one, checked_seed
from physcon_ase.inference.long_runs import run_each
from physcon_ase.inference.run_records import RunRecord, format_run_record, record_of_outcome, write_run_table
from physcon_ase.inference.scans.scan import Scan, in_degrees
from physcon_ase.inference.scans.search import N_CONFORMERS, grid, scan
from physcon_ase.inference.starts import PicklableSettings, settings_of
from physcon_ase.model.coverage import AUTO
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel
from physcon_ase.plurals import counted

COLUMNS: Final = (
    "smiles",
    "charge",
    "n_atoms",
    "dihedrals",
    "n_points",
    "n_failed",
    "energy_eV",
    "minima_degrees",
    "highest_kcal_per_mol",
    "level",
    "model",
    "revision",
    "seed",
)
"""Columns of a table of scans; minima from the lowest on."""


def scan_many(
    molecules: Iterable[str | MolGraph | Atoms | Any],
    dihedral: str | Sequence[int] | Sequence[str | Sequence[int]],
    *,
    step: float = 15.0,
    level: str = AUTO,
    checkpoint: str | Path | LoadedModel = DEFAULT_CHECKPOINT,
    n_conformers: int = N_CONFORMERS,
    seed: int = 0,
    fmax: float = 0.02,
    max_steps: int = 300,
    n_processes: int = 1,
    scheduler: str | None = None,
    journal: str | Path | None = None,
    atoms_per_batch: int = ATOMS_PER_BATCH,
    max_seconds: float = MAX_SECONDS,
    on_progress: Callable[[int, int], None] | None = None,
    progress_bar: bool = True,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float64,
) -> list[RunRecord[Scan]]:
    """Torsion scans of many molecules, for instance of a series with a common pattern.

    Arguments as in `scan`, and those of `optimize_many` for long runs: `n_processes`, `scheduler`, `journal`,
    `on_progress`.

    Returns:
        A record for each molecule, in input order.

    Raises:
        PhysConError: invalid settings or checkpoint. Errors of single molecules, such as a pattern that does not match,
            are reported in their records.
        StoreError: the journal belongs to a different run.
    """
    grid(step)
    options = {"step": step, "n_conformers": at_least_one("n_conformers", n_conformers)}
    seed, settings = checked_seed(seed), settings_of(checkpoint, level, fmax, max_steps, max_seconds, device, dtype)
    shared = PicklableSettings(settings, checkpoint, device, dtype)
    outcomes = run_each(
        partial(_scan, shared, dihedral, {**options, "atoms_per_batch": atoms_per_batch}),
        molecules,
        result_type=Scan,
        settings={**shared.description, **options, "atoms_per_batch": atoms_per_batch, "dihedral": repr(dihedral)},
        seed=seed,
        n_processes=n_processes,
        scheduler=scheduler,
        journal=journal,
        on_progress=on_progress,
        progress_bar=progress_bar,
    )
    return [record_of_outcome("scan", outcome, Scan.judged) for outcome in outcomes]


def _scan(shared: PicklableSettings, dihedral: Any, options: Mapping[str, Any], molecule: Any, seed: int) -> Scan:
    own = shared.settings
    limits = {"fmax": own.fmax, "max_steps": own.max_steps, "max_seconds": own.max_seconds}
    common = {"level": own.level, "checkpoint": own.loaded, "seed": seed, "progress_bar": False}
    return scan(molecule, dihedral, **common, **limits, **options)


def format_scan_record(record: RunRecord[Scan]) -> str:
    """Record as one line for the terminal."""
    summary, found = "", record.result
    if found is not None:
        summary = (
            f"{counted(len(found.minima), 'minimum', 'minima')}, the lowest at "
            f"{in_degrees(found.angles_of(found.minima[0]))}, up to {np.nanmax(found.relative_energies):.2f} kcal/mol, "
            f"{record.seconds:.1f} s"
        )
    return format_run_record(record, summary)


def write_scan_table(
    records: Sequence[RunRecord[Scan]], path: str | Path, *, inputs: Iterable[str | Path] = ()
) -> None:
    """Writes a table (.csv, .tsv) with one row per molecule, failures included. Raises those of `write_run_table`."""
    write_run_table(records, path, COLUMNS, _values_of, inputs=inputs)


def _values_of(found: Scan) -> dict[str, Any]:
    return {
        "smiles": found.smiles,
        "charge": found.graph.charge,
        "n_atoms": found.graph.n_atoms,
        "dihedrals": "; ".join("-".join(map(str, members)) for members in found.dihedrals),
        "n_points": found.energies.size,
        "n_failed": len(found.failures),
        "energy_eV": np.nanmin(found.energies),
        "minima_degrees": "; ".join(in_degrees(found.angles_of(point)) for point in found.minima),
        "highest_kcal_per_mol": np.nanmax(found.relative_energies),
        **{name: getattr(found, name) for name in ("level", "model", "revision", "seed")},
    }
