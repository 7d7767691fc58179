import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import molecule
from ase.constraints import FixInternals
from ase.io import read
from rdkit import Chem
from tqdm import tqdm

from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.errors import ConstraintError, NoConformersError, PhysConError, StoreError
from physcon_ase.inference.one import optimize
from physcon_ase.inference.scans import search
from physcon_ase.inference.scans.many import scan_many
from physcon_ase.inference.scans.report import format_scan, write_scan
from physcon_ase.inference.scans.scan import Scan
from physcon_ase.inference.scans.search import scan
from physcon_ase.inference.starts import settings_of
from physcon_ase.model.physcon import LoadedModel

EXACT = 1e-3
"""[degrees]."""

NOISE = 2e-3
"""Energy [eV] left by soft coordinates at 0.02 eV/Å, and by points that do not become lower by more than `GAIN`."""

CCOH = (0, 1, 2, 8)


@pytest.fixture(scope="module")
def ethanol(double: LoadedModel) -> Scan:
    return scan("CCO", CCOH, step=60.0, n_conformers=3, checkpoint=double)


def test_every_grid_point_has_its_angle_and_is_relaxed_otherwise(ethanol: Scan, double: LoadedModel) -> None:
    assert ethanol.failures == {}
    assert ethanol.angles.tolist() == [-180, -120, -60, 0, 60, 120]
    for point, atoms in ethanol.geometries.items():
        difference = atoms.get_dihedral(*CCOH) - ethanol.angles[point]
        assert abs((difference + 180) % 360 - 180) < EXACT
        assert atoms.get_potential_energy() == ethanol.energies[point]
    atoms = ethanol.geometries[5,].copy()
    atoms.set_constraint(FixInternals(dihedrals_deg=[[120.0, list(CCOH)]]))
    assert ethanol.energies[5] == pytest.approx(optimize(atoms, checkpoint=double).energy, abs=1e-3)


def test_profile_has_the_symmetry_of_the_molecule(ethanol: Scan) -> None:
    mirrored = ethanol.energies[(-np.arange(6)) % 6]
    assert np.allclose(ethanol.energies, mirrored, atol=NOISE)
    assert len(ethanol.minima) == 3
    assert all(0.3 < height < 3 for barrier in ethanol.barriers for height in barrier.heights)  # kcal/mol


def test_profile_does_not_depend_on_spelling_or_start(ethanol: Scan, double: LoadedModel) -> None:
    other = scan("OCC", (2, 1, 0, 3), step=60.0, n_conformers=3, checkpoint=double)
    assert np.allclose(other.energies, ethanol.energies, atol=NOISE)
    assert other.geometries[0,].get_chemical_symbols()[:3] == ["O", "C", "C"]
    given = scan(molecule("CH3CH2OH"), (0, 1, 2, 3), step=60.0, checkpoint=double)
    assert given.n_starts == 1
    assert np.allclose(given.energies, ethanol.energies, atol=NOISE)


def test_a_lower_geometry_spreads_to_both_sides(double: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relaxations are replaced: a start keeps its energy unless it comes from the point at 0 degrees."""
    lowered, tried = {3: -1.0}, []

    class Outcome:
        is_minimum, doubts = True, ()

        def __init__(self, atoms, energy):
            self.atoms, self.energy = atoms, energy

    def relax_jobs(jobs, settings, on_batch):
        outcomes = []
        for job in jobs:
            (constraint,) = job.atoms.constraints
            point = round((constraint.dihedrals[0][0] + 180) / 60)
            tried.append(point)
            # the mark of the low conformer is an extremely long bond, which rotations keep
            marked = job.atoms.get_distance(0, 1) > 2 or (point == 3 and len(tried) <= 7)
            atoms = job.atoms.copy()
            if marked and atoms.get_distance(0, 1) < 2:
                atoms.positions[0] = atoms.positions[1] + 2 * (atoms.positions[0] - atoms.positions[1])
            outcomes.append(Outcome(atoms, lowered[3] if marked else float(point)))
        return outcomes

    monkeypatch.setattr(search, "relax_jobs", relax_jobs)
    monkeypatch.setattr(search._Front, "atoms_at", lambda front, point: front.best[point].atoms)
    found = scan(molecule("CH3CH2OH"), (0, 1, 2, 3), step=60.0, checkpoint=double)
    assert found.energies.tolist() == [-1.0] * 6
    assert found.n_waves == 5  # the start, three rounds to the opposite point, one without effect


def test_failed_points_have_a_reason(double: LoadedModel) -> None:
    with pytest.raises(NoConformersError, match=r"no point of the scan of 'CCO' could be relaxed: step limit reached"):
        scan(molecule("CH3CH2OH"), (0, 1, 2, 3), step=120.0, max_steps=0, checkpoint=double)


def test_a_scan_can_be_read_printed_and_written(ethanol: Scan, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(json.loads(json.dumps(ethanol.to_dict()))["points"]) == 6
    assert len(repr(ethanol)) < 200
    text = format_scan(ethanol)
    assert "about C0-C1-O2-H8" in text
    assert text.count("barrier ") == 3
    for name in ("a.xyz", "a.sdf", "a.csv", "a.png"):
        write_scan(ethanol, name)
    assert [frame.get_potential_energy() for frame in read("a.xyz", index=":")] == pytest.approx([*ethanol.energies])
    assert (tmp_path / "a.sdf").read_text().count("$$$$") == 6
    with open("a.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["C0-C1-O2-H8_deg"]) for row in rows] == ethanol.angles.tolist()
    assert [float(row["energy_eV"]) for row in rows] == pytest.approx([*ethanol.energies])
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_files_of_a_scan_have_its_doubts(ethanol: Scan, tmp_path: Path) -> None:
    doubted = replace(ethanol, doubts=("few of these",), undefined_stereo=("centre C1",))
    told = {"status": "uncertain", "reason": "few of these", "undefined_stereo": "centre C1"}
    for name in ("a.sdf", "a.xyz", "a.csv"):
        write_scan(doubted, tmp_path / name)
    mol, frame = next(iter(Chem.SDMolSupplier(str(tmp_path / "a.sdf")))), read(tmp_path / "a.xyz", index=0)
    assert {name: mol.GetProp(name) for name in told} == {name: frame.info[name] for name in told} == told
    with (tmp_path / "a.csv").open(encoding="utf-8") as file:
        assert {row["status"] for row in csv.DictReader(file)} == {"uncertain: few of these"}


def test_capitals_and_compression_do_not_change_the_format(
    ethanol: Scan, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "a.json", "a.sdf", "a.xyz", "A.CSV", "A.JSON", "A.SDF", "a.csv.gz", "a.json.gz", "a.SDF.GZ"):
        write_scan(ethanol, name)
    assert (tmp_path / "A.CSV").read_text() == (tmp_path / "a.csv").read_text()
    assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()) == (tmp_path / "a.csv").read_bytes()
    assert json.loads((tmp_path / "A.JSON").read_text()) == ethanol.to_dict()
    assert json.loads(gzip.decompress((tmp_path / "a.json.gz").read_bytes())) == ethanol.to_dict()
    assert (tmp_path / "A.SDF").read_text().count("$$$$") == 6
    assert gzip.decompress((tmp_path / "a.SDF.GZ").read_bytes()).count(b"$$$$") == 6
    write_scan(ethanol, "A.PNG")
    assert (tmp_path / "A.PNG").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(PhysConError, match=r"cannot write a\.png\.gz; pictures are compressed already"):
        write_scan(ethanol, "a.png.gz")


@pytest.mark.parametrize(
    ("smiles", "dihedral", "message"),
    [
        ("C1CCCCC1C", (0, 1, 2, 3), "the bond 1-2 is in a ring"),
        ("CCCC", (0, 1, 3, 2), "atoms 1 and 3 are not bonded"),
        ("CCCC", (0, 1, 2, 99), "four different atoms from 0 to 13"),
        ("CCCC", (0, 1, 2), "four atom indices or a SMARTS pattern are needed"),
        ("CCCC", ((0, 1, 2, 3), (4, 0, 1, 2), (1, 2, 3, 11)), "one or two dihedral angles are needed"),
        ("CCCC", "[#6]-[#6]-[#6]-[#8]", "matches no bond of 'CCCC', but one is needed"),
        ("CCCC", ((0, 1, 2, 3), (3, 2, 1, 0)), "about the same bond"),
    ],
)
def test_dihedral_angles_that_cannot_be_scanned_are_refused(
    smiles: str, dihedral: tuple, message: str, double: LoadedModel
) -> None:
    with pytest.raises(ConstraintError, match=message):
        scan(smiles, dihedral, checkpoint=double)


def test_a_pattern_selects_the_dihedral_angle(ethanol: Scan, double: LoadedModel) -> None:
    found = scan("CCO", "[#6][#6][#8][H]", step=60.0, n_conformers=3, checkpoint=double)
    assert found.dihedrals == ethanol.dihedrals
    np.testing.assert_array_equal(found.energies, ethanol.energies)


def test_an_interrupted_run_over_molecules_goes_on(double: LoadedModel, tmp_path: Path) -> None:
    molecules, options = ["CCO", "foo", "CO"], {"step": 120.0, "n_conformers": 1, "checkpoint": double}
    pattern, journal = "[#6,#1:1][#6:2][#8:3][H:4]", tmp_path / "journal"
    whole = scan_many(molecules, pattern, progress_bar=False, **options)
    assert [record.status for record in whole] == ["ok", "failed", "ok"]
    with pytest.raises(KeyboardInterrupt):
        scan_many(molecules, pattern, journal=journal, on_progress=interrupted, **options)
    done = []
    resumed = scan_many(molecules, pattern, journal=journal, on_progress=lambda n, _: done.append(n), **options)
    assert done == [2, 3]
    for one, other in zip(resumed, whole, strict=True):
        assert (one.name, one.status, one.reason) == (other.name, other.status, other.reason)
        if one.result is not None and other.result is not None:
            np.testing.assert_array_equal(one.result.energies, other.result.energies)
            assert one.result.geometries == other.result.geometries
    with pytest.raises(StoreError, match="molecules or settings"):
        scan_many(molecules, (0, 1, 2, 3), journal=journal, **options)


def interrupted(n_finished: int, n_molecules: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", [0.0, 7.0, -15.0, 180.0, float("nan")])
def test_step_is_a_divisor_of_the_circle(step: float, double: LoadedModel) -> None:
    with pytest.raises(PhysConError, match="a divisor of 360 from 1 to 120 is needed"):
        scan("CCCC", (0, 1, 2, 3), step=step, checkpoint=double)


def test_a_scan_has_the_doubts_of_its_lowest_point(double: LoadedModel) -> None:
    found = scan("[CH2-]CC[CH2-]", (0, 1, 2, 3), step=120.0, n_conformers=2, checkpoint=double)
    assert any("estimated error of the energy" in doubt for doubt in found.doubts)
    assert found.judged()[0] == "uncertain"


def front_of_butane(double: LoadedModel) -> search._Front:
    settings = settings_of(double, "auto", 0.02, 300, 30.0, "cpu", "float64")
    return search._Front(graph_from_smiles("CCCC"), ((0, 1, 2, 3),), [], search.grid(120.0), settings)


def test_doubts_about_other_points_are_those_of_the_highest(double: LoadedModel) -> None:
    front = front_of_butane(double)
    doubts = {0: (), 1: ("a long bond",), 2: ("a rare ring",)}
    front.best = {(point,): SimpleNamespace(energy=[0, 2, 1][point], doubts=own) for point, own in doubts.items()}
    assert front.doubts == ("2 of 3 grid points uncertain, the highest at -60°: a long bond",)
    front.best[0,].doubts = ("unlike those of the training",)
    assert front.doubts == ("unlike those of the training",)


def test_the_lowest_geometry_of_a_point_is_kept_however_small_the_gain(
    double: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = front_of_butane(double)
    energies = iter([0.0, -0.5 * search.GAIN, -3 * search.GAIN])
    monkeypatch.setattr(search._Front, "_turned_to", lambda *_: molecule("C4H4O"))
    monkeypatch.setattr(
        search,
        "relax_jobs",
        lambda *_, **__: [SimpleNamespace(is_minimum=True, energy=next(energies), atoms=molecule("C4H4O"))],
    )
    passed_on = [len(front.advance([((0,), np.zeros((14, 3)))], tqdm(disable=True))) for _ in range(3)]
    assert passed_on == [2, 0, 2]
    assert front.best[0,].energy == -3 * search.GAIN
