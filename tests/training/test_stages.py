"""Trainings in stages: their checkpoint, interruptions and resumption, what is refused."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from physcon_ase.cli import main
from physcon_ase.data.store import open_store
from physcon_ase.errors import RecipeError
from physcon_ase.model.checkpoint import PROVENANCE_FILE, RECIPE_FILE, WEIGHTS_FILE, read_checkpoint
from physcon_ase.model.physcon import load_model
from physcon_ase.training import stages as stages_module
from physcon_ase.training.recipe import Recipe
from physcon_ase.training.staged_recipe import read_staged_recipe
from physcon_ase.training.stages import train_stages
from physcon_ase.training.state import STATE_FILE
from physcon_ase.training.trainer import LOG_FILE, RunOptions
from tests.training.staged import write

QUIET = RunOptions(log_steps=5, progress_bar=False)
ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys
from pathlib import Path
import torch
from physcon_ase.training.staged_recipe import read_staged_recipe
from physcon_ase.training.stages import train_stages
from physcon_ase.training.trainer import RunOptions
torch.set_num_threads(1)
recipe, folder, stores, save_minutes = sys.argv[1:]
options = RunOptions(save_minutes=float(save_minutes), log_steps=1, progress_bar=False)
train_stages(read_staged_recipe(Path(recipe)), Path(folder), stores=Path(stores), options=options)
"""


def run(path: Path, folder: Path, stores: Path, scale: str | None = "tiny") -> Path:
    return train_stages(read_staged_recipe(path, scale), folder, stores=stores, options=QUIET)


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_scale_makes_stores_of_its_own(making: Path, staged_text: str, tmp_path: Path) -> None:
    command = '[scale.tiny]\nmake = "python {here}/make.py {store} {name} {levels}"'
    write(making, staged_text.replace("[scale.tiny]", command))
    folder = tmp_path / "none yet"
    run(making, tmp_path / "run", folder)
    assert (tmp_path / "made.txt").read_text() == "small.h5 labels cheap dft\n"
    assert open_store(folder / "tiny" / "small.h5").source == "small"
    assert not (folder / "small.h5").exists()


@pytest.mark.slow
def test_the_recipe_of_the_shipped_checkpoint_goes_from_nothing_to_a_checkpoint(tmp_path: Path) -> None:
    recipe = str(ROOT / "recipes" / "physcon-2" / "recipe.toml")
    folders = ["--folder", str(tmp_path / "run"), "--stores", str(tmp_path / "stores")]
    assert main(["train", recipe, *folders, "--scale", "tiny", "--quiet"]) == 0
    loaded = load_model(tmp_path / "run" / "physcon-2")
    assert loaded.model.level_names == load_model().model.level_names
    for level in loaded.model.level_names:
        assert np.isfinite(loaded.model.level(level).references).all()


def test_the_checkpoint_is_that_of_the_last_stage_with_the_text_and_the_origin_of_all(
    staged_file: Path, stores: Path, tmp_path: Path
) -> None:
    checkpoint = run(staged_file, tmp_path / "run", stores)
    assert checkpoint == tmp_path / "run" / "small"
    first, last = (tmp_path / "run" / name / f"small-{name}" for name in ("energies", "structures"))
    assert same(read_checkpoint(checkpoint).tensors, read_checkpoint(last).tensors)
    assert (checkpoint / RECIPE_FILE).read_text() == staged_file.read_text()
    before, after = read_checkpoint(first).tensors, read_checkpoint(last).tensors
    energy = {name for name in before if name.startswith("energy.")}
    assert same({name: before[name] for name in energy}, {name: after[name] for name in energy}), "not trained again"
    assert not torch.equal(before["structure.readout.weight"], after["structure.readout.weight"])

    record = json.loads((checkpoint / PROVENANCE_FILE).read_text())
    (parent,) = record["parents"]
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    store = hashlib.sha256((stores / "small.h5").read_bytes()).hexdigest()
    for own, stage in ((parent["provenance"], first), (record, last)):
        assert own["commit"] == commit
        assert own["recipe"]["name"] == stage.name
        assert own["recipe"]["sha256"] == hashlib.sha256((stage / RECIPE_FILE).read_bytes()).hexdigest()
        assert own["stores"] == {"small.h5": store}
        assert own["steps"] == 2
    assert (parent["name"], parent["revision"]) == (first.name, read_checkpoint(first).revision)
    assert parent["provenance"]["parents"] == []


def start(path: Path, folder: Path, stores: Path, save_minutes: float) -> subprocess.Popen:
    arguments = [str(path), str(folder), str(stores), str(save_minutes)]
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.DEVNULL)


def killed(path: Path, folder: Path, stores: Path, stage: str) -> None:
    """Starts the training and kills it in the middle of a stage."""
    process, log, n_lines = start(path, folder, stores, 0.0), folder / stage / LOG_FILE, 0
    while process.poll() is None and n_lines < 12:
        time.sleep(0.01)
        if log.exists():
            n_lines = len(log.read_text().splitlines())
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (folder / stage / STATE_FILE).exists()
    assert not (folder / stage / f"small-{stage}").exists()


def test_a_training_killed_in_each_stage_ends_with_the_weights_of_an_uninterrupted_one(
    staged_file: Path, stores: Path, tmp_path: Path
) -> None:
    assert start(staged_file, tmp_path / "whole", stores, 60).wait() == 0
    for stage in ("energies", "structures"):
        killed(staged_file, tmp_path / "killed", stores, stage)
    assert start(staged_file, tmp_path / "killed", stores, 60).wait() == 0
    for place in ("energies/small-energies", "structures/small-structures", "small"):
        whole, resumed = (tmp_path / name / place / WEIGHTS_FILE for name in ("whole", "killed"))
        assert whole.read_bytes() == resumed.read_bytes(), place


def test_a_finished_stage_is_skipped_even_if_it_has_moved(
    staged_file: Path, stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_checkpoint(run(staged_file, tmp_path / "run", stores))
    (tmp_path / "run").rename(tmp_path / "moved")
    trained, train = [], stages_module.train

    def watched(recipe: Recipe, folder: Path, **options) -> Path:
        trained.append(recipe.name)
        return train(recipe, folder, **options)

    monkeypatch.setattr(stages_module, "train", watched)
    without_stores = run(staged_file, tmp_path / "moved", tmp_path / "nowhere")
    assert read_checkpoint(without_stores).revision == first.revision
    assert trained == []
    for name in ("structures", "small"):
        (tmp_path / "moved" / name).rename(tmp_path / f"away-{name}")
    assert read_checkpoint(run(staged_file, tmp_path / "moved", stores)).revision == first.revision
    assert trained == ["small-structures"]


def test_another_recipe_in_the_same_folder_is_refused(
    staged_text: str, staged_file: Path, stores: Path, tmp_path: Path
) -> None:
    run(staged_file, tmp_path / "run", stores)
    finished = tmp_path / "run" / "energies" / "small-energies"
    before = contents(tmp_path / "run")
    changes = {"energies": ("energy = 0.5", "energy = 0.7"), "structures": ("repeat = 2.0", "repeat = 3.0")}
    for stage, (old, new) in changes.items():
        other = write(tmp_path / "other.toml", staged_text.replace(old, new))
        with pytest.raises(RecipeError, match=f"{stage} is the checkpoint of another recipe; train into another"):
            run(other, tmp_path / "run", stores)
    assert contents(tmp_path / "run") == before
    finished.rename(tmp_path / "away")  # as if it were not finished
    other = write(tmp_path / "other.toml", staged_text.replace("energy = 0.5", "energy = 0.7"))
    with pytest.raises(RecipeError, match="energies holds the state of another recipe"):
        run(other, tmp_path / "run", stores)
    (tmp_path / "away").rename(finished)
    assert contents(tmp_path / "run") == before


def test_a_start_that_is_nowhere_is_refused_before_anything_is_trained(
    staged_text: str, staged_file: Path, stores: Path, tmp_path: Path
) -> None:
    write(
        staged_file,
        staged_text.replace('name = "structures"', 'name = "structures"\nfrom = ["energies", "nowhere#structure"]'),
    )
    with pytest.raises(RecipeError, match="stage 'structures' starts from 'nowhere', which is no stage; checkpoint"):
        run(staged_file, tmp_path / "run", stores)
    assert not (tmp_path / "run").exists()


def test_a_store_that_is_not_made_is_refused_before_anything_is_trained(staged_file: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"there is no store .*small\.h5, and the recipe has no command that makes it"
    ):
        run(staged_file, tmp_path / "run", tmp_path / "empty")
    assert not (tmp_path / "run").exists()


def test_a_store_can_be_made_with_the_checkpoint_of_the_stage_before(
    making: Path, staged_text: str, tmp_path: Path
) -> None:
    later = (
        '[data.later]\nstore = "later.h5"\nlevels = ["cheap", "dft"]\nmake = "python {here}/make.py {store} {start}"'
    )
    text = making.read_text().replace("[data.labels]", f"{later}\n\n[data.labels]")
    write(making, text.replace('{ data = "labels", repeat = 2.0 }', '{ data = "later" }'))
    run(making, tmp_path / "run", tmp_path / "new")
    start = tmp_path / "run" / "energies" / "small-energies"
    assert (tmp_path / "made.txt").read_text() == f"small.h5 {tmp_path / 'new'}\nlater.h5 {start}\n"
    (record,) = json.loads((tmp_path / "run" / "small" / PROVENANCE_FILE).read_text())["parents"]
    assert record["name"] == start.name


def test_several_processes_make_a_store_once_and_train_all_stages(making: Path, tmp_path: Path) -> None:
    write(making, making.read_text().replace("steps = 40", "steps = 3").replace("steps = 30", "steps = 3"))
    write(tmp_path / "script.py", SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "script.py"]
    subprocess.run([*command, making.name, "run", "new", "60"], cwd=tmp_path, check=True, capture_output=True)
    assert len((tmp_path / "made.txt").read_text().splitlines()) == 1
    record = json.loads((tmp_path / "run" / "small" / PROVENANCE_FILE).read_text())
    assert (record["processes"], record["steps"], record["parents"][0]["provenance"]["processes"]) == (2, 3, 2)
    assert load_model(tmp_path / "run" / "small").name == "small"
