"""Strains as text and tables."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from physcon_ase.inference.run_records import RunRecord, format_run_record, write_run_table
from physcon_ase.inference.strains.strain import Strain
from physcon_ase.plurals import counted

COLUMNS: Final = (
    "smiles",
    "charge",
    "n_atoms",
    "strain_kcal_per_mol",
    "local_strain_kcal_per_mol",
    "pose_rmsd_A",
    "nearest_rmsd_A",
    "pose_energy_eV",
    "nearest_energy_eV",
    "lowest_energy_eV",
    "n_conformers",
    "level",
    "model",
    "revision",
    "seed",
)
"""Columns of a table of strains."""


def format_strain(found: Strain) -> str:
    """Strain as text for the terminal."""
    status, reason = found.judged()
    lines = [
        f"{found.smiles}  ({found.pose.get_chemical_formula()}, {counted(found.graph.n_atoms, 'atom')})",
        f"  model    {found.model} (revision {found.revision[:12]}), level {found.level}",
        f"  search   {counted(found.n_conformers, 'conformer')}, seed {found.seed}, {found.seconds:.1f} s",
        f"  pose     {found.pose_energy:.6f} eV, {counted(len(found.held), 'torsion')} held, {found.pose_rmsd:.3f} Å "
        "from the input",
        f"  nearest  {found.nearest_energy:.6f} eV, {found.nearest_rmsd:.3f} Å from the input",
        f"  lowest   {found.lowest_energy:.6f} eV",
        f"  strain   {found.strain:.2f} kcal/mol above the lowest conformer, {found.local_strain:.2f} above the "
        "nearest minimum",
    ]
    return "\n".join([*lines, *([f"  {status}  {reason}"] if reason else [])])


def format_strain_record(record: RunRecord[Strain]) -> str:
    """Record as one line for the terminal."""
    summary, found = "", record.result
    if found is not None:
        summary = (
            f"strain {found.strain:.2f} kcal/mol, {found.local_strain:.2f} above the nearest minimum "
            f"({found.nearest_rmsd:.2f} Å away), {record.seconds:.1f} s"
        )
    return format_run_record(record, summary)


def write_strain_table(
    records: Sequence[RunRecord[Strain]], path: str | Path, *, inputs: Iterable[str | Path] = ()
) -> None:
    """Writes a table (.csv, .tsv) with one row per pose, failures included. Raises those of `write_run_table`."""
    write_run_table(records, path, COLUMNS, _values_of, inputs=inputs)


def _values_of(found: Strain) -> dict[str, Any]:
    values = {**found.to_dict(), "n_atoms": found.graph.n_atoms}
    return {name: values[name] for name in COLUMNS}
