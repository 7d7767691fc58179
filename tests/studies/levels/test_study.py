import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from physcon_ase.data.split import split_mask
from physcon_ase.data.store import LevelLabels, Store, open_store, select_geometries, write_store
from physcon_ase.model.checkpoint import Checkpoint, read_checkpoint
from physcon_ase.model.config import EncoderConfig
from physcon_ase.training.preflight import check_recipe
from physcon_ase.training.recipe_files import format_recipe, parse_recipe
from studies.levels.curves import format_curves
from studies.levels.study import (
    ROWS,
    SCALES,
    SCRATCH,
    STUDIES,
    Scale,
    asteroid_recipe,
    label_counts,
    pretraining_recipe,
    row_recipe,
    run_levels,
    score_recipe,
)

ENCODER = EncoderConfig(n_layers=1, n_radial=4, channels=8, mixed_channels=8, source_scalars=4, hidden=8)

SECONDS = Scale((4, 16), ENCODER, 3, 2, 2, 2, 3, n_cheap=10, n_test=3, atoms_per_batch=32)


@pytest.fixture
def stores(make_store: Callable[..., Store], tmp_path: Path) -> Path:
    """Five copies of six molecules, with random labels; the cheap store does not have the halogens."""
    hashes = [0] * 3 + [2**64 * 6 // 100] * 3 + [2**63 + row for row in range(24)]  # test, validation, train
    made = make_store(copies=5, hashes=hashes)
    forces = np.random.default_rng(2).normal(size=made.geometries.positions.shape).astype(np.float32)
    minimum_of = np.where(made.geometries.minimum_of == "dft", "b3lyp", "")
    made = replace(
        made,
        geometries=replace(made.geometries, minimum_of=minimum_of),
        labels={level: LevelLabels(made.labels["cheap"].energy, forces) for level in ("gfn2", "b3lyp")},
    )
    is_hot, has_halogens = made.geometries.kind == "thermal", made.geometries.molecule % 6 == 5
    hot = select_geometries(made, np.flatnonzero(is_hot))
    common = select_geometries(made, np.flatnonzero(~has_halogens))
    write_store(tmp_path / "gfn2_qm9.h5", replace(common, labels={"gfn2": common.labels["gfn2"]}))
    write_store(tmp_path / "b3lyp_thermal.h5", replace(hot, labels={"b3lyp": hot.labels["b3lyp"]}))
    write_store(tmp_path / "qm9_b3lyp.h5", common)
    return tmp_path


def test_every_row_is_a_recipe_that_can_be_written_and_read() -> None:
    for levels in STUDIES.values():
        for scale in SCALES.values():
            recipes = [pretraining_recipe(levels, scale), score_recipe(levels, scale)]
            recipes.append(
                asteroid_recipe(levels, scale, "judged", 0, pretrained=Path("pretrained"), judge=Path("judge"))
            )
            recipes += [
                row_recipe(levels, row, scale, count, 0, labels="labels.h5", start_from=["begin"], name="row")
                for row in ROWS.values()
                for count in label_counts(row, scale, 1000)
                if count or row.together
            ]
            for recipe in recipes:
                check_recipe(recipe)
                assert parse_recipe(format_recipe(recipe)) == recipe
            assert {recipe.optim.steps for recipe in recipes[3:]} == {scale.steps, scale.scratch_steps}


def test_counts_are_those_below_all_labels_and_all() -> None:
    assert label_counts(ROWS["fine-tuned"], SCALES["small"], 320) == [0, 50, 150, 320]
    assert label_counts(ROWS[SCRATCH], SCALES["small"], 500) == [50, 150, 500]


def test_all_rows_are_trained_once_and_never_on_a_test_molecule(stores: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    records = run_levels("b3lyp", folder, SECONDS, stores=stores, seeds=(0,))
    assert len(records) == 7 * 3 + 3
    assert all(np.isfinite(record["accurate"]["force_mae"]) for record in records)
    assert {record["row"] for record in records if record["cheap"] is None} == {SCRATCH, "score matching"}
    assert "| 20 (all) |" in format_curves(records)
    test, labelled = open_store(folder / "test.h5"), open_store(folder / "labelled.h5")
    assert (len(test.geometries), len(labelled.geometries)) == (5, 20)  # the halogens are left out
    for name in ("labelled", "cheap", "bare", "minima", "labels-4-0"):
        assert split_mask(open_store(folder / f"{name}.h5"), "train").all()
    few, more = (open_store(folder / f"labels-{count}-0.h5").geometries.positions for count in (4, 16))
    assert {row.tobytes() for row in few} <= {row.tobytes() for row in more}

    trained = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    again = run_levels("b3lyp", folder, SECONDS, stores=Path("nowhere"), seeds=(0,))  # everything is there
    assert json.dumps(again) == json.dumps(records)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == trained


def test_rows_start_from_the_pretraining_and_fit_their_own_references(stores: Path, tmp_path: Path) -> None:
    rows = ("fine-tuned", "two heads", "row and head only", "ASTEROID")
    run_levels("b3lyp", tmp_path, SECONDS, stores=stores, seeds=(0,), rows=rows)
    first, begin = (read_checkpoint(tmp_path / name) for name in ("pretraining/pretraining", "begin"))
    shared = {key for key in first.tensors if key.startswith(("energy.embedding", "energy.interactions"))}
    of_cheap = {key for key in first.tensors if ".gfn2." in key}
    assert shared | of_cheap | {"couplings.forms", "couplings.vectors"} == first.tensors.keys()
    for key in of_cheap:
        assert begin.tensors[key.replace("gfn2", "b3lyp")].equal(first.tensors[key])

    def trained(row: str) -> Checkpoint:
        name = f"row{list(ROWS).index(row)}-16-0"
        return read_checkpoint(tmp_path / name / name)

    def moved(row: str) -> set[str]:
        """What has not the value of the pre-training, or of what begins like that."""
        return {key for key, value in trained(row).tensors.items() if not value.equal(begin.tensors[key])}

    gfn2, b3lyp = trained("fine-tuned").config["levels"]
    assert gfn2["references"] == first.config["levels"][0]["references"] != b3lyp["references"]
    of_accurate = {key.replace("gfn2", "b3lyp") for key in of_cheap}
    # row and head of the cheap level stay, while what it shares moves
    for row in ("fine-tuned", "ASTEROID"):
        assert not moved(row) & of_cheap
        assert moved(row) & shared
        assert moved(row) & of_accurate
    assert moved("two heads") & of_cheap
    assert moved("row and head only") == of_accurate


@pytest.mark.slow
def test_labels_of_another_level_help_where_there_are_few(tmp_path: Path) -> None:
    records = run_levels("selfmade", tmp_path, SCALES["tiny"], seeds=(0,), rows=(SCRATCH, "fine-tuned"))
    error = {(record["row"], record["labels"]): record["accurate"]["force_mae"] for record in records}
    assert error["fine-tuned", 8] < error[SCRATCH, 8]
