"""Text, tables and pictures of vibrations."""

import csv
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.stats import cauchy

from physcon_ase.errors import MissingHeadError
from physcon_ase.inference.figures import new_figure
from physcon_ase.inference.files import check_output
from physcon_ase.inference.formats.table import suffix_of
from physcon_ase.inference.formats.text import replacing, write_json
from physcon_ase.inference.intake import above_zero
from physcon_ase.inference.report import in_two_units, save_figure
from physcon_ase.inference.vibrations.harmonic import Vibrations
from physcon_ase.plurals import counted
from physcon_ase.units import EV_PER_KCAL_PER_MOL

OUTPUTS: Final = (".csv", ".json", ".png")
"""Suffixes of the files that `write_vibrations` writes."""

SPECTRA: Final = (".csv", ".png")
"""Suffixes of the files that `write_spectrum` writes."""

WIDTH: Final = 15.0
"""Default full width [1/cm] at half maximum of the bands."""

_STEP: Final = 1.0
"""Step [1/cm] of the wavenumbers of a spectrum."""


def spectrum(
    vibrations: Vibrations, *, width: float = WIDTH
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Wavenumbers [1/cm] and absorption [km/mol per 1/cm] of the scaled frequencies, broadened by Lorentz functions.

    The area of a band is its infrared intensity. Imaginary modes are left out.

    Args:
        vibrations: the vibrations.
        width: full width [1/cm] at half maximum.

    Raises:
        MissingHeadError: the model has no partial charges, and thus no intensities.
        PhysConError: a width that is not larger than 0.
    """
    above_zero("width", width)
    if vibrations.intensities is None:
        raise MissingHeadError(
            f"{vibrations.relaxation.model} has no partial charges and gives no infrared intensities: use a checkpoint "
            "with charges"
        )
    return broadened(vibrations.scaled_frequencies, vibrations.intensities, width=width)


def broadened(
    frequencies: ArrayLike, intensities: ArrayLike, *, width: float
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Wavenumbers [1/cm] and absorption [km/mol per 1/cm] of modes as Lorentz functions, imaginary ones left out.

    Args:
        frequencies: frequencies [1/cm], imaginary ones negative.
        intensities: infrared intensities [km/mol], the areas of the bands.
        width: full width [1/cm] at half maximum.
    """
    places, areas = np.asarray(frequencies, dtype=float), np.asarray(intensities, dtype=float)
    is_real = places > 0
    wavenumbers = np.arange(0.0, max(4000.0, places.max(initial=0.0) + 100.0), _STEP)
    bands = cauchy.pdf(wavenumbers[:, None], loc=places[is_real], scale=width / 2)
    return wavenumbers, bands @ areas[is_real]


def format_vibrations(vibrations: Vibrations) -> str:
    """Vibrations as text for the terminal."""
    found, thermo = vibrations.relaxation, vibrations.thermochemistry
    name, formula = found.smiles, found.atoms.get_chemical_formula()
    at = f"({thermo.temperature:g} K)"
    quasi = thermo.quasi_rrho_gibbs_energy
    lines = [
        f"{name or formula}  ({formula}, {counted(len(found.atoms), 'atom')})",
        f"  model        {found.model} (revision {found.revision[:12]}), level {found.level}, float64",
        f"  energy       {found.energy:.6f} eV, fmax {found.fmax:.5f} eV/Å, {counted(found.steps, 'step')} of "
        f"{found.optimizer}",
        f"  frequencies  {_range(vibrations)}",
        f"  zero point   {in_two_units(thermo.zero_point_energy)}",
        f"  H{at}  {thermo.enthalpy:.6f} eV, {in_two_units(thermo.enthalpy - found.energy)} above the energy",
        f"  S{at}  {1000 * thermo.entropy:.4f} meV/K ({_cal(thermo.entropy):.2f} cal/(mol K)); quasi-RRHO "
        f"{1000 * thermo.quasi_rrho_entropy:.4f} meV/K",
        f"  G{at}  {thermo.gibbs_energy:.6f} eV; quasi-RRHO {quasi:.6f} eV",
        *textwrap.wrap(f"  conventions  {thermo.conventions}", 112, subsequent_indent=15 * " "),
        f"  status       {vibrations.status}",
    ]
    return "\n".join(lines)


def write_vibrations(
    vibrations: Vibrations,
    path: str | Path,
    *,
    width: float = WIDTH,
    inputs: Iterable[str | Path] = (),
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Writes a table of the modes (.csv), everything but the Hessian (.json) or a picture of the spectrum (.png).

    Args:
        vibrations: the vibrations.
        path: output file; the suffix determines the content. Table and .json may end in .gz.
        width: full width [1/cm] at half maximum of the bands of the picture.
        inputs: input files, which must not be overwritten.
        origin: further entries of .json, such as the name of the molecule (`Row.origin`).

    Raises:
        PhysConError: see `files.check_output`; matplotlib is not installed.
        MissingHeadError: see `spectrum`.
    """
    path = check_output(path, inputs, kinds=OUTPUTS)
    suffix = suffix_of(path)
    if suffix == ".json":
        write_json({**vibrations.to_dict(), **(origin or {})}, path)
    elif suffix == ".csv":
        _write_modes(vibrations, path)
    else:
        _draw(vibrations, path, width)


def write_spectrum(
    vibrations: Vibrations, path: str | Path, *, width: float = WIDTH, inputs: Iterable[str | Path] = ()
) -> None:
    """Writes the broadened spectrum as a table (.csv) or a picture (.png); see `write_vibrations`."""
    path = check_output(path, inputs, kinds=SPECTRA)
    if suffix_of(path) == ".png":
        _draw(vibrations, path, width)
        return
    with replacing(path) as file:
        table = csv.writer(file)
        table.writerow(("wavenumber_per_cm", "absorption_km_per_mol_cm"))
        table.writerows((f"{x:.1f}", f"{y:.6g}") for x, y in zip(*spectrum(vibrations, width=width), strict=True))


def _write_modes(vibrations: Vibrations, path: Path) -> None:
    modes = vibrations.modes
    intensities = [""] * len(modes.frequencies)
    if modes.intensities is not None:
        intensities = [f"{value:.4f}" for value in modes.intensities]
    with replacing(path) as file:
        table = csv.writer(file)
        table.writerow(
            ("mode", "frequency_per_cm", "scaled_frequency_per_cm", "intensity_km_per_mol", "reduced_mass_amu")
        )
        rows = zip(modes.frequencies, vibrations.scaled_frequencies, intensities, modes.reduced_masses, strict=True)
        for number, (frequency, scaled, intensity, mass) in enumerate(rows, start=1):
            table.writerow((number, f"{frequency:.3f}", f"{scaled:.3f}", intensity, f"{mass:.4f}"))


def _draw(vibrations: Vibrations, path: Path, width: float) -> None:
    wavenumbers, absorption = spectrum(vibrations, width=width)
    assert vibrations.intensities is not None
    figure, found = new_figure(9.0, 4.0), vibrations.relaxation
    axes = figure.subplots()
    axes.plot(wavenumbers, absorption, color="tab:blue", linewidth=1)
    sticks = axes.twinx()
    sticks.vlines(vibrations.scaled_frequencies, 0, vibrations.intensities, color="tab:gray", linewidth=1)
    sticks.set_ylim(bottom=0)
    sticks.set_ylabel("intensity of a mode [km/mol]")
    axes.set_ylim(bottom=0)
    axes.set_xlim(wavenumbers[-1], 0)
    axes.set_xlabel(f"wavenumber [1/cm], harmonic, times {vibrations.scale:g}")
    axes.set_ylabel(f"absorption [km/mol per 1/cm], width {width:g} 1/cm")
    name = found.smiles or found.atoms.get_chemical_formula()
    figure.suptitle(f"{name} ({found.model}, level {found.level})", fontsize=10)
    save_figure(figure, path)


def _range(vibrations: Vibrations) -> str:
    found = vibrations.frequencies
    if len(found) == 0:
        return "none: a single atom"
    text = f"{len(found)} from {found[0]:.1f} to {found[-1]:.1f} 1/cm, {vibrations.n_imaginary} imaginary"
    return text if vibrations.scale == 1 else f"{text}, unscaled (thermochemistry: times {vibrations.scale:g})"


def _cal(entropy: float) -> float:
    """Entropy [cal/(mol K)] of an entropy [eV/K]."""
    return 1000 * entropy / EV_PER_KCAL_PER_MOL
