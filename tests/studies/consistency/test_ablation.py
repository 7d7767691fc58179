from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from physcon_ase.training.staged_recipe import read_staged_recipe
from tests.benchmark_scripts import ROOT, STUDIES


def test_the_ablation_changes_one_stage_alone(benchmark: Callable, tmp_path: Path) -> None:
    recipe = ROOT / "recipes" / "physcon-2" / "recipe.toml"
    script, changed = benchmark(STUDIES / "consistency" / "ablation.py"), tmp_path / "without.toml"
    changed.write_text(script.without_terms(recipe))
    pairs = zip(read_staged_recipe(recipe).stages, read_staged_recipe(changed).stages, strict=True)
    before, after = next((before, after) for before, after in pairs if before.name != after.name)
    assert (before.name, after.name) == (script.STAGE, "without")
    assert before.recipe.loss.optimality > 0
    assert before.recipe.loss.score > 0
    assert after.recipe.loss == replace(before.recipe.loss, optimality=0.0, score=0.0)
    assert after.recipe.optim == before.recipe.optim
    for own, other in pairs:
        assert own.name == other.name
        assert own.recipe.loss == other.recipe.loss
