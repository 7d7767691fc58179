"""Entries of a page from the dictionaries of records, one function per kind of calculation."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from physcon_ase.inference.interactions.report import LINE_NAMES
from physcon_ase.inference.pages import plots
from physcon_ase.inference.pages.entry import Entry, Table
from physcon_ase.inference.pages.structure import structures_of
from physcon_ase.inference.report import in_two_units
from physcon_ase.inference.scans.scan import in_degrees
from physcon_ase.inference.vibrations.spectra import WIDTH, broadened
from physcon_ase.plurals import counted
from physcon_ase.units import CHEMICAL_SYMBOLS, EV_PER_KCAL_PER_MOL

Data = Mapping[str, Any]

FAILED: Final = "failed"


def relaxation_entry(found: Data) -> Entry:
    """Entry of a `Result.to_dict` with the status, reason and name of its record."""
    above = found["energy_eV"] - found["energies_eV"][0] if found["energies_eV"] else 0.0
    return Entry(
        kind="relaxation",
        **_common(found),
        energy=found["energy_eV"],
        energy_uncertainty=found["energy_uncertainty_eV"],
        fmax=found["fmax_eV_per_A"],
        steps=found["steps"],
        summary=found["reason"],
        numbers=(
            ("Energy", _energy(found["energy_eV"], found["energy_uncertainty_eV"])),
            ("Energy from the start", f"{above:+.4f} eV"),
            ("Largest force", f"{found['fmax_eV_per_A']:.4f} eV/Å"),
            ("Relaxation", f"{counted(found['steps'], 'step')} of {found['optimizer']}"),
            *_of_molecule(found),
            ("Bonds", _kept(found["bonds_intact"])),
            ("Configuration", _kept(found["stereo_intact"])),
            ("Start", f"{found['start']}, seed {found['seed']}"),
            *_origin(found),
        ),
        structures=structures_of(found["atomic_numbers"], [found["positions_A"]], ["final geometry"]),
        plots=_convergence(found),
    )


def ensemble_entry(found: Data) -> Entry:
    """Entry of an `Ensemble.to_dict` or `RunRecord.to_dict`."""
    conformers = found["conformers"]
    lowest = conformers[0]
    left_out = ", ".join(f"{count} {reason}" for reason, count in found["left_out"].items()) or "none"
    starts = "ETKDG, relaxed with MMFF94" if found["prerelaxed"] else "ETKDG"
    temperature = found["temperature_kelvin"]
    return Entry(
        kind="ensemble",
        **_common(found),
        energy=lowest["energy_eV"],
        energy_uncertainty=lowest["energy_uncertainty_eV"],
        fmax=lowest["fmax_eV_per_A"],
        summary=f"{counted(len(conformers), 'conformer')} within {found['window_kcal_per_mol']:g} kcal/mol",
        numbers=(
            ("Conformers", f"{len(conformers)} within {found['window_kcal_per_mol']:g} kcal/mol"),
            ("Energy of the lowest", _energy(lowest["energy_eV"], lowest["energy_uncertainty_eV"])),
            *_of_molecule(found),
            ("Start geometries", f"{found['n_starts']} ({starts}), seed {found['seed']}"),
            ("Left out", left_out),
            *_origin(found),
        ),
        structures=structures_of(
            found["atomic_numbers"],
            [conformer["positions_A"] for conformer in conformers],
            [
                f"conformer {number}: {own['relative_energy_kcal_per_mol']:.2f} kcal/mol, {100 * own['weight']:.1f} %"
                for number, own in enumerate(conformers)
            ],
        ),
        tables=(
            Table(
                "Conformers",
                ("Conformer", "Relative energy [kcal/mol]", f"Weight at {temperature:g} K", "RMSD to the lowest [Å]"),
                tuple(
                    (
                        str(number),
                        f"{own['relative_energy_kcal_per_mol']:.3f}",
                        f"{own['weight']:.4f}",
                        f"{found['rmsd_A'][0][number]:.3f}",
                    )
                    for number, own in enumerate(conformers)
                ),
                selects=True,
            ),
        ),
        strains=tuple(own["relative_energy_kcal_per_mol"] for own in conformers),
    )


def scan_entry(found: Data) -> Entry:
    """Entry of a `Scan.to_dict` or `RunRecord.to_dict`."""
    points = found["points"]
    there = [point for point in points if point["energy_eV"] is not None]
    energies = [point["relative_energy_kcal_per_mol"] for point in points]
    is_profile, names = len(found["dihedrals"]) == 1, _dihedral_names(found)
    angles = sorted({point["angles_degrees"][0] for point in points})
    lowest = min(there, key=lambda point: point["energy_eV"])
    highest = max(point["relative_energy_kcal_per_mol"] for point in there)
    n_failed = len(points) - len(there)
    plot = (
        plots.profile(angles, energies, names[0])
        if is_profile
        else plots.energy_map(angles, energies, found["minima_degrees"], names)
    )
    barriers = tuple(
        (
            *(in_degrees(angles) for angles in barrier["minima_degrees"]),
            in_degrees(barrier["top_degrees"]),
            *(f"{height:.2f}" for height in barrier["heights_kcal_per_mol"]),
        )
        for barrier in found["barriers"]
    )
    failures = tuple((in_degrees(point["angles_degrees"]), point["failure"]) for point in points if point["failure"])
    return Entry(
        kind="scan",
        **_common(found),
        energy=lowest["energy_eV"],
        summary=f"{counted(len(found['minima_degrees']), 'minimum', 'minima')}, up to {highest:.2f} kcal/mol",
        numbers=(
            ("Dihedral angles" if len(names) > 1 else "Dihedral angle", ", ".join(names)),
            ("Grid points", f"{len(points)}, of which {n_failed} without geometry"),
            ("Lowest point", f"{_energy(lowest['energy_eV'], None)} at {in_degrees(lowest['angles_degrees'])}"),
            ("Highest point", f"{highest:.2f} kcal/mol above the lowest"),
            *_of_molecule(found),
            *_origin(found),
        ),
        structures=structures_of(
            found["atomic_numbers"],
            [point["positions_A"] for point in there],
            [
                f"{in_degrees(point['angles_degrees'])}: {point['relative_energy_kcal_per_mol']:.2f} kcal/mol"
                for point in there
            ],
            shown=there.index(lowest),
        ),
        plots=(plot,),
        tables=(
            Table("Barriers", ("From", "To", "Top", "Forward [kcal/mol]", "Back [kcal/mol]"), barriers),
            Table("Failed grid points", ("Angles", "Reason"), failures),
        ),
    )


def vibrations_entry(found: Data) -> Entry:
    """Entry of a `Vibrations.to_dict` or `RunRecord.to_dict`."""
    thermo, relaxation = found["thermochemistry"], found["relaxation"]
    scaled, intensities = found["scaled_frequencies_per_cm"], found["intensities_km_per_mol"]
    status = found.get("outcome") or ("ok" if found["status"] == "minimum" else "uncertain")  # earlier files have none
    at = f"({thermo['temperature']:g} K)"
    spectrum = ()
    if intensities and any(place > 0 for place in scaled):
        wavenumbers, absorption = broadened(scaled, intensities, width=WIDTH)
        spectrum = (plots.infrared(wavenumbers, absorption, scaled, intensities, WIDTH),)
    reason = found.get("reason", "" if status == "ok" else found["status"])
    common = _common(found) | {"status": status, "reason": reason}
    zero_point, gibbs = thermo["zero_point_energy"], thermo["quasi_rrho_gibbs_energy"]
    return Entry(
        kind="vibrations",
        **common,
        energy=found["energy_eV"],
        energy_uncertainty=relaxation["energy_uncertainty_eV"],
        fmax=found["fmax_eV_per_A"],
        steps=relaxation["steps"],
        summary=f"zero-point energy {zero_point:.4f} eV, G{at} {gibbs:.4f} eV",
        numbers=(
            ("Energy", _energy(found["energy_eV"], relaxation["energy_uncertainty_eV"])),
            ("Modes", f"{len(scaled)}, of which {found['n_imaginary']} imaginary"),
            ("Zero-point energy", in_two_units(zero_point, decimals=4)),
            (f"Enthalpy {at}", f"{thermo['enthalpy']:.6f} eV"),
            (f"Entropy {at}", f"{1000 * thermo['entropy']:.4f} meV/K"),
            (f"Gibbs energy {at}", f"{thermo['gibbs_energy']:.6f} eV"),
            (f"Entropy {at}, quasi-RRHO", f"{1000 * thermo['quasi_rrho_entropy']:.4f} meV/K"),
            (f"Gibbs energy {at}, quasi-RRHO", f"{gibbs:.6f} eV"),
            ("Largest force", f"{found['fmax_eV_per_A']:.5f} eV/Å"),
            *_of_molecule({**found, "charge": relaxation["charge"]}),
            ("Conventions", thermo["conventions"]),
            *_origin(found),
        ),
        structures=structures_of(found["atomic_numbers"], [found["positions_A"]], ["stationary point"]),
        plots=(*spectrum, *_convergence(relaxation)),
        tables=(_modes(found),),
    )


def interaction_entry(found: Data) -> Entry:
    """Entry of an `Interaction.to_dict`."""
    curve, energy = found["curve"], found["interaction_energy_eV"]
    is_ok = found["status"] == "ok"
    common: dict[str, Any] = _common(found) | {
        "name": found.get("name") or " + ".join(found["molecules"]),
        "status": found.get("outcome") or ("ok" if is_ok else "uncertain"),  # earlier files have none
        "reason": "" if is_ok else found["status"],
        "smiles": "" if found["relaxation"] is None else found["relaxation"]["smiles"],
    }
    drawn = ()
    if curve is not None:
        kcal = [None if value is None else value / EV_PER_KCAL_PER_MOL for value in curve["energies_eV"]]
        drawn = (plots.distance_curve(curve["distances_A"], kcal, LINE_NAMES[curve["along"]]),)
    relaxed = () if found["relaxation"] is None else _convergence(found["relaxation"])
    further = {"Deformation energy": found["deformation_energy_eV"], "Binding energy": found["binding_energy_eV"]}
    return Entry(
        kind="interaction",
        **common,
        energy=found["complex_energy_eV"],
        summary=f"interaction {energy / EV_PER_KCAL_PER_MOL:.2f} kcal/mol",
        numbers=(
            ("Interaction energy", in_two_units(energy, decimals=4)),
            *((name, in_two_units(value, decimals=4)) for name, value in further.items() if value is not None),
            ("Energy of the complex", _energy(found["complex_energy_eV"], None)),
            *(
                (f"Energy of {name}", _energy(value, None))
                for name, value in zip(found["molecules"], found["molecule_energies_eV"], strict=True)
            ),
            ("Energy left at 50 Å", f"{found['remainder_eV']:.5f} eV"),
            *_origin(found),
        ),
        structures=structures_of(found["atomic_numbers"], [found["positions_A"]], ["complex"]),
        plots=(*drawn, *relaxed),
    )


def strain_entry(found: Data) -> Entry:
    """Entry of a `Strain.to_dict` or `RunRecord.to_dict`."""
    strain, local = found["strain_kcal_per_mol"], found["local_strain_kcal_per_mol"]
    return Entry(
        kind="strain",
        **_common(found),
        energy=found["pose_energy_eV"],
        summary=f"strain {strain:.2f} kcal/mol",
        numbers=(
            ("Above the lowest conformer", f"{strain:.2f} kcal/mol"),
            ("Above the nearest minimum", f"{local:.2f} kcal/mol"),
            ("Energy of the pose, torsions held", _energy(found["pose_energy_eV"], None)),
            ("Energy of the nearest minimum", _energy(found["nearest_energy_eV"], None)),
            ("Energy of the lowest conformer", _energy(found["lowest_energy_eV"], None)),
            ("RMSD of the nearest minimum from the input", f"{found['nearest_rmsd_A']:.3f} Å (heavy atoms)"),
            ("Conformers searched", f"{found['n_conformers']}, seed {found['seed']}"),
            *_of_molecule(found),
            *_origin(found),
        ),
        structures=structures_of(
            found["atomic_numbers"],
            [found["pose_positions_A"], found["nearest_positions_A"]],
            ["pose, torsions held", "nearest minimum"],
        ),
        strains=(strain,),
    )


KINDS: Final[dict[str, Callable[[Data], Entry]]] = {
    "relaxation": relaxation_entry,
    "ensemble": ensemble_entry,
    "scan": scan_entry,
    "strain": strain_entry,
    "vibrations": vibrations_entry,
    "interaction": interaction_entry,
}
"""Function for each kind of calculation."""


def entry_of(found: Data) -> Entry:
    """Entry of the dictionary of a record, whose kind is one of `KINDS`.

    Raises:
        KeyError: a field is missing.
    """
    if found.get("status") == FAILED:
        common = _common(found)
        return Entry(kind=found["kind"], **common, summary=common["reason"])
    return KINDS[found["kind"]](found)


def _common(found: Data) -> dict[str, Any]:
    """Fields that all kinds have."""
    error = found.get("error")
    reason = found.get("reason") or "; ".join(found.get("doubts", ()))
    return {
        "name": found.get("name") or found.get("smiles") or found.get("formula") or found.get("input") or "",
        "status": found.get("status") or ("uncertain" if reason else "ok"),
        "reason": f"{error}: {reason}" if error else reason,
        "smiles": found.get("smiles") or found.get("input") or "",
        "formula": found.get("formula") or "",
        "source": found.get("source") or "",
        **{name: found.get(name) or "" for name in ("model", "revision", "level")},
    }


def _of_molecule(found: Data) -> tuple[tuple[str, str], ...]:
    stereo = tuple(
        ("Undefined in the input", f"{line}: decided by the seed") for line in found.get("undefined_stereo", ())
    )
    charge = f", charge {found['charge']:+d}" if found["charge"] else ""
    return (("Molecule", f"{found['formula']}, {counted(len(found['atomic_numbers']), 'atom')}{charge}"), *stereo)


def _origin(found: Data) -> tuple[tuple[str, str], ...]:
    return (("Model", f"{found['model']}, level {found['level']}, revision {found['revision'][:12]}"),)


def _convergence(found: Data) -> tuple[dict[str, Any], ...]:
    if len(found["energies_eV"]) < 2:
        return ()
    return (plots.convergence(found["energies_eV"], found["fmax_history_eV_per_A"], found["optimizer"]),)


def _modes(found: Data) -> Table:
    frequencies, masses = found["frequencies_per_cm"], found["reduced_masses_amu"]
    intensities = found["intensities_km_per_mol"] or [None] * len(frequencies)
    rows = tuple(
        (
            str(number),
            f"{abs(frequency):.1f}{'i' if frequency < 0 else ''}",
            f"{abs(scaled):.1f}{'i' if scaled < 0 else ''}",
            "" if intensity is None else f"{intensity:.2f}",
            f"{mass:.3f}",
        )
        for number, (frequency, scaled, intensity, mass) in enumerate(
            zip(frequencies, found["scaled_frequencies_per_cm"], intensities, masses, strict=True), start=1
        )
    )
    scaled = f"Times {found['scale']:g} [1/cm]"
    columns = ("Mode", "Frequency [1/cm]", scaled, "Intensity [km/mol]", "Reduced mass [amu]")
    if found["scale"] == 1:
        columns = (*columns[:2], *columns[3:])
        rows = tuple((*row[:2], *row[3:]) for row in rows)
    return Table("Modes", columns, rows)


def _dihedral_names(found: Data) -> list[str]:
    symbols = [CHEMICAL_SYMBOLS[number] for number in found["atomic_numbers"]]
    return ["-".join(f"{symbols[atom]}{atom}" for atom in members) for members in found["dihedrals"]]


def _energy(energy: float, uncertainty: float | None) -> str:
    return f"{energy:.6f} eV" if uncertainty is None else f"{energy:.6f} ± {uncertainty:.3f} eV"


def _kept(intact: bool | None) -> str:
    return {True: "as in the input", False: "changed", None: "not known"}[intact]
