"""Text, tables and pictures of interaction energies."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase import Atoms

from physcon_ase.errors import PhysConError
from physcon_ase.inference.figures import new_figure
from physcon_ase.inference.files import check_output, write_structures
from physcon_ase.inference.formats.table import suffix_of
from physcon_ase.inference.formats.text import replacing, write_json
from physcon_ase.inference.interactions.interaction import DistanceCurve, Interaction
from physcon_ase.inference.interactions.parts import parts_of
from physcon_ase.inference.report import in_two_units, save_figure
from physcon_ase.units import EV_PER_KCAL_PER_MOL

_CURVES: Final = (".csv", ".png")
"""Suffixes of files with a distance curve."""

OUTPUTS: Final = (".json", *_CURVES, ".xyz")
"""Suffixes of the files that `write_interaction` writes."""

LINE_NAMES: Final = {"contact": "distance of the closest atoms", "centres": "distance of the centres"}
"""Description of each line of a distance curve."""


def format_interaction(interaction: Interaction) -> str:
    """Interaction as text for the terminal."""
    origin = interaction.provenance
    lines = [
        " + ".join(interaction.names),
        f"  model        {origin.model} (revision {origin.revision[:12]}), level {origin.level}",
        f"  interaction  {in_two_units(interaction.energy)}, molecules as they are in the complex",
    ]
    if interaction.deformation_energy is not None and interaction.binding_energy is not None:
        lines.append(f"  deformation  {in_two_units(interaction.deformation_energy)}")
        lines.append(
            f"  binding      {in_two_units(interaction.binding_energy)}, relaxed molecules, no zero-point energies"
        )
    curve = interaction.curve
    if curve is not None and np.isfinite(curve.energies).any():
        lowest = int(np.nanargmin(curve.energies))
        lines.append(
            f"  curve        lowest {in_two_units(float(curve.energies[lowest]))} at {curve.distances[lowest]:.2f} Å "
            f"({LINE_NAMES[curve.along]}), {in_two_units(float(curve.energies[-1]))} at {curve.distances[-1]:.2f} Å"
        )
    return "\n".join([*lines, f"  status       {interaction.status}"])


def write_interaction(
    interaction: Interaction,
    path: str | Path,
    *,
    inputs: Iterable[str | Path] = (),
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Writes all numbers (.json), the distance curve (.csv, .png), or the complex and its molecules (.xyz).

    Args:
        interaction: the interaction.
        path: output file; the suffix determines the content. All but the picture may end in .gz.
        inputs: input files, which must not be overwritten.
        origin: further entries of .json, such as the name of the molecule (`Row.origin`).

    Raises:
        PhysConError: see `files.check_output`; a curve of more than two molecules; matplotlib is not installed.
    """
    path = check_output(path, inputs, kinds=OUTPUTS)
    suffix = suffix_of(path)
    if suffix == ".json":
        write_json({**interaction.to_dict(), **(origin or {})}, path)
    elif suffix == ".xyz":
        write_structures(_frames(interaction), path)
    elif interaction.curve is None:
        raise _no_curve(path, len(interaction.names))
    elif suffix == ".csv":
        _write_curve(interaction.curve, path)
    else:
        _draw(interaction, interaction.curve, path)


def check_curves(paths: Iterable[Path], molecules: Any) -> None:
    """Checks before the computation that the distance curve of two molecules is written for two only.

    Raises:
        PhysConError: there are more; also see `parts.parts_of`.
    """
    of_curves = [path for path in paths if suffix_of(path) in _CURVES]
    n_molecules = len(parts_of(molecules)[1]) if of_curves else 0
    if n_molecules > 2:
        raise _no_curve(of_curves[0], n_molecules)


def _no_curve(path: Path, n_molecules: int) -> PhysConError:
    return PhysConError(
        f"{path} is for the distance curve of two molecules, but there are {n_molecules}: write .json or .xyz"
    )


def _frames(interaction: Interaction) -> list[Atoms]:
    """The complex and its molecules, with names, model, level and the status of the interaction in `info`."""
    origin, frames = interaction.provenance, []
    names = (" + ".join(interaction.names), *interaction.names)
    for name, geometry in zip(names, (interaction.complex, *interaction.molecules), strict=True):
        atoms = geometry.copy()
        atoms.calc = geometry.calc
        atoms.info |= {"name": name, "status": interaction.status}
        atoms.info |= {"model": origin.model, "revision": origin.revision, "level": origin.level}
        frames.append(atoms)
    return frames


def _write_curve(curve: DistanceCurve, path: Path) -> None:
    with replacing(path) as file:
        table = csv.writer(file)
        table.writerow((f"{curve.along}_distance_A", "interaction_eV", "interaction_kcal_per_mol"))
        for distance, energy in zip(curve.distances, curve.energies, strict=True):
            numbers = (f"{energy:.8f}", f"{energy / EV_PER_KCAL_PER_MOL:.5f}") if np.isfinite(energy) else ("", "")
            table.writerow((f"{distance:.4f}", *numbers))


def _draw(interaction: Interaction, curve: DistanceCurve, path: Path) -> None:
    figure = new_figure(7.0, 4.0)
    axes = figure.subplots()
    energies = curve.energies / EV_PER_KCAL_PER_MOL
    axes.axhline(0, color="tab:gray", linewidth=0.8)
    axes.plot(curve.distances, energies, color="tab:blue", marker=".")
    depth = max(-np.nanmin(energies, initial=0.0), 1.0)
    axes.set_ylim(-1.2 * depth, 1.5 * depth)  # the repulsive wall would hide the minimum
    axes.set_xlabel(f"{LINE_NAMES[curve.along]} [Å]")
    axes.set_ylabel("interaction energy [kcal/mol]")
    origin = interaction.provenance
    figure.suptitle(f"{' + '.join(interaction.names)} ({origin.model}, level {origin.level})", fontsize=10)
    save_figure(figure, path)
