import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.vibrations import Infrared
from rdkit import Chem
from rdkit.Chem import AllChem

from physcon_ase.errors import MissingHeadError, PhysConError, StoreError
from physcon_ase.inference import outcome
from physcon_ase.inference.calculator import PhysConCalculator
from physcon_ase.inference.vibrations.harmonic import Vibrations, vibrations
from physcon_ase.inference.vibrations.many import vibrations_many
from physcon_ase.inference.vibrations.spectra import format_vibrations, spectrum, write_spectrum, write_vibrations
from physcon_ase.model.physcon import LoadedModel, load_model
from tests.tiny import tiny_loaded


@pytest.fixture(scope="module")
def of_water(double: LoadedModel) -> Vibrations:
    return vibrations("O", checkpoint=double, level="b3lyp")


def test_frequencies_and_intensities_are_those_of_ases_finite_differences(
    of_water: Vibrations, double: LoadedModel, tmp_path: Path
) -> None:
    atoms = of_water.relaxation.atoms.copy()
    atoms.calc = PhysConCalculator(double, level="b3lyp")
    reference = Infrared(atoms, name=str(tmp_path / "ir"), delta=0.002, nfree=4)
    reference.run()
    found = reference.get_frequencies()[-3:].real
    np.testing.assert_allclose(of_water.frequencies, found, atol=1.0)
    assert of_water.intensities is not None
    np.testing.assert_allclose(of_water.intensities, reference.intensities[-3:] * 42.255, rtol=0.01)  # (D/Å)²/amu


def test_water_is_a_minimum_near_b3lyp_with_the_symmetry_of_water(of_water: Vibrations) -> None:
    assert of_water.is_ok
    assert of_water.n_imaginary == 0
    # B3LYP/6-31G(2df,p) of QM9: 1640, 3800, 3910 1/cm
    np.testing.assert_allclose(of_water.frequencies, [1640, 3800, 3910], atol=150)
    assert of_water.thermochemistry.symmetry_number == 2
    assert of_water.relaxation.fmax < 5e-4
    assert "level 'b3lyp'" in repr(of_water)
    assert len(repr(of_water)) < 250
    np.testing.assert_allclose(np.linalg.norm(of_water.modes.displacements, axis=(1, 2)), 1)


def test_deuterium_lowers_the_frequencies_and_not_the_energy(of_water: Vibrations, double: LoadedModel) -> None:
    heavy = vibrations("[2H]O[2H]", checkpoint=double, level="b3lyp")
    assert heavy.relaxation.energy == pytest.approx(of_water.relaxation.energy, abs=1e-5)
    assert heavy.relaxation.smiles == "[2H]O[2H]"
    ratios = heavy.frequencies / of_water.frequencies
    assert ((ratios > 0.71) & (ratios < 0.75)).all()  # 1/sqrt(2) would be hydrogen alone
    assert np.prod(ratios) == pytest.approx(
        _teller_redlich(heavy.relaxation.atoms, of_water.relaxation.atoms), rel=1e-3
    )
    again = vibrations(heavy.relaxation.atoms, checkpoint=double, level="b3lyp", relax=False)
    assert again.relaxation.smiles == "[2H]O[2H]"
    np.testing.assert_allclose(again.frequencies, heavy.frequencies, rtol=1e-6)


def _teller_redlich(heavy: Atoms, light: Atoms) -> float:
    """Ratio of the products of the frequencies of isotopologues."""

    def of(atoms: Atoms) -> float:
        shape = atoms.get_masses().sum() ** 3 * np.prod(atoms.get_moments_of_inertia())
        return float(np.sqrt(shape / np.prod(atoms.get_masses()) ** 3))

    return of(heavy) / of(light)


@pytest.mark.parametrize(("smiles", "number", "symmetry"), [("O=C=O", 4, 2), ("[H][H]", 1, 2), ("C#N", 4, 1)])
def test_linear_molecules_have_one_mode_more(smiles: str, number: int, symmetry: int, double: LoadedModel) -> None:
    found = vibrations(smiles, checkpoint=double, level="b3lyp")
    assert len(found.frequencies) == number
    assert found.thermochemistry.symmetry_number == symmetry


def test_a_single_atom_has_no_modes(double: LoadedModel) -> None:
    found = vibrations("[Cl-]", checkpoint=double, level="b3lyp-d3")
    assert len(found.frequencies) == 0
    assert found.is_ok
    assert found.thermochemistry.zero_point_energy == 0
    assert "none: a single atom" in format_vibrations(found)


def test_a_saddle_point_is_said_and_followed_downhill(double: LoadedModel) -> None:
    planar = Atoms("NH3", [[0, 0, 0], *([np.cos(a), np.sin(a), 0] for a in np.arange(3) * 2 * np.pi / 3)])
    saddle = vibrations(planar, checkpoint=double, level="b3lyp")
    assert saddle.n_imaginary == 1
    assert not saddle.is_ok
    assert saddle.status.startswith("1 imaginary mode")
    assert "follow_imaginary=True" in saddle.status
    found = vibrations(planar, checkpoint=double, level="b3lyp", follow_imaginary=True)
    assert found.is_ok
    assert found.n_followed == 1
    assert found.relaxation.energy < saddle.relaxation.energy - 0.05


def test_a_geometry_that_is_not_stationary_is_said(double: LoadedModel) -> None:
    atoms = molecule("H2O")
    atoms.positions[1] *= 1.2
    before = atoms.copy()
    found = vibrations(atoms, checkpoint=double, relax=False)
    assert found.status.startswith("not a stationary point: the largest force is")
    np.testing.assert_array_equal(found.relaxation.atoms.positions, before.positions)


def test_stated_settings_reach_the_thermochemistry(of_water: Vibrations, double: LoadedModel) -> None:
    atoms = of_water.relaxation.atoms
    found = vibrations(
        atoms,
        checkpoint=double,
        level="b3lyp",
        relax=False,
        temperature=400.0,
        pressure=1e5,
        symmetry_number=1,
        scale=0.96,
    )
    thermo = found.thermochemistry
    assert (thermo.temperature, thermo.pressure, thermo.symmetry_number) == (400, 1e5, 1)
    np.testing.assert_allclose(found.scaled_frequencies, 0.96 * found.frequencies)
    expected = 0.96 * of_water.thermochemistry.zero_point_energy
    assert thermo.zero_point_energy == pytest.approx(expected, rel=1e-4)


def test_the_bands_of_the_spectrum_have_the_area_of_the_intensities(of_water: Vibrations) -> None:
    wavenumbers, absorption = spectrum(of_water, width=5.0)
    assert of_water.intensities is not None
    assert absorption.sum() * (wavenumbers[1] - wavenumbers[0]) == pytest.approx(of_water.intensities.sum(), rel=0.05)
    strongest = of_water.frequencies[of_water.intensities.argmax()]
    assert abs(wavenumbers[absorption.argmax()] - strongest) < 1.0
    with pytest.raises(PhysConError, match=r"width is 0\.0"):
        spectrum(of_water, width=0.0)


def test_tables_and_pictures_are_written(of_water: Vibrations, tmp_path: Path) -> None:
    write_vibrations(of_water, tmp_path / "modes.csv")
    rows = list(csv.DictReader((tmp_path / "modes.csv").read_text().splitlines()))
    assert [float(row["frequency_per_cm"]) for row in rows] == pytest.approx(of_water.frequencies.tolist(), abs=1e-3)
    write_vibrations(of_water, tmp_path / "all.json")
    stored = json.loads((tmp_path / "all.json").read_text())
    assert stored["frequencies_per_cm"] == of_water.frequencies.tolist()
    assert stored["thermochemistry"]["gibbs_energy"] == of_water.thermochemistry.gibbs_energy
    assert stored["level"] == "b3lyp"
    write_vibrations(of_water, tmp_path / "spectrum.png")
    assert (tmp_path / "spectrum.png").read_bytes().startswith(b"\x89PNG")
    write_spectrum(of_water, tmp_path / "spectrum.csv")
    assert len((tmp_path / "spectrum.csv").read_text().splitlines()) > 4000
    with pytest.raises(PhysConError, match=r"must end in \.csv, \.json, \.png"):
        write_vibrations(of_water, tmp_path / "modes.txt")


def test_capitals_and_compression_do_not_change_the_format(of_water: Vibrations, tmp_path: Path) -> None:
    for name in ("m.csv", "M.CSV", "m.csv.gz", "all.json.gz", "ALL.JSON", "ir.PNG"):
        write_vibrations(of_water, tmp_path / name)
    modes = (tmp_path / "m.csv").read_bytes()
    assert (tmp_path / "M.CSV").read_bytes() == gzip.decompress((tmp_path / "m.csv.gz").read_bytes()) == modes
    everything = gzip.decompress((tmp_path / "all.json.gz").read_bytes())
    assert json.loads((tmp_path / "ALL.JSON").read_text()) == json.loads(everything)
    for name in ("ir.csv", "ir.CSV.gz", "ir2.PNG"):
        write_spectrum(of_water, tmp_path / name)
    assert gzip.decompress((tmp_path / "ir.CSV.gz").read_bytes()) == (tmp_path / "ir.csv").read_bytes()
    assert (tmp_path / "ir.PNG").read_bytes() == (tmp_path / "ir2.PNG").read_bytes()
    for write in (write_vibrations, write_spectrum):
        with pytest.raises(PhysConError, match="pictures are compressed already"):
            write(of_water, tmp_path / "ir.png.gz")


def test_a_model_without_charges_has_frequencies_but_no_spectrum(of_water: Vibrations, tmp_path: Path) -> None:
    found = vibrations(molecule("H2O"), checkpoint=tiny_loaded(), relax=False)
    assert found.intensities is None
    assert found.to_dict()["intensities_km_per_mol"] is None
    with pytest.raises(MissingHeadError, match="tiny has no partial charges"):
        spectrum(found)
    write_vibrations(found, tmp_path / "modes.csv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, r"temperature \[K\] is 0.0"),
        ({"pressure": -1.0}, r"pressure \[Pa\] is -1.0"),
        ({"scale": np.nan}, "scale is nan"),
        ({"symmetry_number": 0}, "symmetry_number is 0; 1 or more is needed"),
        ({"relax": False}, "relax=False requires a geometry"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict, message: str, double: LoadedModel) -> None:
    with pytest.raises(PhysConError, match=message):
        vibrations("O", checkpoint=double, **options)


def test_constraints_and_single_precision_are_refused(double: LoadedModel) -> None:
    atoms = molecule("H2O")
    with pytest.raises(PhysConError, match="float64"):
        vibrations(atoms, checkpoint=load_model())
    atoms.set_constraint(FixAtoms([0]))
    with pytest.raises(PhysConError, match="delete its constraints"):
        vibrations(atoms, checkpoint=double)


def test_a_relaxation_that_changed_the_molecule_is_no_minimum(
    of_water: Vibrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = replace(of_water.relaxation, bonds_intact=False, status="bonds changed")
    monkeypatch.setattr("physcon_ase.inference.vibrations.harmonic.optimize", lambda *_, **__: changed)
    found = vibrations("O", checkpoint=load_model(dtype="float64"), level="b3lyp")
    assert (found.is_ok, found.status) == (False, "bonds changed")


def test_doubts_about_a_geometry_are_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    relaxed = vibrations("O").relaxation.atoms
    assert vibrations(relaxed, relax=False).is_ok
    monkeypatch.setattr(outcome, "doubts_of", lambda *_: ("few training molecules have this",))
    found = vibrations(relaxed, relax=False)
    assert (found.status, found.is_ok) == ("uncertain: few training molecules have this", False)


def test_isotopes_of_any_input_count_for_the_entropy() -> None:
    heavy = Chem.AddHs(Chem.MolFromSmiles("[2H]O"))
    AllChem.EmbedMolecule(heavy, randomSeed=1)
    entropies = [vibrations(each).thermochemistry.entropy for each in ("[2H]O", heavy)]
    assert entropies[0] == pytest.approx(entropies[1], rel=1e-4)


def test_an_interrupted_run_over_molecules_goes_on(double: LoadedModel, tmp_path: Path) -> None:
    molecules, options = ["O", "foo", "OO"], {"checkpoint": double, "progress_bar": False}
    journal = tmp_path / "journal"
    whole = vibrations_many(molecules, **options)
    assert [record.status for record in whole] == ["ok", "failed", whole[2].status]
    with pytest.raises(KeyboardInterrupt):
        vibrations_many(molecules, journal=journal, on_progress=interrupted, **options)
    done = []
    resumed = vibrations_many(molecules, journal=journal, on_progress=lambda n, _: done.append(n), **options)
    assert done == [2, 3]
    for one, other in zip(resumed, whole, strict=True):
        assert (one.name, one.status, one.reason) == (other.name, other.status, other.reason)
        if one.result is not None and other.result is not None:
            np.testing.assert_array_equal(one.result.modes.hessian, other.result.modes.hessian)
            assert one.result.thermochemistry == other.result.thermochemistry
    with pytest.raises(StoreError, match="molecules or settings"):
        vibrations_many(molecules, journal=journal, temperature=300.0, **options)


def interrupted(n_finished: int, n_molecules: int) -> None:
    raise KeyboardInterrupt


def test_the_record_of_a_saddle_point_is_no_minimum(double: LoadedModel) -> None:
    planar = molecule("NH3")
    planar.positions[:, 2] = 0
    at_saddle, at_minimum = vibrations_many([planar, "N"], checkpoint=double, progress_bar=False)
    assert (at_saddle.status, at_minimum.status) == ("not a minimum", "ok")
    assert "1 imaginary mode" in at_saddle.reason


def test_settings_are_checked_before_the_first_molecule() -> None:
    with pytest.raises(PhysConError, match="temperature"):
        vibrations_many(["O"], temperature=0.0)
    with pytest.raises(PhysConError, match="frequencies need a model in float64"):
        vibrations_many(["O"], checkpoint=load_model(dtype="float32"))


def test_a_constrained_start_is_refused(double: LoadedModel) -> None:
    start = molecule("H2O")
    start.set_constraint(FixAtoms([0, 1, 2]))
    with pytest.raises(PhysConError, match="frequencies of a constrained geometry are not supported"):
        vibrations("O", start=start, checkpoint=double)


def test_a_doubted_saddle_point_has_both_in_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    eclipsed = molecule("C2H6")
    eclipsed.positions[5:] = eclipsed.positions[2:5] * [1, 1, -1]
    monkeypatch.setattr(outcome, "doubts_of", lambda *_: ("few training molecules have this",))
    found = vibrations(eclipsed)
    assert found.n_imaginary == 1
    assert found.status.startswith("1 imaginary mode, the lowest ")
    assert found.status.endswith("; uncertain: few training molecules have this")
    assert found.judged() == ("not a minimum", found.status)
