"""The recipes of the repository: each can be read, and none begins from a checkpoint that no recipe makes."""

import json
import runpy
import tomllib
from pathlib import Path

import pytest
import torch

from physcon_ase.model.checkpoint import WEIGHTS_FILE, read_checkpoint
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT
from physcon_ase.training.recipe import Recipe
from physcon_ase.training.recipe_files import read_recipe
from physcon_ase.training.staged_recipe import is_staged, read_staged_recipe
from physcon_ase.training.stages import train_stages

ROOT = Path(__file__).parent.parent / "recipes"
STUDIES = ROOT.parent / "studies"
FILES = sorted([*ROOT.rglob("*.toml"), *STUDIES.rglob("*.toml")])
RECIPES = [path for path in FILES if not path.with_name(WEIGHTS_FILE).exists()]
LATER_STARTS = ("direct-forces", "asteroid")
"""Folders whose scripts say where their recipes begin."""


def parts(path: Path) -> dict[str, Recipe]:
    """The recipes of the stages of a file by their names, or the one that it is."""
    if is_staged(path):
        return {stage.name: stage.recipe for stage in read_staged_recipe(path).stages}
    return {"": read_recipe(path)}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recipe_can_be_read_and_begins_from_what_another_one_makes_or_what_lies_beside_it(path: Path) -> None:
    made = {other.stem for other in RECIPES}
    for stage, recipe in parts(path).items():
        for start in recipe.start_from:
            folder = Path(start.partition("#")[0])
            if folder.parent == path.parent:
                assert read_checkpoint(folder).tensors
            else:
                assert folder.name in made or folder.parent.name in made or path.parent.name in LATER_STARTS, start
        made.add(stage)


@pytest.mark.parametrize("path", [path for path in RECIPES if is_staged(path)], ids=lambda path: path.parent.name)
def test_every_scale_of_a_recipe_with_stages_can_be_read(path: Path) -> None:
    whole, scales = read_staged_recipe(path), tomllib.loads(path.read_text(encoding="utf-8")).get("scale", {})
    assert scales
    for name, scale in scales.items():
        smaller = read_staged_recipe(path, name)
        assert [stage.name for stage in smaller.stages] == [stage.name for stage in whole.stages]
        assert {stage.recipe.optim.steps for stage in smaller.stages} == {scale["steps"]}


def test_the_recipe_of_physcon_2_makes_all_its_stores_from_three_archives_and_files_beside_it() -> None:
    recipe = read_staged_recipe(ROOT / DEFAULT_CHECKPOINT / "recipe.toml")
    stores = {file.store for file in recipe.data.values()}
    read = [word for file in recipe.data.values() for word in file.make.split()]
    archives = {f"{name}.npz" for name in ("openff_minima_dzvp", "openff_torsions_dzvp", "qm9_b3lyp")}
    assert {word.removeprefix("{stores}/") for word in read if word.startswith("{stores}/")} - stores == archives
    beside = {word.removeprefix("{here}/") for word in read if word.startswith("{here}/")}
    assert [name for name in beside if not list(recipe.here.glob(name))] == []
    made = {file.store for file in recipe.data.values() if file.make}
    assert stores - made == set()


def test_the_shipped_checkpoint_holds_its_recipe() -> None:
    assert tomllib.loads(read_checkpoint(DEFAULT_CHECKPOINT).recipe)["name"] == DEFAULT_CHECKPOINT


def test_every_molecule_stands_once_in_the_reference_of_frequencies() -> None:
    path = ROOT.parent / "benchmarks" / "frequencies.json"
    smiles = [record["smiles"] for record in json.loads(path.read_text(encoding="utf-8"))]
    assert len(smiles) == len(set(smiles)) == 20


def test_the_stages_of_the_shipped_checkpoint_can_be_finished_without_training(tmp_path: Path) -> None:
    """Their stores are absent, so a stage that is not finished would end in an error."""
    folder, recipe = ROOT / DEFAULT_CHECKPOINT, read_staged_recipe(ROOT / DEFAULT_CHECKPOINT / "recipe.toml")
    runpy.run_path(str(folder / "finished_stages.py"))["main"]([str(tmp_path)])
    made = read_checkpoint(train_stages(recipe, tmp_path, stores=tmp_path)).tensors
    shipped = read_checkpoint(DEFAULT_CHECKPOINT).tensors
    assert made
    assert all(torch.equal(values, shipped[name]) for name, values in made.items())
