import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from physcon_ase.model.checkpoint import save_checkpoint
from physcon_ase.model.config import ModelConfig, config_to_dict
from physcon_ase.model.physcon import PhysCon, load_model
from physcon_ase.training.trainer import LOG_FILE
from tests.benchmark_scripts import FLOAT32_MEV, FORCE_SHIFT, STUDIES, rows_of, run


@pytest.fixture(scope="module")
def with_direct_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped checkpoint with its default level under the name gfn2, and direct heads that nobody has trained."""
    shipped = load_model().model
    default, *others = shipped.config.levels
    encoder = replace(shipped.config.encoder, output_vectors=4)
    config = ModelConfig((replace(default, name="gfn2"), *others), encoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        own = PhysCon(config).state_dict()
    renamed = {name.replace(f".{default.name}.", ".gfn2."): value for name, value in shipped.state_dict().items()}
    known = {name: value for name, value in renamed.items() if name in own}
    folder = tmp_path_factory.mktemp("checkpoints") / "untrained"
    save_checkpoint(folder, {**own, **known}, config_to_dict(config), recipe="")
    return folder


def test_direct_forces_are_told_from_conservative_ones(
    benchmark_stores, with_direct_heads, benchmark, capsys, tmp_path
) -> None:
    few = ("--limit", 2, "--checked", 1, "--moved", 1, "--ase-limit", 1, "--ps", 0.01, "--every", 1, 2)
    arguments = (*few, "--trajectories", 1, "--calls", 1, "--batch-slots", 19, "--plot", tmp_path / "drift.png")
    script = benchmark(STUDIES / "direct-forces" / "run.py")
    checkpoint = ("--checkpoint", with_direct_heads, "--stores", benchmark_stores)
    results = run(script, capsys, *checkpoint, *arguments, json_path=tmp_path / "direct.json")
    rows = {row["quantity"]: row for row in rows_of(results)}
    force_error, asymmetry = rows["force MAE [meV/Å]"], rows["asymmetry λ, median"]
    assert float(force_error["conservative"]) == pytest.approx(1000 * FORCE_SHIFT, abs=FLOAT32_MEV)
    assert float(force_error["direct"]) > 500, "forces that nobody has trained"
    assert float(asymmetry["conservative"]) < 1e-8 < 1e-3 < float(asymmetry["direct"])
    failures = rows["relaxations that fail"], rows["of these"]
    for kind in ("conservative", "direct"):
        count, counted = (row[kind].split()[0] for row in failures)
        assert (count == "0") == (counted == "-")
    stepping = {row["integrator"]: row for row in rows_of(results, 1)}
    assert list(stepping) == ["conservative", "direct", "M = 1", "M = 2"]
    drift = "drift, mean [meV/atom/ps]"
    assert stepping["M = 1"][drift] == pytest.approx(stepping["conservative"][drift], abs=FLOAT32_MEV)
    assert stepping["conservative"]["speed-up"] == 1
    assert len(rows_of(results, 2)) == 3
    assert (tmp_path / "drift.png").stat().st_size > 1000


def test_pretraining_is_compared_at_equal_processor_time(benchmark, tmp_path) -> None:
    logs = {"direct": [(50, 0.9)], "pretrained": [(50, 0.08)], "conservative": [(100, 0.12), (200, 0.06)]}
    for name, entries in logs.items():
        (tmp_path / name).mkdir()
        lines = [
            json.dumps({"cpu_seconds": seconds, "validation": "gfn2", "energy_mae": 1.0, "force_mae": error})
            for seconds, error in entries
        ]
        (tmp_path / name / LOG_FILE).write_text("\n".join(lines) + "\n")
    (row,) = benchmark(STUDIES / "direct-forces" / "run.py")._pretraining(tmp_path).rows
    assert list(row.values()) == pytest.approx([100, 80, 120, 100 + 100 * 2 / 3])
