from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Archive = dict[str, np.ndarray]
MakeArchive = Callable[..., Archive]


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Archive], Path]:
    def save(archive: Archive) -> Path:
        path = tmp_path / "any_name.npz"
        np.savez(path, **archive)
        return path

    return save


@pytest.fixture
def quartet(make_archive: MakeArchive) -> Archive:
    """Four geometries per molecule: the same one four times, a little displaced."""
    archive = make_archive()
    n, positions = len(archive["n_atoms"]), archive.pop("positions")
    generator = np.random.default_rng(0)
    four = positions + generator.normal(scale=[[[0.0]], [[0.005]], [[0.02]], [[0.02]]], size=(4, *positions.shape))
    return {
        **archive,
        "gdb": np.arange(n) + 100,
        "positions_q": np.round(four * 2048).astype(np.int16),
        "energy": generator.normal(size=(n, 4)),
        "forces": generator.normal(size=four.shape).astype(np.float16),
        "converged": np.ones(n, dtype=bool),
    }
