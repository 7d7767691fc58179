from dataclasses import replace
from importlib.metadata import PackageNotFoundError

import pytest
import torch

from physcon_ase.training import provenance as provenance_module
from physcon_ase.training.recipe_files import parse_recipe
from physcon_ase.training.state import TrainingProgress


def test_a_source_checkout_that_is_not_installed_has_a_provenance(
    recipe_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(provenance_module, "version", missing)
    recipe = replace(parse_recipe(recipe_text), data=(), start_from=())
    record = provenance_module.provenance(recipe, {}, TrainingProgress(), torch.device("cpu"))
    assert record["physcon_ase"] is None
