from collections.abc import Callable
from pathlib import Path

import pytest

from physcon_ase.data.store import Store, write_store
from tests.training.staged import MAKE, STAGES, write

RECIPE = """
name = "small"
seed = 3

[[levels]]
name = "cheap"
description = "random numbers"

[[levels]]
name = "dft"
description = "other random numbers"
like = "cheap"

[[data]]
store = "small.h5"
levels = ["cheap", "dft"]

[loss]
energy = 0.5
forces = 1.0
structure = 0.1

[encoder]
n_layers = 2
channels = 8
mixed_channels = 8
source_scalars = 4
source_vectors = 2
hidden = 8
n_radial = 4

[structure]
n_layers = 1
channels = 8
mixed_channels = 8
source_scalars = 4
source_vectors = 2
hidden = 8
n_radial = 4

[optim]
steps = 40
atoms_per_batch = 40
lr = 0.01
warmup = 5
"""


@pytest.fixture
def recipe_text() -> str:
    """A recipe for the store of `stores`."""
    return RECIPE


@pytest.fixture
def stores(make_store: Callable[..., Store], tmp_path: Path) -> Path:
    """A folder with the store that the recipe names."""
    write_store(tmp_path / "stores" / "small.h5", make_store(copies=8))
    return tmp_path / "stores"


@pytest.fixture
def staged_text(recipe_text: str) -> str:
    """The recipe of `recipe_text` in two stages: energies, then structures."""
    data = recipe_text[recipe_text.index("[[data]]") : recipe_text.index("[loss]")]
    return recipe_text.replace(data, "").replace("steps = 40\n", "") + STAGES


@pytest.fixture
def staged_file(staged_text: str, tmp_path: Path) -> Path:
    """The file of this recipe."""
    return write(tmp_path / "recipe.toml", staged_text)


@pytest.fixture
def making(staged_text: str, staged_file: Path, stores: Path) -> Path:
    """The recipe with a command that makes its store."""
    write(staged_file.with_name("make.py"), MAKE)
    command = 'make = "python {here}/make.py {store} {stores}"'
    return write(staged_file, staged_text.replace('licence = "CC0"', command))
