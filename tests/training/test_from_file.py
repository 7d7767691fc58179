from pathlib import Path

import pytest

from physcon_ase.errors import PhysConError, RecipeError
from physcon_ase.training.from_file import train_from_file
from tests.training.staged import write


def test_options_of_the_other_kind_of_recipe_are_refused(staged_file: Path, recipe_text: str, tmp_path: Path) -> None:
    with pytest.raises(PhysConError, match="has stages, each with its own steps"):
        train_from_file(staged_file, tmp_path / "run", steps=3)
    plain = write(tmp_path / "plain.toml", recipe_text)
    with pytest.raises(PhysConError, match="has no stages, and so no --scale tiny"):
        train_from_file(plain, tmp_path / "run", scale="tiny")
    for steps in (0, -1):
        with pytest.raises(RecipeError, match=f"optim.steps is {steps}; give the number of optimiser steps"):
            train_from_file(plain, tmp_path / "run", steps=steps)
    assert not (tmp_path / "run").exists()
