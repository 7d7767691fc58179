"""Recipes with stages: what is read and refused, how stores are made, trainings that are interrupted and resumed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch

from physcon_ase.cli import main
from physcon_ase.data.store import open_store
from physcon_ase.errors import PhysConError, RecipeError
from physcon_ase.model.checkpoint import PROVENANCE_FILE, RECIPE_FILE, WEIGHTS_FILE, read_checkpoint
from physcon_ase.model.physcon import load_model
from physcon_ase.training import provenance as provenance_module
from physcon_ase.training import stages as stages_module
from physcon_ase.training.from_file import train_from_file
from physcon_ase.training.recipe import Recipe
from physcon_ase.training.recipe_files import parse_recipe
from physcon_ase.training.stages import is_staged, make_stores, read_staged_recipe, train_stages
from physcon_ase.training.state import STATE_FILE, TrainingProgress
from physcon_ase.training.trainer import LOG_FILE, RunOptions, load_training_items

QUIET = RunOptions(log_steps=5, progress_bar=False)
ROOT = Path(__file__).resolve().parents[2]

STAGES = """
[data.labels]
store = "small.h5"
levels = ["cheap", "dft"]
licence = "CC0"

[[stage]]
name = "energies"
train = ["energy"]
steps = 40
use = [{ data = "labels" }]
loss = { structure = 0.0 }

[[stage]]
name = "structures"
train = ["structure"]
steps = 30
use = [{ data = "labels", repeat = 2.0 }]
loss = { energy = 0.0, forces = 0.0, structure = 0.1 }

[scale.tiny]
steps = 2
max_molecules = 1
encoder = { hidden = 4 }
"""

SCRIPT = """
import sys
from pathlib import Path
import torch
from physcon_ase.training.stages import read_staged_recipe, train_stages
from physcon_ase.training.trainer import RunOptions
torch.set_num_threads(1)
recipe, folder, stores, save_minutes = sys.argv[1:]
options = RunOptions(save_minutes=float(save_minutes), log_steps=1, progress_bar=False)
train_stages(read_staged_recipe(Path(recipe)), Path(folder), stores=Path(stores), options=options)
"""

MAKE = """
import shutil, sys
from pathlib import Path
store, *levels = sys.argv[1:]
with open(Path(__file__).with_name("made.txt"), "a") as file:
    print(Path(store).name, *levels, file=file)
shutil.copy(Path(__file__).parent / "stores" / "small.h5", store)
"""


@pytest.fixture
def text(recipe_text: str) -> str:
    """The recipe of the other tests in two stages: energies, then structures."""
    data = recipe_text[recipe_text.index("[[data]]") : recipe_text.index("[loss]")]
    return recipe_text.replace(data, "").replace("steps = 40\n", "") + STAGES


@pytest.fixture
def path(text: str, tmp_path: Path) -> Path:
    """The file of this recipe."""
    return write(tmp_path / "recipe.toml", text)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def run(path: Path, folder: Path, stores: Path, scale: str | None = "tiny") -> Path:
    return train_stages(read_staged_recipe(path, scale), folder, stores=stores, options=QUIET)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- reading


def test_a_stage_is_that_before_it_with_what_it_changes(path: Path) -> None:
    recipe = read_staged_recipe(path)
    first, second = (stage.recipe for stage in recipe.stages)
    assert [stage.name for stage in recipe.stages] == ["energies", "structures"]
    assert (first.name, second.name) == ("small-energies", "small-structures")
    assert (first.start_from, second.start_from) == ((), ("energies",))
    assert (first.optim.steps, first.optim.train, first.optim.lr) == (40, ("energy",), 0.01)
    assert (second.optim.steps, second.optim.train, second.optim.lr) == (30, ("structure",), 0.01)
    assert (first.loss.energy, first.loss.forces, first.loss.structure) == (0.5, 1.0, 0.0)
    assert (second.loss.energy, second.loss.forces, second.loss.structure) == (0.0, 0.0, 0.1)
    assert (first.encoder, first.levels, first.seed) == (second.encoder, second.levels, 3)
    assert [(data.store, data.levels, data.repeat) for (data,) in (first.data, second.data)] == [
        ("small.h5", ("cheap", "dft"), 1.0),
        ("small.h5", ("cheap", "dft"), 2.0),
    ]
    assert recipe.data["labels"].licence == "CC0"
    assert is_staged(path)


def test_starts_may_lie_beside_the_recipe(text: str, path: Path) -> None:
    write(path, text.replace('name = "energies"\n', 'name = "energies"\nfrom = ["{here}/start#structure"]\n'))
    first, second = read_staged_recipe(path).stages
    assert first.recipe.start_from == (f"{path.parent}/start#structure",)
    assert second.recipe.start_from == ("energies",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 3", "seed = ", "is not valid TOML"),
        ("seed = 3", "sed = 3", "has the unknown key 'sed'; did you mean 'seed'"),
        ('name = "small"', "", "lacks 'name'"),
        ('name = "small"', "name = 3", "has the name 3; a name is a string"),
        ("[data.labels]", "[[data]]", r"data must consist of named sections, \[data\.NAME\]"),
        ("[data.labels]", "[data]", r"data must consist of named sections, \[data\.NAME\]"),
        ("[data.labels]", "data = 3\n[datas]", "has the unknown key 'datas'"),
        ('licence = "CC0"', 'license = "CC0"', "data.labels has the unknown key 'license'; did you mean 'licence'"),
        ('licence = "CC0"', "licence = 0", "data.labels: licence is 0; a value of type str is needed"),
        ('store = "small.h5"', "", "data.labels lacks 'store'"),
        ("steps = 30", "stepps = 30", "stage 'structures' has the unknown key 'stepps'; did you mean 'steps'"),
        ("steps = 30", "", "stage 'structures' lacks 'steps'"),
        ("steps = 30", 'steps = "many"', "stage 'structures': optim: steps is 'many'; a value of type int is needed"),
        ("steps = 30", "steps = 0", r"stage 'structures' optim\.steps is 0"),
        ("steps = 30", "steps = 30\noptim = 3", "stage 'structures': optim is 3"),
        ('name = "structures"', 'name = "energies"', "stage 'energies' has the name of a stage before it"),
        ('name = "structures"', 'name = "small"', "stage 'small' has the name of a stage before it or of the recipe"),
        ('name = "structures"', 'name = "a/b"', "has the name 'a/b'; a name is a string without / and #"),
        ('name = "structures"', 'name = "x"\nfrom = "energies"', "from is 'energies'; a list of strings is needed"),
        ('name = "structures"', 'name = "x"\nfrom = ["{there}/y"]', "'{there}/y' has a place with another name than"),
        ('name = "structures"', 'name = "x"\nfrom = ["x#energy"]', "starts from 'x#energy', which is no stage before"),
        (
            'name = "energies"',
            'name = "x"\nfrom = ["structures"]',
            "starts from 'structures', which is no stage",
        ),
        ('data = "labels", repeat', 'data = "lables", repeat', r"uses data 'lables'; \[data\] has labels"),
        ('data = "labels", repeat', "data = [], repeat", r"uses data \[\]; \[data\] has labels"),
        ('{ data = "labels", repeat = 2.0 }', '"labels"', r"use is \['labels'\]; a list of tables is needed"),
        ("repeat = 2.0", "repeats = 2.0", "has the unknown key 'repeats'"),
        ("[scale.tiny]", "[scale]", r"scale must consist of named sections, \[scale\.NAME\]"),
        ("[scale.tiny]", "[scale.small]", "has no scale 'tiny'; it has small"),
        ("max_molecules = 1", "max_mols = 1", "scale.tiny has the unknown key 'max_mols'"),
        ("hidden = 4", "hiden = 4", r"scale\.tiny\.encoder has the unknown key 'hiden'; did you mean 'hidden'"),
        ("steps = 2\n", "steps = 0\n", r"scale\.tiny optim\.steps is 0"),
    ],
)
def test_a_wrong_recipe_is_one_clear_error(text: str, path: Path, old: str, new: str, message: str) -> None:
    assert old in text
    write(path, text.replace(old, new, 1))
    with pytest.raises(RecipeError, match=message):
        read_staged_recipe(path, "tiny")


def test_a_missing_file_and_one_without_stages_are_named(text: str, path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no recipe at nowhere\.toml"):
        read_staged_recipe(Path("nowhere.toml"))
    assert not is_staged(Path("nowhere.toml"))
    without = text[: text.index("[[stage]]")]
    for stages, message in (("stage = []", "has no stage"), ("stage = 3", "stage is 3; a list of tables is needed")):
        write(path, f"{stages}\n{without}")
        with pytest.raises(RecipeError, match=message):
            read_staged_recipe(path)


def test_options_of_the_other_kind_of_recipe_are_refused(path: Path, recipe_text: str, tmp_path: Path) -> None:
    with pytest.raises(PhysConError, match="has stages, each with its own steps"):
        train_from_file(path, tmp_path / "run", steps=3)
    plain = write(tmp_path / "plain.toml", recipe_text)
    with pytest.raises(PhysConError, match="has no stages, and so no --scale tiny"):
        train_from_file(plain, tmp_path / "run", scale="tiny")
    for steps in (0, -1):
        with pytest.raises(RecipeError, match=f"optim.steps is {steps}; give the number of optimiser steps"):
            train_from_file(plain, tmp_path / "run", steps=steps)
    assert not (tmp_path / "run").exists()


# ---- stores


@pytest.fixture
def making(text: str, path: Path, stores: Path) -> Path:
    """The recipe with a command that makes its store."""
    write(path.with_name("make.py"), MAKE)
    command = 'make = "python {here}/make.py {store} {stores}"'
    return write(path, text.replace('licence = "CC0"', command))


def test_a_missing_store_is_made_once_whatever_its_path(making: Path, stores: Path, tmp_path: Path) -> None:
    recipe, folder = read_staged_recipe(making), tmp_path / "my stores"
    make_stores(recipe, folder)
    make_stores(recipe, folder)
    assert (folder / "small.h5").read_bytes() == (stores / "small.h5").read_bytes()
    assert (tmp_path / "made.txt").read_text() == f"small.h5 {folder}\n"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "there is no store .*small.h5, and the recipe has no command that makes it"),
        ("python -c 'raise SystemExit(3)'", "data.labels: the command .* failed with exit status 3"),
        ("python -c pass {store}", "data.labels: the command .* ended without making .*small.h5"),
        ("no-such-program {store}", "data.labels: the command 'no-such-program .* cannot be run"),
        ("python 'make.py", "cannot be run: No closing quotation"),
        ("python make.py {stoer}", "'python make.py {stoer}' has a place with another name than {store}"),
    ],
)
def test_a_store_that_is_not_made_is_an_error(
    making: Path, text: str, tmp_path: Path, command: str, message: str
) -> None:
    write(making, text.replace('licence = "CC0"', f'make = "{command}"'))
    with pytest.raises(RecipeError, match=message):
        train_stages(read_staged_recipe(making), tmp_path / "run", stores=tmp_path / "empty", options=QUIET)
    assert not (tmp_path / "run").exists()


def test_the_sum_of_a_store_is_checked(text: str, path: Path, stores: Path) -> None:
    found = hashlib.sha256((stores / "small.h5").read_bytes()).hexdigest()
    write(path, text.replace('licence = "CC0"', f'sha256 = "{found}"'))
    make_stores(read_staged_recipe(path), stores)
    write(path, text.replace('licence = "CC0"', f'sha256 = "{"0" * 64}"'))
    with pytest.raises(RecipeError, match=f"data.labels: .*small.h5 has sha256 {found} instead of 0000"):
        make_stores(read_staged_recipe(path), stores)


def test_a_scale_makes_stores_of_its_own(making: Path, text: str, tmp_path: Path) -> None:
    command = '[scale.tiny]\nmake = "python {here}/make.py {store} {name} {levels}"'
    write(making, text.replace("[scale.tiny]", command))
    folder = tmp_path / "none yet"
    run(making, tmp_path / "run", folder)
    assert (tmp_path / "made.txt").read_text() == "small.h5 labels cheap dft\n"
    assert open_store(folder / "tiny" / "small.h5").source == "small"
    assert not (folder / "small.h5").exists()


# ---- scales


def test_a_scale_replaces_steps_and_sizes_and_limits_molecules(path: Path, stores: Path) -> None:
    whole, tiny = ([stage.recipe for stage in read_staged_recipe(path, scale).stages] for scale in (None, "tiny"))
    assert [recipe.optim.steps for recipe in whole] == [40, 30]
    assert [recipe.optim.steps for recipe in tiny] == [2, 2]
    assert {recipe.encoder.hidden for recipe in whole} == {8}
    assert {recipe.encoder.hidden for recipe in tiny} == {4}
    assert {recipe.encoder.channels for recipe in tiny} == {8}

    def n_molecules(recipe: Recipe) -> int:
        items = load_training_items(recipe, stores, "train")
        return len({tuple(numbers.tolist()) for bucket in items.buckets for numbers in bucket.atomic_numbers})

    assert n_molecules(tiny[0]) == 1 < n_molecules(whole[0])


@pytest.mark.parametrize(("own", "of_scale", "limit"), [(3, 5, 3), (5, 3, 3), (3, 0, 3), (0, 3, 3), (0, 0, 0)])
def test_a_scale_never_takes_more_molecules(text: str, path: Path, own: int, of_scale: int, limit: int) -> None:
    text = text.replace("max_molecules = 1", f"max_molecules = {of_scale}")
    write(path, text.replace('use = [{ data = "labels" }]', f'use = [{{ data = "labels", max_molecules = {own} }}]'))
    assert read_staged_recipe(path, "tiny").stages[0].recipe.data[0].max_molecules == limit


@pytest.mark.slow
def test_the_recipe_of_the_shipped_checkpoint_goes_from_nothing_to_a_checkpoint(tmp_path: Path) -> None:
    recipe = str(ROOT / "recipes" / "physcon-2" / "recipe.toml")
    folders = ["--folder", str(tmp_path / "run"), "--stores", str(tmp_path / "stores")]
    assert main(["train", recipe, *folders, "--scale", "tiny", "--quiet"]) == 0
    loaded = load_model(tmp_path / "run" / "physcon-2")
    assert loaded.model.level_names == load_model().model.level_names
    for level in loaded.model.level_names:
        assert np.isfinite(loaded.model.level(level).references).all()


# ---- training


def test_a_source_checkout_that_is_not_installed_has_a_provenance(
    recipe_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(provenance_module, "version", missing)
    recipe = replace(parse_recipe(recipe_text), data=(), start_from=())
    record = provenance_module.provenance(recipe, Path(), TrainingProgress(), torch.device("cpu"))
    assert record["physcon_ase"] is None


def test_the_checkpoint_is_that_of_the_last_stage_with_the_text_and_the_origin_of_all(
    path: Path, stores: Path, tmp_path: Path
) -> None:
    checkpoint = run(path, tmp_path / "run", stores)
    assert checkpoint == tmp_path / "run" / "small"
    first, last = (tmp_path / "run" / name / f"small-{name}" for name in ("energies", "structures"))
    assert same(read_checkpoint(checkpoint).tensors, read_checkpoint(last).tensors)
    assert (checkpoint / RECIPE_FILE).read_text() == path.read_text()
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
    path: Path, stores: Path, tmp_path: Path
) -> None:
    assert start(path, tmp_path / "whole", stores, 60).wait() == 0
    for stage in ("energies", "structures"):
        killed(path, tmp_path / "killed", stores, stage)
    assert start(path, tmp_path / "killed", stores, 60).wait() == 0
    for place in ("energies/small-energies", "structures/small-structures", "small"):
        whole, resumed = (tmp_path / name / place / WEIGHTS_FILE for name in ("whole", "killed"))
        assert whole.read_bytes() == resumed.read_bytes(), place


def test_a_finished_stage_is_skipped_even_if_it_has_moved(
    path: Path, stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_checkpoint(run(path, tmp_path / "run", stores))
    (tmp_path / "run").rename(tmp_path / "moved")
    trained, train = [], stages_module.train

    def watched(recipe: Recipe, folder: Path, **options) -> Path:
        trained.append(recipe.name)
        return train(recipe, folder, **options)

    monkeypatch.setattr(stages_module, "train", watched)
    without_stores = run(path, tmp_path / "moved", tmp_path / "nowhere")
    assert read_checkpoint(without_stores).revision == first.revision
    assert trained == []
    for name in ("structures", "small"):
        (tmp_path / "moved" / name).rename(tmp_path / f"away-{name}")
    assert read_checkpoint(run(path, tmp_path / "moved", stores)).revision == first.revision
    assert trained == ["small-structures"]


def test_another_recipe_in_the_same_folder_is_refused(text: str, path: Path, stores: Path, tmp_path: Path) -> None:
    run(path, tmp_path / "run", stores)
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    changes = {"energies": ("energy = 0.5", "energy = 0.7"), "structures": ("repeat = 2.0", "repeat = 3.0")}
    for stage, (old, new) in changes.items():
        other = write(tmp_path / "other.toml", text.replace(old, new))
        with pytest.raises(RecipeError, match=f"{stage} is the checkpoint of another recipe; train into another"):
            run(other, tmp_path / "run", stores)
    (tmp_path / "run" / "energies" / "small-energies").rename(tmp_path / "away")  # as if it were not finished
    other = write(tmp_path / "other.toml", text.replace("energy = 0.5", "energy = 0.7"))
    with pytest.raises(RecipeError, match="energies holds the state of another recipe"):
        run(other, tmp_path / "run", stores)
    assert all(file.read_bytes() == content for file, content in before.items() if file.exists())


def test_a_start_that_is_nowhere_is_refused_before_anything_is_trained(
    text: str, path: Path, stores: Path, tmp_path: Path
) -> None:
    write(path, text.replace('name = "structures"', 'name = "structures"\nfrom = ["energies", "nowhere#structure"]'))
    with pytest.raises(RecipeError, match="stage 'structures' starts from 'nowhere', which is no stage; checkpoint"):
        run(path, tmp_path / "run", stores)
    assert not (tmp_path / "run").exists()


def test_several_processes_make_a_store_once_and_train_all_stages(making: Path, tmp_path: Path) -> None:
    write(making, making.read_text().replace("steps = 40", "steps = 3").replace("steps = 30", "steps = 3"))
    write(tmp_path / "script.py", SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "script.py"]
    subprocess.run([*command, making.name, "run", "new", "60"], cwd=tmp_path, check=True, capture_output=True)
    assert len((tmp_path / "made.txt").read_text().splitlines()) == 1
    record = json.loads((tmp_path / "run" / "small" / PROVENANCE_FILE).read_text())
    assert (record["processes"], record["steps"], record["parents"][0]["provenance"]["processes"]) == (2, 3, 2)
    assert load_model(tmp_path / "run" / "small").name == "small"
