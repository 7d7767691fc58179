"""Torsion scans as text, tables, files and pictures."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase import Atoms

from physcon_ase.chem.files import sdf_block
from physcon_ase.inference.figures import new_figure
from physcon_ase.inference.files import XYZ_SUFFIXES, check_output, write_structures
from physcon_ase.inference.formats.summary import judgement
from physcon_ase.inference.formats.table import suffix_of
from physcon_ase.inference.formats.text import replacing, write_json
from physcon_ase.inference.report import save_figure
from physcon_ase.inference.scans.scan import Scan, in_degrees
from physcon_ase.plurals import counted
from physcon_ase.units import CHEMICAL_SYMBOLS

SCAN_SUFFIXES: Final = (*XYZ_SUFFIXES, ".sdf", ".csv", ".json", ".png")
"""Suffixes of geometries, tables, records and pictures of a scan."""


def format_scan(scan: Scan) -> str:
    """Scan as text for the terminal: minima, barriers and failed points."""
    lines = [
        f"{scan.smiles}  about {' and '.join(dihedral_names(scan))}",
        f"  model      {scan.model} (revision {scan.revision[:12]}), level {scan.level}",
        f"  starts     {counted(scan.n_starts, 'conformer')}, seed {scan.seed}",
        f"  grid       {counted(scan.energies.size, 'point')}, {counted(scan.n_relaxations, 'relaxation')} in "
        f"{counted(scan.n_waves, 'round')}, {scan.seconds:.1f} s",
        f"  energy     {np.nanmin(scan.energies):.6f} eV (lowest point)",
    ]
    lines += [f"  undefined  {line}: decided by the seed" for line in scan.undefined_stereo]
    lines += [f"  uncertain  {line}" for line in scan.doubts]
    for point in scan.minima:
        lines.append(f"  minimum    {in_degrees(scan.angles_of(point))}  {scan.relative_energies[point]:.3f} kcal/mol")
    for barrier in scan.barriers:
        first, second = (in_degrees(angles) for angles in barrier.minima)
        lines.append(
            f"  barrier    {first} to {second}: top at {in_degrees(barrier.top)}, "
            f"{barrier.heights[0]:.3f} kcal/mol forward, {barrier.heights[1]:.3f} back"
        )
    lines += [f"  failed     {in_degrees(scan.angles_of(point))}  {reason}" for point, reason in scan.failures.items()]
    return "\n".join(lines)


def dihedral_names(scan: Scan) -> list[str]:
    """Each dihedral angle with elements and indices of its atoms, such as C0-C1-C2-C3."""
    symbols = [CHEMICAL_SYMBOLS[number] for number in scan.graph.atomic_numbers.tolist()]
    return ["-".join(f"{symbols[atom]}{atom}" for atom in members) for members in scan.dihedrals]


def write_scan(
    scan: Scan, path: str | Path, *, inputs: Iterable[str | Path] = (), origin: Mapping[str, Any] | None = None
) -> None:
    """Writes a scan; the suffix of the file determines the content.

    Args:
        scan: the scan.
        path: .xyz, .extxyz or .sdf for the geometries in the order of the grid, .csv for the energies with one row per
            grid point, .json for everything, .png for a picture; all but the picture may end in .gz.
        inputs: input files, which must not be overwritten.
        origin: further entries of .json, such as the name of the molecule (`Row.origin`).

    Raises:
        PhysConError: see `files.check_output`; or matplotlib is not installed.
    """
    path = check_output(path, inputs, kinds=SCAN_SUFFIXES)
    suffix = suffix_of(path)
    if suffix == ".csv":
        _write_table(scan, path)
    elif suffix == ".json":
        write_json({**scan.to_dict(), **(origin or {})}, path)
    elif suffix == ".png":
        plot_scan(scan, path)
    elif suffix == ".sdf":
        with replacing(path) as file:
            file.writelines(_sdf_record(scan, point) for point in scan.geometries)
    else:
        write_structures(_frames(scan), path)


def plot_scan(scan: Scan, path: str | Path) -> None:
    """Draws a profile (one dihedral angle) or a map (two) to a PNG file.

    Raises:
        PhysConError: matplotlib is not installed, or see `files.check_output`.
    """
    path = check_output(path, kinds=(".png",))
    is_profile = len(scan.dihedrals) == 1
    figure = new_figure(6.5, 4.2 if is_profile else 5.4)
    axes = figure.subplots()
    draw = _draw_profile if is_profile else _draw_map
    draw(scan, figure, axes)
    figure.suptitle(f"{scan.smiles}  ({scan.model}, level {scan.level})", fontsize=10)
    save_figure(figure, path)


def _draw_profile(scan: Scan, _: Any, axes: Any) -> None:
    angles, energies = _closed(scan.angles), _closed(scan.relative_energies)
    axes.plot(angles, energies, color="tab:blue", marker=".")
    for (point,) in scan.minima:
        axes.plot(scan.angles[point], scan.relative_energies[point], "o", color="tab:orange")
    axes.set_xlabel(f"dihedral angle {dihedral_names(scan)[0]} [degrees]")
    axes.set_ylabel("relative energy [kcal/mol]")
    axes.set_xlim(-180, 180)
    axes.set_xticks(range(-180, 181, 60))
    axes.grid(alpha=0.3)


def _draw_map(scan: Scan, figure: Any, axes: Any) -> None:
    angles = _closed(scan.angles)
    energies = np.ma.masked_invalid(_closed(_closed(scan.relative_energies).T).T)
    filled = axes.contourf(angles, angles, energies.T, levels=24, cmap="viridis")
    axes.contour(angles, angles, energies.T, levels=12, colors="white", linewidths=0.4)
    for first, second in scan.minima:
        axes.plot(scan.angles[first], scan.angles[second], "o", color="tab:red", markersize=5)
    figure.colorbar(filled, ax=axes, label="relative energy [kcal/mol]")
    labels = [f"dihedral angle {name} [degrees]" for name in dihedral_names(scan)]
    axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(-180, 180), ylim=(-180, 180), aspect="equal")
    axes.set_xticks(range(-180, 181, 60))
    axes.set_yticks(range(-180, 181, 60))


def _closed(values: np.ndarray) -> np.ndarray:
    """Values with those at -180 degrees repeated at 180 along the first axis."""
    is_grid = values.ndim == 1 and values[0] == -180.0
    return np.concatenate([values, [180.0] if is_grid else values[:1]])


def _write_table(scan: Scan, path: Path) -> None:
    relative, status = scan.relative_energies, f"uncertain: {'; '.join(scan.doubts)}" if scan.doubts else "ok"
    with replacing(path) as file:
        table = csv.writer(file)
        names = [f"{name}_deg" for name in dihedral_names(scan)]
        table.writerow([*names, "energy_eV", "relative_energy_kcal_per_mol", "status"])
        for point in np.ndindex(scan.energies.shape):
            is_there = point in scan.geometries
            numbers = [f"{scan.energies[point]:.8f}", f"{relative[point]:.6f}"] if is_there else ["", ""]
            angles = [f"{angle:g}" for angle in scan.angles_of(point)]
            table.writerow([*angles, *numbers, status if is_there else scan.failures[point]])


def _frames(scan: Scan) -> list[Atoms]:
    """Geometries in the order of the grid, with the status of the scan in `info`."""
    frames = []
    for geometry in scan.geometries.values():
        atoms = geometry.copy()
        atoms.calc = geometry.calc
        atoms.info.update(judgement(scan.doubts, scan.undefined_stereo))
        frames.append(atoms)
    return frames


def _sdf_record(scan: Scan, point: tuple[int, ...]) -> str:
    named = zip(dihedral_names(scan), scan.angles_of(point), strict=True)
    properties = {f"{name}_deg": f"{angle:g}" for name, angle in named}
    properties |= {
        "energy_eV": f"{scan.energies[point]:.8f}",
        "relative_energy_kcal_per_mol": f"{scan.relative_energies[point]:.6f}",
    }
    properties |= judgement(scan.doubts, scan.undefined_stereo)
    properties |= {name: str(getattr(scan, name)) for name in ("level", "model", "revision", "smiles", "seed")}
    return sdf_block(scan.graph, scan.geometries[point].positions, properties, title=scan.smiles)
