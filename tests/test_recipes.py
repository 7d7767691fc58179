"""The recipes of the repository: each can be read, and none begins from a checkpoint that no recipe makes."""

import json
import tomllib
from pathlib import Path

import pytest

from physcon_ase.model.checkpoint import read_checkpoint
from physcon_ase.training.recipe_files import read_recipe

ROOT = Path(__file__).parent.parent / "recipes"
STUDIES = ROOT.parent / "studies"
RECIPES = sorted([*ROOT.rglob("*.toml"), *STUDIES.rglob("*.toml")])
LATER_STARTS = ("direct-forces", "asteroid")
"""Folders whose scripts say where their recipes begin."""


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_can_be_read_and_begins_from_what_another_one_makes(path: Path) -> None:
    recipe = read_recipe(path)
    made = {other.stem for other in RECIPES}
    for start in recipe.start_from:
        folder = Path(start.partition("#")[0])
        assert folder.name in made or folder.parent.name in made or path.parent.name in LATER_STARTS, start


def test_the_shipped_checkpoint_holds_its_recipe() -> None:
    assert tomllib.loads(read_checkpoint("physcon-1").recipe)["name"] == "physcon-1"


def test_every_molecule_stands_once_in_the_reference_of_frequencies() -> None:
    path = ROOT.parent / "benchmarks" / "frequencies.json"
    smiles = [record["smiles"] for record in json.loads(path.read_text(encoding="utf-8"))]
    assert len(smiles) == len(set(smiles)) == 20
