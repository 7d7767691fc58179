"""The records of a study as tables and as pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy.stats import wilcoxon

from physcon_ase.errors import PhysConError
from studies.shared.figure import figure

_COLUMNS: Final = {
    "mean_rmsd": "RMSD, mean [Å]",
    "min_rmsd": "RMSD, min [Å]",
    "heavy_rmsd": "heavy RMSD [Å]",
    "distance_mae": "D-MAE [Å]",
    "energy_above": "above the minimum, median [eV]",
}


N_BOOTSTRAP: Final = 10_000
"""Resamplings of the molecules behind an interval."""


def format_tables(records: Sequence[dict]) -> str:
    """One table per mode and one of the teachers.

    Means over molecules (energies: medians), averaged over seeds, with the change against the first row; the difference
    of the mean RMSD with its 95 % bootstrap interval over molecules; and the largest p among the seeds of a paired
    Wilcoxon test over molecules. Of a teacher the mean absolute error of its force components.
    """
    modes = dict.fromkeys(record["mode"] for record in records)
    tables = [_table(mode, [r for r in records if r["mode"] == mode]) for mode in modes]
    return "\n\n".join([*tables, _teachers(records)])


def plot_gain(records: Sequence[dict], row: str, path: Path) -> None:
    """Draws the RMSD where the basin is given against the force error of the teacher, for all rows whose names begin
    with `row`, beside the first row, as a PNG file.

    Raises:
        PhysConError: matplotlib is not installed, or the mode with the given basin is missing.
    """
    matched = [r for r in records if r["mode"] == "matched, refined"]
    if not matched:
        raise PhysConError("the plot shows the mode 'matched, refined': leave it in, or leave out the plot")
    taught = [r for r in matched if r["row"] == row or r["row"].startswith(f"{row}, teacher")]
    reference = float(np.mean([np.mean(r["mean_rmsd"]) for r in matched if r["row"] == matched[0]["row"]]))
    drawing = figure()
    axes = drawing.subplots()
    axes.axhline(reference, color="0.5", linestyle="--", label=matched[0]["row"])
    for teacher in dict.fromkeys(r["teacher"] for r in taught):
        own = [r for r in taught if r["teacher"] == teacher]
        errors = [1000 * r["teacher_force_mae"] for r in own]
        axes.plot(errors, [np.mean(r["mean_rmsd"]) for r in own], "o", label=teacher)
    axes.set_xscale("log")
    axes.set_xlabel("force error of the teacher, test molecules [meV/Å]")
    axes.set_ylabel("RMSD to the true minimum, basin given [Å]")
    axes.legend(title=f"{row}; teacher", fontsize=7, title_fontsize=7)
    drawing.savefig(path, dpi=150)


def plot_learning(folder: Path, records: Sequence[dict], path: Path) -> None:
    """Draws the denoising loss of the first seed's rows against the step, from the logs of their training.

    Raises:
        PhysConError: matplotlib is not installed.
    """
    drawing = figure()
    axes = drawing.subplots()
    rows = {r["training"]: r["row"] for r in reversed(records) if r["seed"] == records[0]["seed"]}
    for name, row in reversed(rows.items()):  # of rows that share a training the first
        entries = [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]
        points = [(entry["step"], entry["structure"]) for entry in entries if "structure" in entry]
        axes.plot(*zip(*points, strict=True), label=row)
    axes.set_yscale("log")
    axes.set_xlabel("step of the second stage")
    axes.set_ylabel("denoising loss times its weight")
    drawing.legend(fontsize=6, ncols=2, loc="outside lower center")
    drawing.savefig(path, dpi=150)


def _table(mode: str, records: Sequence[dict]) -> str:
    columns = {c: title for c, title in _COLUMNS.items() if np.isfinite(records[0][c]).any()}
    names = list(dict.fromkeys(record["row"] for record in records))
    by_row = {name: {r["seed"]: r for r in records if r["row"] == name} for name in names}
    base = by_row[names[0]]
    n_molecules, n_samples = len(records[0]["mean_rmsd"]), records[0]["n_samples"]
    of_each = f" ({n_samples} samples of each)" if n_samples > 1 else ""
    lines = [
        f"**{mode}**, {n_molecules} molecules{of_each}, seeds {', '.join(map(str, base))}",
        "",
        "| row | " + " | ".join(columns.values()) + " | change of the RMSD, 95 % interval [Å] | p (RMSD) |",
        "| --- |" + " ---: |" * (len(columns) + 2),
    ]
    for name, own in by_row.items():
        p = "-" if own is base else f"{max(_p(own[seed], base[seed]) for seed in own):.1g}"
        change = "-" if own is base else _interval(own, base)
        lines.append(f"| {name} | " + " | ".join([*(_cell(column, own, base) for column in columns), change, p]) + " |")
    return "\n".join(lines)


def _teachers(records: Sequence[dict]) -> str:
    errors: dict[str, dict[int, float]] = {}
    for record in records:
        errors.setdefault(record["teacher"], {})[record["seed"]] = record["teacher_force_mae"]
    lines = [f"| {name} | {1000 * np.mean(list(own.values())):.0f} |" for name, own in errors.items()]
    return "\n".join(["| teacher | force error, test molecules [meV/Å] |", "| --- | ---: |", *lines])


def _interval(own: dict[int, dict], base: dict[int, dict]) -> str:
    """Mean difference over molecules and seeds, and the quantiles of that of resampled molecules."""
    per_seed = [np.subtract(own[seed]["mean_rmsd"], base[seed]["mean_rmsd"]) for seed in own]
    change = np.mean(per_seed, axis=0)
    drawn = np.random.default_rng(0).integers(len(change), size=(N_BOOTSTRAP, len(change)))
    low, high = np.quantile(change[drawn].mean(axis=1), [0.025, 0.975])
    return f"{change.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def _cell(column: str, own: dict[int, dict], base: dict[int, dict]) -> str:
    value, reference = (_average(column, rows) for rows in (own, base))
    return f"{value:.3f}" if own is base else f"{value:.3f} ({100 * (value / reference - 1):+.0f} %)"


def _average(column: str, rows: dict[int, dict]) -> float:
    average = np.nanmedian if column == "energy_above" else np.mean
    return float(np.mean([average(record[column]) for record in rows.values()]))


def _p(own: dict, base: dict) -> float:
    a, b = np.array(own["mean_rmsd"]), np.array(base["mean_rmsd"])
    if (a == b).all():
        return 1.0
    test: Any = wilcoxon(a, b)
    return float(test.pvalue)
