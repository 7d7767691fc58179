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

from physcon_ase import PhysConCalculator
from physcon_ase.chem.compare import rmsd
from physcon_ase.chem.smiles import canonical_key, graph_from_smiles
from physcon_ase.data.split import key_hash, split_of
from physcon_ase.model.checkpoint import read_checkpoint, save_checkpoint
from physcon_ase.model.config import MAX_ATOMIC_NUMBER, config_from_dict, config_to_dict
from physcon_ase.model.physcon import load_model
from physcon_ase.training.trainer import LOG_FILE
from tests.benchmark_scripts import BENCHMARKS, ENERGY_SHIFTS, FLOAT32_MEV, FORCE_SHIFT, rows_of, run


def test_errors_are_those_of_held_out_molecules(benchmark_stores, benchmark, capsys, tmp_path) -> None:
    results = run(
        benchmark("errors"), capsys, "--stores", benchmark_stores, "--limit", 3, json_path=tmp_path / "errors.json"
    )
    rows = rows_of(results)
    assert [row["geometry"] for row in rows[:5]] == [
        "minimum of b3lyp", "minimum of gfn2", "conformer", "thermal", "thermal + conformer"
    ]  # fmt: skip
    assert {row["store"] for row in rows} == {"gfn2_qm9", "gfn2_dft8k"}
    for row in rows:
        assert row["geometries"] == (6 if "+" in row["geometry"] else 3)
        assert row["failed"] == 0
        assert row["energy MAE [meV]"] == pytest.approx(1000 * np.abs(ENERGY_SHIFTS).mean(), abs=FLOAT32_MEV)
        assert row["force MAE [meV/Å]"] == pytest.approx(1000 * FORCE_SHIFT, abs=FLOAT32_MEV)
    assert results["checkpoint"] == "physcon-1"
    assert results["settings"]["seed"] == 0


def test_isomers_are_compared_within_a_composition(benchmark_stores, benchmark, capsys, tmp_path) -> None:
    results = run(
        benchmark("isomers"), capsys, "--stores", benchmark_stores, "--limit", 3, json_path=tmp_path / "isomers.json"
    )
    of_level = [row for row in rows_of(results) if row["level"] == "b3lyp"]
    assert len(of_level) == 2
    for row in of_level:
        assert (row["molecules"], row["compositions"], row["pairs"], row["failed"]) == (2, 1, 1, 0)
        assert row["MAE [meV]"] == pytest.approx(1000 * abs(ENERGY_SHIFTS[1] - ENERGY_SHIFTS[2]), abs=FLOAT32_MEV)


def test_minima_are_compared_from_the_other_minimum(benchmark_stores, benchmark, capsys, tmp_path) -> None:
    results = run(
        benchmark("minima"), capsys, "--stores", benchmark_stores, "--limit", 3, json_path=tmp_path / "minima.json"
    )
    assert [table["title"][0] for table in results["tables"]] == ["a", "b", "d", "c"]
    for table in results["tables"]:
        before, after = table["rows"]
        assert before["molecules"] == after["molecules"] == 3
        assert before["converged"] is None
        assert 0 < before["RMSD, mean"] < 0.3, "two geometries at random .05 Å from the same one"
        assert after["converged"] + sum(int(word) for word in after["failed"].split() if word.isdigit()) == 3
    heldout = benchmark("heldout")
    molecules = heldout.read_test_molecules(benchmark_stores / "gfn2_qm9.h5", limit=9, seed=0)
    assert len(molecules) == 3
    expected = [
        rmsd(m.geometries["minimum of gfn2"].positions, m.geometries["minimum of b3lyp"].positions) for m in molecules
    ]
    row = rows_of(results)[0]
    assert row["RMSD, median [Å]"] == pytest.approx(np.median(expected))
    assert row["RMSD, 90 %"] == pytest.approx(np.quantile(expected, 0.9))


@pytest.fixture
def sure_of_nothing(tmp_path: Path) -> Path:
    """The shipped model at level gfn2 with uncertainties above every error."""
    stored, model = read_checkpoint("physcon-1"), load_model().model
    size, config = model.n_features("gfn2"), config_from_dict(stored.config)
    tables = {
        "energy_rigidity.gfn2.factor": 1e3 * torch.eye(size),
        "force_rigidity.gfn2.factor": 1e3 * torch.eye(size),
        "force_rigidity.gfn2.scale": torch.ones(MAX_ATOMIC_NUMBER + 1),
    }
    config = replace(config, energy_uncertainty=("gfn2",), forces_uncertainty=("gfn2",))
    weights = {name: value for name, value in stored.tensors.items() if "_rigidity." not in name}
    save_checkpoint(tmp_path / "unsure", {**weights, **tables}, config_to_dict(config))
    return tmp_path / "unsure"


def test_uncertainties_are_compared_with_errors(
    benchmark_stores, benchmark, capsys, tmp_path, sure_of_nothing, monkeypatch
) -> None:
    script = benchmark("uncertainty")
    monkeypatch.setattr(script, "find_spec", lambda name: None)  # without labels of tblite
    options = ("--checkpoint", sure_of_nothing, "--stores", benchmark_stores, "--limit", 3, "--calls", 5)
    results = run(script, capsys, *options, json_path=tmp_path / "uncertainty.json")
    energies, forces, (times,) = (rows_of(results, table) for table in range(3))
    for rows in (energies, forces):
        assert [(row["level"], row["set"]) for row in rows] == [("gfn2", "gfn2_qm9"), ("gfn2", "gfn2_dft8k")]
        assert all(row["below 1 sigma [%]"] == row["below 2 sigma [%]"] == 100 for row in rows)
    assert [row["n"] for row in energies] == [12, 12]
    rmse = 1000 * np.sqrt(np.mean(np.square(ENERGY_SHIFTS)))
    assert [row["RMSE"] for row in energies] == pytest.approx([rmse, rmse], abs=FLOAT32_MEV)
    assert [row["RMSE"] for row in forces] == pytest.approx([1000 * FORCE_SHIFT] * 2, abs=FLOAT32_MEV)
    assert times["with [ms]"] > 0


def test_the_seed_chooses_the_molecules_and_a_smaller_limit_takes_the_first(benchmark_stores, benchmark) -> None:
    read = benchmark("heldout").read_test_molecules
    names = [
        [m.name for m in read(benchmark_stores / "gfn2_qm9.h5", limit=limit, seed=seed)]
        for limit, seed in ((3, 1), (2, 1))
    ]
    assert names[0][:2] == names[1]
    orders = {tuple(m.name for m in read(benchmark_stores / "gfn2_qm9.h5", limit=3, seed=seed)) for seed in range(8)}
    assert len(orders) > 1


def test_a_benchmark_runs_from_any_folder(benchmark_stores, tmp_path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)}
    command = [sys.executable, str(BENCHMARKS / "errors.py"), "--stores", str(benchmark_stores), "--limit", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "| thermal + conformer |" in done.stdout
    assert "physcon-1" in done.stdout


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


def test_held_out_smiles_are_small_neutral_and_in_the_test_split(benchmark, tmp_path) -> None:
    lengths = [(left, right) for left in range(1, 12) for right in range(1, left + 1)]
    chains = {f"{'C' * left}{middle}{'C' * right}" for left, right in lengths for middle in "ONS"}
    path, rows = tmp_path / "smiles.tsv", [f"{own}\t{len(own)}\t0\t1\ta" for own in sorted(chains)]
    others = [row.replace("C", "Br", 1) for row in rows]
    path.write_text("\n".join(["smiles\theavy\tcharge\tallowed\tsets", *others, *rows, *rows]) + "\n")
    held_out = {own for own in chains if split_of(key_hash(canonical_key(own))) == "test"}
    small = {own for own in held_out if graph_from_smiles(own).n_atoms <= 45}
    assert set() < small < held_out
    found = benchmark("many").held_out_smiles(path, 100, 45, 0)
    assert sorted(found) == sorted(small)


def test_encoders_are_compared_at_equal_processor_time(benchmark, tmp_path) -> None:
    encoders, lines = benchmark("encoders"), []
    for minutes, energy, force in ((5, 0.3, 0.1), (15, 0.1, 0.06)):
        entry = {"step": minutes, "cpu_seconds": 60 * minutes, "validation": "gfn2"}
        lines.append(json.dumps({**entry, "energy_mae": energy, "force_mae": force}))
        lines.append(json.dumps({"step": minutes, "cpu_seconds": 60 * minutes, "energy": 1.0, "forces": 1.0}))
    (tmp_path / LOG_FILE).write_text("\n".join(lines) + '\n{"step": 3, "cpu_sec')  # a log that is being written
    found = encoders.validations(tmp_path)
    assert encoders.at_time(found, 600) == pytest.approx((0.2, 0.08))
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


def test_tables_are_markdown_and_json_knows_no_nan(benchmark, capsys, tmp_path) -> None:
    reporting = benchmark("reporting")
    arguments = reporting.make_parser(None, limit=3).parse_args(["--json", str(tmp_path / "out.json")])
    rows = [{"name": "a", "value": 0.01234}, {"name": "long", "value": float("nan")}]
    reporting.finish("example", arguments, reporting.Clock.now(), [reporting.Table("A table", rows)])
    assert "| name |  value |\n| ---- | -----: |\n| a    | 0.0123 |\n| long |      - |" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["tables"][0]["rows"][1] == {"name": "long", "value": None}


def test_frequencies_are_those_of_the_minimum_of_each_level(benchmark, capsys, tmp_path) -> None:
    script = benchmark("frequencies")
    results = run(script, capsys, "--limit", 1, json_path=tmp_path / "frequencies.json")
    rows = {row["method"]: row for row in rows_of(results)}
    assert {"level gfn2", "level b3lyp"} <= set(rows)
    for row in rows.values():
        assert row["imaginary"] == 0
        assert row["MAE [1/cm]"] < 100
        assert row["worst molecule [1/cm]"] == pytest.approx(row["MAE [1/cm]"])  # there is but one


def test_frequencies_count_modes_of_linear_molecules_too(benchmark) -> None:
    script = benchmark("frequencies")
    water, carbon_dioxide = molecule("H2O"), molecule("CO2")
    water.calc = carbon_dioxide.calc = PhysConCalculator(dtype="float64")
    assert [len(script.frequencies(atoms)) for atoms in (water, carbon_dioxide)] == [3, 4]
    assert script.frequencies(water)[-1] == pytest.approx(3650, abs=200)
