from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from physcon_ase.data.store import open_store
from physcon_ase.errors import PhysConError
from physcon_ase.labelling.engines import tblite_engine
from physcon_ase.training.preflight import check_recipe
from tests.benchmark_scripts import STUDIES


@pytest.mark.parametrize("molecule", ["ethanol", "toluene", "aspirin"])
def test_the_recipes_of_ethanol_serve_other_molecules(molecule: str, benchmark: Callable) -> None:
    script = benchmark(STUDIES / "asteroid" / "run.py")
    for stage, name in zip(script.STAGES, ("accurate", "cheap", "tuned"), strict=True):
        recipe = script.recipe_of(molecule, stage, seed=1, kinds=("md-1", "md-2"))
        check_recipe(recipe)
        assert (recipe.name, recipe.seed) == (f"{molecule}-{name}", 1)
        assert all(data.store.startswith(f"{molecule}_") for data in recipe.data)
        found = [data.kinds for data in recipe.data if data.store == f"{molecule}_b3lyp.h5"]
        assert found == [("md-1", "md-2")]


def test_trajectories_of_one_molecule_are_told_apart(benchmark: Callable, tmp_path: Path) -> None:
    made, script = (benchmark(STUDIES / "asteroid" / f"{name}.py") for name in ("label", "run"))
    path = tmp_path / "water_b3lyp.h5"
    made.trajectories(made.Subject("O", 0, 9, 0), tblite_engine(), path, n=9, frames=3, steps=100, seed=1)
    store = open_store(path)
    assert (len(store.molecules), len(store.geometries)) == (1, 9)
    kinds = script.trajectories_of(path, 2)
    assert len(kinds) == 2
    assert np.isin(store.geometries.kind, kinds).tolist() == [True] * 6 + [False] * 3
    assert script.trajectories_of(path, 0) == ()
    with pytest.raises(PhysConError, match="tells 3 trajectories apart, but 4 are asked for"):
        script.trajectories_of(path, 4)
