"""The shipped model in float64 and what it relaxes, for the tests of this room."""

import pytest
import torch

from physcon_ase.inference.one import optimize
from physcon_ase.inference.results import Result
from physcon_ase.model.physcon import LoadedModel, load_model


@pytest.fixture(scope="module")
def double() -> LoadedModel:
    return load_model(dtype=torch.float64)


@pytest.fixture(scope="module")
def water(double: LoadedModel) -> Result:
    return optimize("O", checkpoint=double)
