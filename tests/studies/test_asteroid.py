from collections.abc import Callable

import pytest

from physcon_ase.training.preflight import check_recipe
from tests.benchmark_scripts import STUDIES


@pytest.mark.parametrize("molecule", ["ethanol", "toluene", "aspirin"])
def test_the_recipes_of_ethanol_serve_other_molecules(molecule: str, benchmark: Callable) -> None:
    script = benchmark(STUDIES / "asteroid" / "run.py")
    for stage, name in zip(script.STAGES, ("accurate", "cheap", "tuned"), strict=True):
        recipe = script.recipe_of(molecule, stage, seed=1, trajectories=2)
        check_recipe(recipe)
        assert (recipe.name, recipe.seed) == (f"{molecule}-{name}", 1)
        assert all(data.store.startswith(f"{molecule}_") for data in recipe.data)
        assert [data.max_molecules for data in recipe.data if data.store == f"{molecule}_b3lyp.h5"] == [2]
