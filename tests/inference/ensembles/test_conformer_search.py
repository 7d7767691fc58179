import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.io import read
from rdkit import Chem

from physcon_ase.chem.conformers import embed
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.errors import ConstraintError, FragmentsError, NoConformersError, PhysConError, StoreError
from physcon_ase.inference.calculator import PhysConCalculator
from physcon_ase.inference.ensembles.ensemble import Ensemble, boltzmann_weights
from physcon_ase.inference.ensembles.report import (
    format_ensemble,
    format_ensemble_record,
    write_ensemble,
    write_ensemble_records,
)
from physcon_ase.inference.ensembles.search import ensemble, ensemble_many
from physcon_ase.inference.files import read_rows
from physcon_ase.inference.formats.rows import Row
from physcon_ase.inference.run_records import RunRecord
from physcon_ase.model.physcon import LoadedModel
from physcon_ase.units import EV_PER_KCAL_PER_MOL, EV_PER_KELVIN

ENANTIOMERS = ("C[C@H](O)[C@H](N)F", "C[C@@H](O)[C@@H](N)F")


@pytest.fixture(scope="module")
def ethanol(double: LoadedModel) -> Ensemble:
    return ensemble("CCO", n=15, checkpoint=double)


def test_ethanol_is_trans_or_one_of_two_gauche_forms(ethanol: Ensemble, double: LoadedModel) -> None:
    assert len(ethanol) == 3
    angles = [conformer.atoms.get_dihedral(0, 1, 2, 8) for conformer in ethanol.conformers]
    assert sorted(round(angle / 60) for angle in angles) == [1, 3, 5]
    partners = [conformer.mirror_image for conformer in ethanol.conformers]
    assert [partners[partner] for partner in partners if partner is not None] == [0, 1, 2]
    assert sum(partner == index for index, partner in enumerate(partners)) == 1
    calculator = PhysConCalculator(double)
    for conformer in ethanol.conformers:
        atoms = Atoms(conformer.atoms.numbers, conformer.atoms.positions, calculator=calculator)
        assert conformer.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        assert np.allclose(conformer.atoms.get_forces(), atoms.get_forces(), atol=1e-5)
        assert conformer.fmax < 0.01


def test_the_spelling_of_a_smiles_changes_nothing(ethanol: Ensemble, double: LoadedModel) -> None:
    other = ensemble("OCC", n=15, checkpoint=double)
    assert (other.energies == ethanol.energies).all()
    assert other.conformers[0].atoms.get_chemical_symbols()[:3] == ["O", "C", "C"]
    assert ethanol.conformers[0].atoms.get_chemical_symbols()[:3] == ["C", "C", "O"]
    assert other.conformers[0].atoms.get_distance(0, 1) == ethanol.conformers[0].atoms.get_distance(2, 1)


def test_weights_count_the_equivalent_forms_of_a_conformer(double: LoadedModel) -> None:
    """Anti-anti pentane has two equal ends, anti-gauche pentane has not, and is one of four equal forms."""
    pentane = ensemble("CCCCC", n=20, checkpoint=double)
    anti, *others = pentane.conformers
    assert [anti.symmetry_number, *(other.symmetry_number for other in others[:2])] == [2, 1, 1]
    factor = np.exp(-others[0].relative_energy * EV_PER_KCAL_PER_MOL / (EV_PER_KELVIN * 298.15))
    assert others[0].weight / anti.weight == pytest.approx(2 * factor)
    assert pentane.weights_at(1e9)[:3] == pytest.approx(pentane.weights_at(1e9)[0] * np.array([1, 2, 2]))


def test_weights_are_those_of_boltzmann(ethanol: Ensemble) -> None:
    kelvin = 8.617333e-5
    factors = np.exp(-(ethanol.energies - ethanol.energies[0]) / (298.15 * kelvin))
    assert np.allclose(ethanol.weights, factors / factors.sum(), atol=1e-6)
    assert np.allclose(ethanol.weights_at(1e9), 1 / 3, atol=1e-6)
    with pytest.raises(PhysConError, match=r"temperature \[K\] is 0.0"):
        ethanol.weights_at(0.0)
    gap = EV_PER_KCAL_PER_MOL
    assert boltzmann_weights(np.array([0.0, gap]), 298.15, [1, 1]) == pytest.approx([0.8439, 0.1561], abs=1e-4)


def test_an_ensemble_can_be_read_printed_and_written(
    ethanol: Ensemble, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = json.dumps(ethanol.to_dict())
    assert json.loads(text)["conformers"][0]["energy_eV"] == ethanol.energies[0]
    assert len(repr(ethanol)) < 200
    assert "3 conformers within 6 kcal/mol" in format_ensemble(ethanol)
    write_ensemble(ethanol, "ethanol.xyz")
    write_ensemble(ethanol, "ethanol.xyz", append=True)
    frames = read("ethanol.xyz", index=":")
    assert [frame.get_potential_energy() for frame in frames] == pytest.approx([*ethanol.energies] * 2)
    write_ensemble(ethanol, "ethanol.sdf")
    assert (tmp_path / "ethanol.sdf").read_text().count("$$$$") == 3
    write_ensemble(ethanol, "ethanol.json")
    assert json.loads((tmp_path / "ethanol.json").read_text()) == json.loads(text)
    with pytest.raises(PhysConError, match=r"ethanol.json can contain the conformers of one molecule; .* write .jsonl"):
        write_ensemble(ethanol, "ethanol.json", append=True)


def test_files_of_conformers_have_the_doubts_of_their_molecule(ethanol: Ensemble, tmp_path: Path) -> None:
    doubted = replace(ethanol, doubts=("few of these", "large error"), undefined_stereo=("centre C1",))
    told = {"status": "uncertain", "reason": "few of these; large error", "undefined_stereo": "centre C1"}
    write_ensemble(doubted, tmp_path / "e.sdf")
    write_ensemble(doubted, tmp_path / "e.xyz")
    uncertainty = ethanol.conformers[1].energy_uncertainty
    assert uncertainty is not None
    mol, frame = Chem.SDMolSupplier(str(tmp_path / "e.sdf"))[1], read(tmp_path / "e.xyz", index=1)
    assert {name: mol.GetProp(name) for name in told} == told
    assert float(mol.GetProp("energy_uncertainty_eV")) == pytest.approx(uncertainty, abs=1e-6)
    assert {name: frame.info[name] for name in told} == told
    assert frame.info["energy_uncertainty"] == pytest.approx(uncertainty)
    write_ensemble(ethanol, tmp_path / "e.sdf")
    mol = Chem.SDMolSupplier(str(tmp_path / "e.sdf"))[1]
    assert (mol.GetProp("status"), mol.HasProp("reason"), mol.HasProp("undefined_stereo")) == ("ok", 0, 0)


@pytest.mark.parametrize("name", ["E.SDF", "e.sdf.gz", "e.JSON", "e.json.gz", "e.jsonl.GZ", "e.XYZ", "e.xyz.gz"])
def test_capitals_and_compression_do_not_change_the_format(name: str, ethanol: Ensemble, tmp_path: Path) -> None:
    write_ensemble(ethanol, tmp_path / name.lower().removesuffix(".gz"))
    plain = (tmp_path / name.lower().removesuffix(".gz")).read_text()
    write_ensemble(ethanol, tmp_path / name)
    data = (tmp_path / name).read_bytes()
    found = (gzip.decompress(data) if name.lower().endswith(".gz") else data).decode()
    # the second line of an SD record has the time
    assert [line for line in found.splitlines() if "RDKit" not in line] == [
        line for line in plain.splitlines() if "RDKit" not in line
    ]
    if ".json" not in name.lower():
        write_ensemble(ethanol, tmp_path / name, append=True)
        assert len(read_rows(tmp_path / name)) == 6


@pytest.fixture(scope="module")
def of_a_list(double: LoadedModel) -> list[RunRecord[Ensemble]]:
    rows = [Row("O", "water \\ lot7", 3, "l.smi"), Row("foo", "bad", 4, "l.smi"), Row("C", "", 5, "l.smi")]
    return ensemble_many(rows, n=2, checkpoint=double, progress_bar=False)


def test_files_of_conformers_say_where_a_molecule_comes_from(
    of_a_list: list[RunRecord[Ensemble]], tmp_path: Path
) -> None:
    origin = [(3, "l.smi", "water \\ lot7"), (4, "l.smi", "bad"), (5, "l.smi", "C")]
    assert write_ensemble_records(of_a_list, tmp_path / "all.jsonl") == []
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [(line["row"], line["source"], line["name"]) for line in lines] == origin
    assert [(line["status"], line["error"]) for line in lines] == [
        ("ok", ""),
        ("failed", "InvalidSmilesError"),
        ("ok", ""),
    ]
    assert (lines[0]["smiles"], lines[1]["input"]) == ("O", "foo")
    assert write_ensemble_records(of_a_list, tmp_path / "all.xyz") == [of_a_list[1]]
    told = [frame.info for frame in read(tmp_path / "all.xyz", index=":")]
    assert [(info["row"], info["source"], info["name"]) for info in told] == [origin[0], origin[2]]
    assert write_ensemble_records(of_a_list, tmp_path / "all.sdf") == [of_a_list[1]]
    mols = list(Chem.SDMolSupplier(str(tmp_path / "all.sdf")))
    assert [mol.GetProp("_Name") for mol in mols] == ["water \\ lot7", "C"]
    assert [tuple(mol.GetProp(name) for name in ("row", "source", "name")) for mol in mols] == [
        ("3", "l.smi", "water \\ lot7"), ("5", "l.smi", "C")]  # fmt: skip


def test_a_file_with_one_molecule_keeps_its_origin(of_a_list: list[RunRecord[Ensemble]], tmp_path: Path) -> None:
    for record in of_a_list[:2]:
        assert write_ensemble_records([record], tmp_path / "one.json") == []
        found = json.loads((tmp_path / "one.json").read_text())
        assert (found["name"], found["row"], found["status"]) == (record.name, record.row, record.status)
    with pytest.raises(PhysConError, match=r"one.json can contain one molecule, but there are 3: write \.jsonl"):
        write_ensemble_records(of_a_list, tmp_path / "one.json")


def test_fields_of_the_input_are_kept_beside_those_of_the_conformers(
    of_a_list: list[RunRecord[Ensemble]], tmp_path: Path
) -> None:
    fields = {"weight": "46.07", "IC50": "3"}
    write_ensemble_records([replace(of_a_list[0], fields=fields)], tmp_path / "one.sdf")
    (mol,) = Chem.SDMolSupplier(str(tmp_path / "one.sdf"))
    assert [mol.GetProp(name) for name in ("weight (input)", "IC50", "weight")] == ["46.07", "3", "1.000000"]


def test_nothing_to_write_leaves_no_file(of_a_list: list[RunRecord[Ensemble]], tmp_path: Path) -> None:
    for name in ("all.sdf", "all.xyz.gz"):
        (tmp_path / name).write_text("of an earlier run")
        assert write_ensemble_records(of_a_list[1:2], tmp_path / name) == [of_a_list[1]]
    assert list(tmp_path.iterdir()) == []


def test_duplicates_are_counted(double: LoadedModel) -> None:
    water = ensemble("O", n=4, checkpoint=double)
    assert len(water) == 1
    assert water.left_out == {"duplicates": 3}
    assert water.weights.tolist() == [1.0]
    assert water.conformers[0].mirror_image == 0


def test_rotated_bonds_lead_from_one_start_to_all_conformers_of_ethanol(double: LoadedModel) -> None:
    assert len(ensemble("CCO", n=1, checkpoint=double)) == 3


def test_enantiomers_have_the_same_lowest_conformer(double: LoadedModel) -> None:
    """Of 30 embedded geometries of the second one, none is near the lowest conformer, 1 kcal/mol lower."""
    lowest = [ensemble(smiles, n=30, checkpoint=double).energies.min() for smiles in ENANTIOMERS]
    assert lowest[0] == pytest.approx(lowest[1], abs=1e-3)


def test_conformers_of_undefined_stereo_have_one_configuration(double: LoadedModel) -> None:
    found = ensemble("C[CH](O)F", n=4, checkpoint=double)
    assert len(found.undefined_stereo) == 1
    assert "@" in found.smiles
    assert all(conformer.mirror_image is None for conformer in found.conformers)
    volumes = [
        np.linalg.det(conformer.atoms.positions[[0, 2, 3]] - conformer.atoms.positions[1])
        for conformer in found.conformers
    ]
    assert len(set(np.sign(volumes))) == 1


def test_a_geometry_keeps_its_atoms_and_is_a_start_itself(double: LoadedModel) -> None:
    """tert-Butanol has one conformer; the number of those found for ethanol differs between machines."""
    graph = graph_from_smiles("CC(C)(C)O")
    atoms = Atoms(graph.atomic_numbers, embed(graph, seed=3)[0])[[4, 0, 1, 2, 3, *range(5, graph.n_atoms)]]
    found = ensemble(atoms, n=2, checkpoint=double)
    assert found.n_starts == 5  # the given one, two embedded ones, the rotations of one bond in one conformer
    assert found.conformers[0].atoms.get_chemical_symbols() == atoms.get_chemical_symbols()
    atoms.set_constraint(FixAtoms([0]))
    with pytest.raises(ConstraintError, match="has constraints, which are not used here"):
        ensemble(atoms, n=2, checkpoint=double)


def test_a_geometry_of_several_molecules_is_refused_as_their_smiles_is(double: LoadedModel) -> None:
    pair = molecule("H2O")
    pair.translate([0, 0, 4])
    for molecules in ("O.O", pair + molecule("H2O")):
        with pytest.raises(FragmentsError, match=r"'O\.O' has 2 disconnected fragments; only one molecule is allowed"):
            ensemble(molecules, n=2, checkpoint=double)


def test_nothing_left_is_an_error_with_the_counts(double: LoadedModel) -> None:
    with pytest.raises(NoConformersError, match=r"no conformer of 'CO' from 2 start geometries \(.*not converged"):
        ensemble("CO", n=2, prerelax=False, max_steps=0, checkpoint=double)


def test_each_of_many_molecules_has_a_record(double: LoadedModel) -> None:
    molecules = iter(["O", "foo", None, "[Cl-]"])
    first, failed, gap, ion = ensemble_many(molecules, n=2, checkpoint=double, progress_bar=False)
    assert (first.status, first.name) == ("ok", "O")
    assert (failed.status, failed.error) == ("failed", "InvalidSmilesError")
    assert "invalid SMILES 'foo'" in format_ensemble_record(failed)
    assert gap.status == "failed"
    assert ion.status == "ok"
    assert ion.result is not None
    assert ion.result.conformers[0].atoms.info["charge"] == -1


def test_an_interrupted_run_goes_on_from_its_journal(double: LoadedModel, tmp_path: Path) -> None:
    molecules, options = ["O", "CO", "foo"], {"n": 2, "checkpoint": double, "progress_bar": False}
    whole = ensemble_many(molecules, **options)
    with pytest.raises(KeyboardInterrupt):
        ensemble_many(molecules, journal=tmp_path / "journal", on_progress=_interrupted, **options)
    done = []
    resumed = ensemble_many(molecules, journal=tmp_path / "journal", on_progress=lambda n, _: done.append(n), **options)
    assert done == [2, 3]
    for one, other in zip(resumed, whole, strict=True):
        assert (one.name, one.status, one.error) == (other.name, other.status, other.error)
        if one.result is not None and other.result is not None:
            np.testing.assert_array_equal(one.result.energies, other.result.energies)
            assert one.result.tolerances == other.result.tolerances
    with pytest.raises(StoreError, match="molecules or settings"):
        ensemble_many(molecules, journal=tmp_path / "journal", window=2.0, **options)


def _interrupted(n_finished: int, n_molecules: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_processes_find_the_same_conformers() -> None:
    molecules, options = ["CO", "CCO", "OCCO"], {"n": 3, "progress_bar": False}
    alone, beside = (ensemble_many(molecules, n_processes=n, **options) for n in (1, 2))
    for one, other in zip(alone, beside, strict=True):
        assert one.result is not None
        assert other.result is not None
        np.testing.assert_array_equal(one.result.energies, other.result.energies)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n is 0; 1 or more"),
        ({"n": "many"}, "n is 'many'"),
        ({"window": -1.0}, r"window \[kcal/mol\] is -1.0"),
        ({"temperature": 0.0}, r"temperature \[K\] is 0.0"),
        ({"level": "ccsd"}, "ccsd"),
    ],
)
def test_settings_are_errors_of_the_call(settings: dict, message: str, double: LoadedModel) -> None:
    with pytest.raises(PhysConError, match=message):
        ensemble_many(["O"], checkpoint=double, **settings)


def test_isotopes_are_kept(double: LoadedModel) -> None:
    assert ensemble("[2H]C(F)(Cl)O", n=2, checkpoint=double).smiles.startswith("[2H]")
    atoms = molecule("CH3OH")
    atoms.set_masses([2.014 if atom.index == 3 else None for atom in atoms])
    found = ensemble(atoms, n=2, checkpoint=double)
    assert found.graph.isotopes.tolist() == [2 if index == 3 else 0 for index in range(6)]
    assert found.conformers[0].atoms.get_masses()[3] == pytest.approx(2.014, abs=1e-3)
