import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from rdkit import Chem
from rdkit.Chem import AllChem, rdMolTransforms
from scipy.spatial.distance import cdist, pdist

from physcon_ase import PhysConCalculator
from physcon_ase.batch import Batch, unpad
from physcon_ase.chem.compare import rmsd
from physcon_ase.chem.conformers import embed
from physcon_ase.chem.smiles import canonical_key, graph_from_smiles
from physcon_ase.data.split import key_hash, split_of
from physcon_ase.labelling.engines import checkpoint_engine
from physcon_ase.labelling.engines.aimnet2 import PATH_VARIABLE
from physcon_ase.model.checkpoint import read_checkpoint, save_checkpoint
from physcon_ase.model.config import MAX_ATOMIC_NUMBER, config_from_dict, config_to_dict
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, load_model
from physcon_ase.training.trainer import LOG_FILE
from physcon_ase.units import EV_PER_KCAL_PER_MOL
from tests.benchmark_scripts import (
    BENCHMARKS,
    CONFORMER_SHIFT,
    ENERGY_SHIFTS,
    FLOAT32_MEV,
    FORCE_SHIFT,
    rows_of,
    run,
)


def test_errors_of_small_molecules_are_listed_by_split(benchmark_stores, benchmark, capsys, tmp_path) -> None:
    results = run(benchmark("small"), capsys, "--stores", benchmark_stores, json_path=tmp_path / "small.json")
    rows, held_out = rows_of(results), rows_of(results, 1)
    assert [(row["split"], row["molecules"]) for row in rows[:2]] == [("train", 1), ("test", 3)]
    shifts = np.abs(ENERGY_SHIFTS)
    assert rows[0]["MAE [eV]"] == pytest.approx(1e3, abs=1e-3)
    assert rows[1]["MAE [eV]"] == pytest.approx(shifts.mean(), abs=1e-3)
    assert [abs(row["error [eV]"]) for row in held_out[::2]] == pytest.approx(sorted(shifts, reverse=True), abs=1e-3)


def test_errors_are_those_of_held_out_molecules(benchmark_stores, benchmark, capsys, tmp_path) -> None:
    results = run(
        benchmark("errors"), capsys, "--stores", benchmark_stores, "--limit", 3, json_path=tmp_path / "errors.json"
    )
    wb97m, b3lyp_d3, b3lyp = (rows_of(results, table) for table in range(3))
    found = [[(row["store"], row["molecules"], row["geometry"], row["geometries"]) for row in wb97m]]
    found += [[(row["store"], row["geometry"], row["geometries"]) for row in rows] for rows in (b3lyp_d3, b3lyp)]
    assert found == [
        [
            ("wb97m_openff_displaced", "neutral", "minimum of b3lyp-d3", 3),
            ("wb97m_openff_displaced", "neutral", "thermal", 6),
            ("wb97m_openff_displaced", "neutral", "twist", 3),
            ("wb97m_families_6", "neutral", "thermal", 1),
            ("wb97m_families_6", "ions", "thermal", 2),
        ],
        [
            ("openff_torsions", "torsion-drive", 9),
            ("anchored_openff_near", "minimum of b3lyp-d3", 3),
            ("anchored_openff_near", "thermal", 3),
            ("anchored_openff_near", "twist", 3),
            ("b3lyp_d3_small", "start", 3),
        ],
        [("b3lyp_thermal", "thermal", 3)],
    ]
    everything = (0, 1, 2)
    of_families = {"neutral": (2,), "ions": (0, 1)}
    for row in [*wb97m, *b3lyp_d3, *b3lyp]:
        assert (row["failed"], row["left out"]) == (0, 0)
        assert row["force MAE [meV/Å]"] == pytest.approx(1000 * FORCE_SHIFT, abs=FLOAT32_MEV)
        chosen = of_families[row["molecules"]] if row["store"] == "wb97m_families_6" else everything
        shifts = np.array(ENERGY_SHIFTS)[list(chosen)]
        if row["store"] == "openff_torsions":
            shifts = np.add.outer(shifts, CONFORMER_SHIFT * np.arange(3))
        if row["store"] == "b3lyp_thermal":
            assert row["energy MAE [meV]"] is None
        else:
            assert row["energy MAE [meV]"] == pytest.approx(1000 * np.abs(shifts).mean(), abs=FLOAT32_MEV)
    assert "wb97m_qm9_displaced.h5" in results["tables"][-1]["note"]
    assert "wb97m_families_6.h5" not in results["tables"][-1]["note"]
    assert results["checkpoint"] == DEFAULT_CHECKPOINT
    assert results["settings"]["seed"] == 0


def test_molecules_that_a_level_does_not_cover_are_left_out_and_counted(benchmark_stores, benchmark) -> None:
    errors = benchmark("errors")
    molecules = benchmark("heldout").read_test_molecules(benchmark_stores / "wb97m_families_6.h5", limit=9, seed=0)
    model = load_model().model
    assert errors.error_rows("ions", model, "b3lyp", [own for own in molecules if own.graph.charge]) == []
    (row,) = errors.error_rows("both", model, "wb97m", [own for own in molecules if not own.graph.charge])
    assert row["molecules"] == "neutral"


def test_errors_from_the_mean_of_the_networks_replace_those_from_labels_of_one(benchmark_stores, benchmark) -> None:
    errors, heldout = benchmark("errors"), benchmark("heldout")
    path, model = benchmark_stores / "wb97m_families_6.h5", load_model().model
    assert not errors.is_of_single_networks(path)
    molecules = heldout.read_test_molecules(path, limit=9, seed=0)
    exact = heldout.model_forces(model, "wb97m")
    for row in errors.error_rows("families", model, "wb97m", molecules, exact):
        assert row["force MAE [meV/Å]"] == pytest.approx(0.0, abs=FLOAT32_MEV)
        assert row["energy MAE [meV]"] == pytest.approx(0.0, abs=FLOAT32_MEV)
        assert row["one network [meV/Å]"] == pytest.approx(1000 * FORCE_SHIFT, abs=FLOAT32_MEV)
    for row in errors.error_rows("families", model, "wb97m", molecules):
        assert np.isnan(row["one network [meV/Å]"])


def test_isomers_are_compared_within_a_composition(benchmark_stores, benchmark, capsys, tmp_path) -> None:
    results = run(
        benchmark("isomers"), capsys, "--stores", benchmark_stores, "--limit", 3, json_path=tmp_path / "isomers.json"
    )
    rows = rows_of(results)
    assert [(row["store"], row["level"]) for row in rows] == [
        ("openff_minima_dzvp", "b3lyp-d3"),
        ("qm9_b3lyp", "b3lyp"),
        ("qm9_b3lyp", "b3lyp-d3"),
        ("c7h10o2_b3lyp", "b3lyp"),
        ("c7h10o2_b3lyp", "b3lyp-d3"),
    ]
    for row in rows:
        assert (row["molecules"], row["compositions"], row["pairs"], row["failed"]) == (2, 1, 1, 0)
        if row["level"] == "b3lyp" or row["store"] == "openff_minima_dzvp":
            expected = 1000 * abs(ENERGY_SHIFTS[1] - ENERGY_SHIFTS[2])
            assert row["MAE [meV]"] == pytest.approx(expected, abs=FLOAT32_MEV)
        else:
            assert row["MAE [meV]"] > 0


def test_minima_are_reached_from_those_of_another_method(benchmark_stores, benchmark, capsys, tmp_path) -> None:
    results = run(
        benchmark("minima"), capsys, "--stores", benchmark_stores, "--limit", 3, json_path=tmp_path / "minima.json"
    )
    before, after = rows_of(results)
    assert before["molecules"] == after["molecules"] == after["converged"] == 3
    assert before["converged"] is None
    assert after["RMSD, median [Å]"] < before["RMSD, median [Å]"] / 2, "the reference is the minimum of the model"
    molecules = benchmark("heldout").read_test_molecules(benchmark_stores / "gfn2_qm9.h5", limit=9, seed=0)
    assert len(molecules) == 3
    expected = [
        rmsd(m.geometries["minimum of gfn2"].positions, m.geometries["minimum of b3lyp"].positions) for m in molecules
    ]
    assert before["RMSD, median [Å]"] == pytest.approx(np.median(expected))
    assert before["RMSD, 90 %"] == pytest.approx(np.quantile(expected, 0.9))


def test_drug_like_molecules_are_compared_with_their_conformers(benchmark_stores, benchmark, capsys, tmp_path) -> None:
    arguments = ("--stores", benchmark_stores, "--limit", 3, "--calls", 2)
    results = run(benchmark("peers"), capsys, *arguments, json_path=tmp_path / "peers.json")
    (energies,), (torsions,), displaced, mmff94, (times,) = (rows_of(results, table) for table in range(5))
    assert 0 < times["batch [ms/molecule]"] < times["imatinib [ms]"]
    rmse = 1000 * CONFORMER_SHIFT * np.sqrt(2 / 3)  # of labels that differ by 0, 1 and 2 shifts
    for row in (energies, torsions):
        assert row["method"] == DEFAULT_CHECKPOINT
        assert row["failed molecules"] == 0
        for column in ("RMSE, median [kcal/mol]", "RMSE, mean", "RMSE, 90 %"):
            assert 1000 * row[column] * EV_PER_KCAL_PER_MOL == pytest.approx(rmse, abs=FLOAT32_MEV)
    assert torsions["force MAE [meV/Å]"] == pytest.approx(1000 * FORCE_SHIFT, abs=FLOAT32_MEV)
    for before, after in (displaced, mmff94):
        assert before["molecules"] == after["molecules"] == after["converged"] == after["intact"] == 3
        assert after["RMSD, median [Å]"] < before["RMSD, median [Å]"] / 2, "the reference is the minimum of the model"
    assert 0.04 < displaced[0]["RMSD, mean"] < 0.1, "0.05 Å per coordinate, without translation and rotation"


def test_peers_relax_fewer_drug_like_molecules(benchmark_stores, benchmark, capsys, tmp_path, monkeypatch) -> None:
    script = benchmark("peers")
    own = script.model_forces(load_model().model, "b3lyp")
    monkeypatch.setattr(script, "gfn2_forces", lambda: own)
    arguments = ("--stores", benchmark_stores, "--parts", "energies", "displaced", "--tblite", "--peer-limit", 2)
    results = run(script, capsys, *arguments, json_path=tmp_path / "peers.json")
    assert [row["method"] for row in rows_of(results)] == [DEFAULT_CHECKPOINT, "GFN2-xTB"]
    counts = [(row["geometry"], row["molecules"]) for row in rows_of(results, 1)]
    assert counts == [
        ("start", 3),
        (DEFAULT_CHECKPOINT, 3),
        ("start, fewer molecules", 2),
        (f"{DEFAULT_CHECKPOINT}, fewer molecules", 2),
        ("GFN2-xTB", 2),
    ]


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get(PATH_VARIABLE), reason=f"no AIMNet2; set {PATH_VARIABLE}")
def test_aimnet2_and_gfn2_are_peers_of_drug_like_molecules(benchmark_stores, benchmark, capsys, tmp_path) -> None:
    arguments = ("--stores", benchmark_stores, "--limit", 1, "--tblite", "--aimnet2", os.environ[PATH_VARIABLE])
    results = run(benchmark("peers"), capsys, *arguments, json_path=tmp_path / "peers.json")
    peers = ["GFN2-xTB", "AIMNet2, one network", "AIMNet2, mean of four"]
    assert [row["method"] for row in rows_of(results)] == [DEFAULT_CHECKPOINT, *peers]
    for table in (2, 3):
        _, *ended = rows_of(results, table)
        assert [row["geometry"] for row in ended] == [DEFAULT_CHECKPOINT, *peers]
        assert all(row["converged"] == row["intact"] == 1 for row in ended)


def test_interaction_energies_are_what_two_molecules_have_more_than_each_alone(benchmark) -> None:
    script = benchmark("interactions")

    def inverse_distances(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        energies = [(1 / pdist(own)).sum() for own in unpad(batch, batch.positions)]
        return torch.tensor(energies, dtype=torch.float64), torch.zeros_like(batch.positions)

    for pair in script._pairs():
        distances = pair.distances[:2]
        found = script.interaction_energies(inverse_distances, pair, distances)
        moved = [pair.second.positions + np.array([own, 0, 0]) for own in distances]
        between = [cdist(pair.first.positions, own) for own in moved]
        assert found == pytest.approx([(1 / own).sum() for own in between], rel=1e-4)
        assert min(own.min() for own in between) > 1.5, "molecules that touch at most"
    dimer, _, acetate, ammonium = script._pairs()
    moved = dimer.second.positions + np.array([2.9, 0, 0])
    assert cdist(dimer.first.positions, moved).min() == pytest.approx(2.9 - 0.957), "a hydrogen bond"
    assert (acetate.first.charge, ammonium.first.charge) == (-1, 1)
    assert (acetate.second.positions[1:, 0] < 0).all(), "hydrogen towards the anion"
    assert (ammonium.second.positions[1:, 0] > 0).all(), "oxygen towards the cation"


def test_molecules_far_apart_deviate_by_what_is_neither_theirs_nor_coulomb(benchmark) -> None:
    script, model = benchmark("separated"), load_model(dtype="float64").model
    acetate, water = (graph_from_smiles(text) for text in ("CC(=O)[O-]", "O"))
    numbers, places = [acetate.atomic_numbers, water.atomic_numbers], [embed(acetate)[0], embed(water)[0] + 60.0]
    assert abs(script.deviation(model, "b3lyp-d3", numbers, places, [-1, 0])) < script.EXACT
    assert abs(script.deviation(model, "b3lyp-d3", numbers, places, [0, -1])) > 1, "the charge is on the acetate"


def test_interactions_are_tables_and_a_picture(benchmark, capsys, tmp_path, monkeypatch) -> None:
    script = benchmark("interactions")
    monkeypatch.setattr(script, "find_spec", lambda name: None)
    monkeypatch.setattr(script, "N_POINTS", 5)
    monkeypatch.delenv(PATH_VARIABLE, raising=False)
    picture = tmp_path / "curves.png"
    results = run(script, capsys, "--picture", picture, json_path=tmp_path / "interactions.json")
    levels = [f"level {name}" for name in load_model().model.level_names]
    methods = [[row["method"] for row in table["rows"]] for table in results["tables"]]
    curves = [levels, levels, levels[:2], levels[:2]]  # level b3lyp has no ions
    assert methods == [*([*own, script.DFT] for own in curves), levels]
    assert all(value is not None for table in results["tables"][:4] for row in table["rows"] for value in row.values())
    for row in rows_of(results, 4):
        assert 0 <= row["water dimer"] < 1
        assert (row["acetate + water"] is None) == (row["method"] == "level b3lyp")
    assert picture.stat().st_size > 10_000


@pytest.fixture
def sure_of_nothing(tmp_path: Path) -> Path:
    """The shipped model at level b3lyp-d3 with uncertainties above every error."""
    stored, model = read_checkpoint(DEFAULT_CHECKPOINT), load_model().model
    size, config = model.config.encoder.channels // 2, config_from_dict(stored.config)
    tables = {
        "energy_rigidity.b3lyp-d3.factor": 1e3 * torch.eye(size),
        "energy_rigidity.b3lyp-d3.limit": torch.tensor(1e6),
        "force_rigidity.b3lyp-d3.factor": 1e3 * torch.eye(size),
        "force_rigidity.b3lyp-d3.scale": torch.ones(MAX_ATOMIC_NUMBER + 1),
    }
    config = replace(config, energy_uncertainty=("b3lyp-d3",), forces_uncertainty=("b3lyp-d3",))
    weights = {name: value for name, value in stored.tensors.items() if "_rigidity." not in name}
    save_checkpoint(tmp_path / "unsure", {**weights, **tables}, config_to_dict(config))
    return tmp_path / "unsure"


def test_uncertainties_are_compared_with_errors(benchmark_stores, benchmark, capsys, tmp_path, sure_of_nothing) -> None:
    options = ("--checkpoint", sure_of_nothing, "--stores", benchmark_stores, "--limit", 3, "--calls", 5)
    results = run(benchmark("uncertainty"), capsys, *options, json_path=tmp_path / "uncertainty.json")
    energies, forces, (times,) = (rows_of(results, table) for table in range(3))
    for rows in (energies, forces):
        assert [(row["level"], row["set"]) for row in rows] == [
            ("b3lyp-d3", "openff_torsions"),
            ("b3lyp-d3", "anchored_openff_near"),
        ]
        assert all(row["below 1 sigma [%]"] == row["below 2 sigma [%]"] == 100 for row in rows)
    assert [row["n"] for row in energies] == [3, 9]
    rmse = 1000 * np.sqrt(np.mean(np.square(ENERGY_SHIFTS)))
    assert [row["RMSE"] for row in energies] == pytest.approx([rmse, rmse], abs=FLOAT32_MEV)
    assert [row["RMSE"] for row in forces] == pytest.approx([1000 * FORCE_SHIFT] * 2, abs=FLOAT32_MEV)
    assert times["with [ms]"] > 0


def test_labels_from_residuals_are_compared_with_those_of_torsion_drives(
    benchmark_stores, benchmark, capsys, tmp_path, monkeypatch
) -> None:
    script, model = benchmark("transferred"), load_model().model

    def teacher(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Residuals of twice the shift of the labels of the drives."""
        energies, forces = script.model_forces(model, "wb97m")(batch)
        return energies, forces + 2 * FORCE_SHIFT * (batch.atomic_numbers > 0)[..., None]

    monkeypatch.setattr(script, "aimnet2_forces", lambda: teacher)
    results = run(script, capsys, "--stores", benchmark_stores, json_path=tmp_path / "transferred.json")
    teacher_row, *rows = rows_of(results)
    assert [row["labels"] for row in rows] == [f"weight {weight}" for weight in ("0", "0.25", "0.5", "0.75", "1")]
    spread = CONFORMER_SHIFT * np.std(np.arange(3)) / EV_PER_KCAL_PER_MOL
    for row in rows:
        assert row["energy, median [kcal/mol]"] == pytest.approx(spread, abs=FLOAT32_MEV / 1000)
    errors = [row["forces [meV/Å]"] for row in rows]
    shift = 1000 * FORCE_SHIFT
    assert errors == pytest.approx([shift, shift / 2, 0, shift / 2, shift], abs=2 * FLOAT32_MEV)
    assert rows[2]["forces, corrected [meV/Å]"] == pytest.approx(0, abs=2 * FLOAT32_MEV)
    assert teacher_row["forces [meV/Å]"] > shift


def test_geometries_on_which_aimnet2_disagrees_get_no_label(benchmark, monkeypatch) -> None:
    script = benchmark("uncertainty")

    def disagreeing(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        energies = torch.where(batch.n_atoms > 3, torch.nan, batch.charge.double())
        return energies, torch.zeros_like(batch.positions)

    monkeypatch.setattr(script, "aimnet2_forces", lambda max_spread: disagreeing)
    graphs = [graph_from_smiles(smiles) for smiles in ("O", "C", "[OH-]")]
    cases = script._labelled(graphs, [np.eye(graph.n_atoms, 3) for graph in graphs])
    assert [(len(own.atoms), own.energy, own.atoms.info["charge"]) for own in cases] == [(3, 0.0, 0), (2, -1.0, -1)]


def test_the_seed_chooses_the_molecules_and_a_smaller_limit_takes_the_first(benchmark_stores, benchmark) -> None:
    read = benchmark("heldout").read_test_molecules
    names = [
        [m.name for m in read(benchmark_stores / "qm9_b3lyp.h5", limit=limit, seed=seed)]
        for limit, seed in ((3, 1), (2, 1))
    ]
    assert names[0][:2] == names[1]
    orders = {tuple(m.name for m in read(benchmark_stores / "qm9_b3lyp.h5", limit=3, seed=seed)) for seed in range(8)}
    assert len(orders) > 1


def test_a_benchmark_runs_from_any_folder(benchmark_stores, tmp_path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)}
    command = [sys.executable, str(BENCHMARKS / "errors.py"), "--stores", str(benchmark_stores), "--limit", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "| torsion-drive " in done.stdout
    assert DEFAULT_CHECKPOINT in done.stdout


def test_evaluations_of_the_guess_are_weighed_against_steps(benchmark_stores, benchmark, capsys, tmp_path) -> None:
    arguments = ("--stores", benchmark_stores, "--evaluations", "--limit", 2)
    results = run(benchmark("guesses"), capsys, *arguments, json_path=tmp_path / "guesses.json")
    assert [table["title"][:11] for table in results["tables"]] == ["2 molecules", "1 molecules"]
    for table in results["tables"]:
        none, *others = table["rows"]
        default = next(row for row in others if row["evaluations"] == 8)
        assert none["evaluations"] == 0
        assert none["guess [ms]"] < default["guess [ms]"]
        assert default["distance [Å]"] < none["distance [Å]"]
        assert default["energy [meV]"] < none["energy [meV]"]


def test_structure_networks_are_compared_by_their_distance_from_minima(
    benchmark_stores, benchmark, capsys, tmp_path
) -> None:
    stored = read_checkpoint(DEFAULT_CHECKPOINT)
    worse = {
        name: 1.1 * values if name == "structure.readout.weight" else values for name, values in stored.tensors.items()
    }
    save_checkpoint(tmp_path / "worse", worse, stored.config)
    arguments = ("--stores", benchmark_stores, "--without", tmp_path / "worse", "--limit", 2)
    results = run(benchmark("consistency"), capsys, *arguments, json_path=tmp_path / "consistency.json")
    assert [table["title"].split()[-1] for table in results["tables"]] == ["openff_minima_dzvp", "qm9_b3lyp"]
    for table in results["tables"]:
        assert [row["start"] for row in table["rows"][::2]] == ["basin given", "from MMFF94", "from noise"]
        without, own = table["rows"][:2]
        assert (without["consistency"], own["consistency"]) == ("without", "with")
        assert own["distance [Å]"] < without["distance [Å]"]
        assert own["energy [meV]"] < without["energy [meV]"]


def test_held_out_smiles_are_small_neutral_and_in_the_test_split(benchmark, tmp_path) -> None:
    lengths = [(left, right) for left in range(1, 12) for right in range(1, left + 1)]
    chains = {f"{'C' * left}{middle}{'C' * right}" for left, right in lengths for middle in "ONS"}
    path, rows = tmp_path / "smiles.tsv", [f"{own}\t{len(own)}\t0\t1\ta" for own in sorted(chains)]
    others = [row.replace("C", "Br", 1) for row in rows]
    path.write_text("\n".join(["smiles\theavy\tcharge\tallowed\tsets", *others, *rows, *rows]) + "\n")
    held_out = {own for own in chains if split_of(key_hash(canonical_key(own))) == "test"}
    small = {own for own in held_out if graph_from_smiles(own).n_atoms <= 45}
    assert set() < small < held_out
    found = benchmark("many").held_out_smiles(path, 100, 45, 0, (1, 6, 7, 8, 16))
    assert sorted(found) == sorted(small)


def test_encoders_are_compared_at_equal_processor_time(benchmark, tmp_path) -> None:
    encoders, lines = benchmark("encoders"), []
    for minutes, energy, force in ((5, 0.3, 0.1), (15, 0.1, 0.06)):
        entry = {"step": minutes, "cpu_seconds": 60 * minutes, "validation": "b3lyp-d3"}
        lines.append(json.dumps({**entry, "energy_mae": energy, "force_mae": force}))
        lines.append(json.dumps({**entry, "validation": "b3lyp", "energy_mae": 2 * energy, "force_mae": 2 * force}))
        lines.append(json.dumps({"step": minutes, "cpu_seconds": 60 * minutes, "energy": 1.0, "forces": 1.0}))
    (tmp_path / LOG_FILE).write_text("\n".join(lines) + '\n{"step": 3, "cpu_sec')  # a log that is being written
    found = encoders.validations(tmp_path)
    assert encoders.at_time(found, 600) == pytest.approx((0.2, 0.08))
    assert encoders.at_time(encoders.validations(tmp_path, "b3lyp"), 600) == pytest.approx((0.4, 0.16))
    assert np.isnan(encoders.at_time(found, 1200)).all(), "a training is not extrapolated"


def test_labelling_is_measured_beside_the_bare_engine(benchmark, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    arguments = ["--engines", "gfn2", "pm7", "--limit", 8]
    results = run(benchmark("labelling"), capsys, *arguments, json_path=tmp_path / "labelling.json")
    gfn2, pm7 = rows_of(results)
    assert (gfn2["engine"], gfn2["atoms"]) == ("gfn2", 19)
    assert gfn2["program"].startswith("tblite")
    assert 0 < gfn2["physcon label [1/s]"] < 1000
    expected = 100 * (gfn2["bare engine [1/s]"] / gfn2["physcon label [1/s]"] - 1)
    assert gfn2["overhead [%]"] == pytest.approx(expected)
    assert pm7["program"] == "the program mopac is not installed"
    assert pm7["bare engine [1/s]"] is None


@pytest.mark.parametrize("kind", ["cpu", pytest.param("accelerator", marks=pytest.mark.gpu)])
def test_devices_agree_with_the_cpu_in_float64(kind: str, benchmark, capsys, tmp_path) -> None:
    results = run(benchmark("devices"), capsys, "--slots", 64, "--calls", 1, json_path=tmp_path / "devices.json")
    rows = rows_of(results)
    assert rows[0]["device"] == "cpu"
    assert len(rows) > 1 or kind == "cpu"
    for row in rows:
        assert row["agrees"] == "yes"
        assert 0 < row["force difference"] < 1e-5
        assert row["trained molecules per second"] > 0


def test_tables_are_markdown_and_json_knows_no_nan(benchmark, capsys, tmp_path) -> None:
    reporting = benchmark("reporting")
    arguments = reporting.make_parser(None, limit=3).parse_args(["--json", str(tmp_path / "out.json")])
    rows = [{"name": "a", "value": 0.01234}, {"name": "long", "value": float("nan")}]
    reporting.finish("example", arguments, reporting.Clock.now(), [reporting.Table("A table", rows)])
    assert "| name |  value |\n| ---- | -----: |\n| a    | 0.0123 |\n| long |      - |" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["tables"][0]["rows"][1] == {"name": "long", "value": None}


def test_frequencies_are_those_of_the_minimum(benchmark, capsys, tmp_path) -> None:
    arguments = ("--limit", 1, "--level", "b3lyp")
    (row,) = rows_of(run(benchmark("frequencies"), capsys, *arguments, json_path=tmp_path / "frequencies.json"))
    assert row["method"] == "level b3lyp"
    assert row["imaginary"] == 0
    assert row["MAE [1/cm]"] < 400
    assert row["worst molecule [1/cm]"] == pytest.approx(row["MAE [1/cm]"])  # there is but one


def test_frequencies_count_modes_of_linear_molecules_too(benchmark) -> None:
    script = benchmark("frequencies")
    water, carbon_dioxide = molecule("H2O"), molecule("CO2")
    calculator = PhysConCalculator(dtype="float64")
    assert [len(script.frequencies(atoms, calculator)) for atoms in (water, carbon_dioxide)] == [3, 4]
    assert script.frequencies(water, calculator)[-1] == pytest.approx(3650, abs=600)


def test_lowest_conformers_are_compared_with_those_of_auto3d(benchmark, capsys, tmp_path, monkeypatch) -> None:
    script = benchmark("ensembles")
    mol = Chem.AddHs(Chem.MolFromSmiles("CCCC"))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    rdMolTransforms.SetDihedralDeg(mol.GetConformer(), 0, 1, 2, 3, 60.0)  # gauche
    mol.SetProp("_Name", "butane")
    mol.SetProp(script.SECONDS, "12.5")
    with Chem.SDWriter(str(tmp_path / "auto3d.sdf")) as writer:
        writer.write(mol)
    monkeypatch.setattr(script, "FOUND", tmp_path / "auto3d.sdf")
    monkeypatch.setattr(script, "DRUGS", tmp_path / "drugs.smi")
    (tmp_path / "drugs.smi").write_text("CCCC butane\n", encoding="utf-8")
    results = run(script, capsys, json_path=tmp_path / "ensembles.json")
    for row in rows_of(results):
        assert (row["drugs"], row["lower"], row["equal"], row["higher"]) == (1, 1, 0, 0)
        assert -1.5 < row["difference, mean [kcal/mol]"] < -0.3  # anti below gauche
        assert row["Auto3D, median [s]"] == 12.5


def test_relaxed_structures_meet_the_criteria_of_their_own_forces(
    benchmark_stores, benchmark, capsys, tmp_path, monkeypatch
) -> None:
    script = benchmark("criteria")
    monkeypatch.setattr(script, "pyscf_engine", lambda level: checkpoint_engine(DEFAULT_CHECKPOINT, level=level))
    monkeypatch.setattr(script, "SIZES", range(3, 26))
    arguments = ("--stores", benchmark_stores, "--limit", 3, "--geometries", "mmff94", "relaxed")
    mmff94, relaxed = rows_of(run(script, capsys, *arguments, json_path=tmp_path / "criteria.json"))
    for row in (mmff94, relaxed):
        assert (row["molecules"], row["failed"]) == (3, 0)
    assert relaxed["default criteria met [%]"] == relaxed["loose criteria met [%]"] == 100
    assert relaxed["largest force, median [hartree/bohr]"] < 0.005 / 51.42  # eV/Å per hartree/bohr
    assert mmff94["largest force, median [hartree/bohr]"] > 20 * relaxed["largest force, median [hartree/bohr]"]
    assert mmff94["default criteria met [%]"] < 100


def test_outputs_of_a_card_are_replaced_command_by_command(benchmark) -> None:
    card = benchmark("card")
    one, two = "    python benchmarks/one.py --stores S\n\nold\n", "    python benchmarks/two.py\n\nkept\n"
    text = f"# a\n\n{one}\n{two}\n## Limits\n\nend\n"
    assert card.commands_of(text) == ["python benchmarks/one.py --stores S", "python benchmarks/two.py"]
    renewed = card.with_output(text, "python benchmarks/one.py --stores S", "\nnew\n")
    assert renewed == text.replace("old", "new")
    assert card.with_output(renewed, "python benchmarks/two.py", "last") == renewed.replace("kept", "last")
