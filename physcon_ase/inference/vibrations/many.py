"""Harmonic frequencies and thermochemistry of many molecules."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from ase import Atoms

from physcon_ase.chem.graph import MolGraph
from physcon_ase.inference.embedding import MAX_SECONDS
from physcon_ase.inference.intake import checked_seed
from physcon_ase.inference.long_runs import run_each
from physcon_ase.inference.run_records import RunRecord, format_run_record, record_of_outcome, write_run_table
from physcon_ase.inference.starts import PicklableSettings, settings_of
from physcon_ase.inference.vibrations.harmonic import FMAX, Vibrations, check_conditions, double, vibrations
from physcon_ase.inference.vibrations.thermochemistry import CUTOFF
from physcon_ase.model.coverage import AUTO
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel

COLUMNS: Final = (
    "smiles",
    "formula",
    "charge",
    "n_atoms",
    "energy_eV",
    "zero_point_energy_eV",
    "enthalpy_eV",
    "entropy_eV_per_K",
    "gibbs_energy_eV",
    "quasi_rrho_gibbs_energy_eV",
    "n_imaginary",
    "lowest_frequency_per_cm",
    "temperature_K",
    "pressure_Pa",
    "symmetry_number",
    "scale",
    "level",
    "model",
    "revision",
    "seed",
)
"""Columns of a table of vibrations."""


def vibrations_many(
    molecules: Iterable[str | MolGraph | Atoms | Any],
    *,
    level: str = AUTO,
    checkpoint: str | Path | LoadedModel = DEFAULT_CHECKPOINT,
    temperature: float = 298.15,
    pressure: float = 101325.0,
    symmetry_number: int | None = None,
    scale: float = 1.0,
    cutoff: float = CUTOFF,
    relax: bool = True,
    follow_imaginary: bool = False,
    fmax: float = FMAX,
    max_steps: int = 500,
    start: str | None = None,
    seed: int = 0,
    max_seconds: float = MAX_SECONDS,
    n_processes: int = 1,
    scheduler: str | None = None,
    journal: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    progress_bar: bool = True,
    device: torch.device | str = "cpu",
) -> list[RunRecord[Vibrations]]:
    """Harmonic frequencies and thermochemistry of many molecules.

    Arguments as in `vibrations`, and those of `optimize_many` for long runs: `n_processes`, `scheduler`, `journal`,
    `on_progress`.

    Returns:
        A record for each molecule, in input order.

    Raises:
        PhysConError: invalid settings or checkpoint. Errors of single molecules are reported in their records.
        StoreError: the journal belongs to a different run.
    """
    options = {"temperature": temperature, "pressure": pressure, "symmetry_number": symmetry_number, "scale": scale}
    options |= {"cutoff": cutoff}
    check_conditions(**options)
    options |= {"relax": relax, "follow_imaginary": follow_imaginary, "start": start}
    loaded, seed = double(checkpoint, device), checked_seed(seed)
    settings = settings_of(loaded, level, fmax, max_steps, max_seconds, device, torch.float64)
    shared = PicklableSettings(settings, checkpoint, device, torch.float64)
    outcomes = run_each(
        partial(_vibrations, shared, options),
        molecules,
        result_type=Vibrations,
        settings={**shared.description, **options},
        seed=seed,
        n_processes=n_processes,
        scheduler=scheduler,
        journal=journal,
        on_progress=on_progress,
        progress_bar=progress_bar,
    )
    return [record_of_outcome("vibrations", outcome, Vibrations.judged) for outcome in outcomes]


def _vibrations(shared: PicklableSettings, options: Mapping[str, Any], molecule: Any, seed: int) -> Vibrations:
    own = shared.settings
    limits = {"fmax": own.fmax, "max_steps": own.max_steps, "max_seconds": own.max_seconds}
    return vibrations(molecule, level=own.level, checkpoint=own.loaded, seed=seed, **limits, **options)


def format_vibrations_record(record: RunRecord[Vibrations]) -> str:
    """Record as one line for the terminal."""
    summary = ""
    if record.result is not None:
        thermo = record.result.thermochemistry
        summary = (
            f"ZPE {thermo.zero_point_energy:.4f} eV, G({thermo.temperature:g} K) {thermo.gibbs_energy:.6f} eV, "
            f"{record.result.n_imaginary} imaginary, {record.seconds:.1f} s"
        )
    return format_run_record(record, summary)


def write_vibrations_table(
    records: Sequence[RunRecord[Vibrations]], path: str | Path, *, inputs: Iterable[str | Path] = ()
) -> None:
    """Writes a table (.csv, .tsv) with one row per molecule, failures included. Raises those of `write_run_table`."""
    write_run_table(records, path, COLUMNS, _values_of, inputs=inputs)


def _values_of(found: Vibrations) -> dict[str, Any]:
    relaxation, thermo = found.relaxation, found.thermochemistry
    return {
        "smiles": relaxation.smiles,
        "formula": relaxation.atoms.get_chemical_formula(),
        "charge": int(relaxation.atoms.info.get("charge") or 0),
        "n_atoms": len(relaxation.atoms),
        "energy_eV": relaxation.energy,
        "zero_point_energy_eV": thermo.zero_point_energy,
        "enthalpy_eV": thermo.enthalpy,
        "entropy_eV_per_K": thermo.entropy,
        "gibbs_energy_eV": thermo.gibbs_energy,
        "quasi_rrho_gibbs_energy_eV": thermo.quasi_rrho_gibbs_energy,
        "n_imaginary": found.n_imaginary,
        "lowest_frequency_per_cm": found.frequencies[0] if len(found.frequencies) else None,
        "temperature_K": thermo.temperature,
        "pressure_Pa": thermo.pressure,
        "symmetry_number": thermo.symmetry_number,
        "scale": found.scale,
        **{name: getattr(relaxation, name) for name in ("level", "model", "revision", "seed")},
    }
