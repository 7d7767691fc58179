from pathlib import Path

import ase.io
import pytest
from ase.build import molecule


@pytest.fixture(autouse=True)
def _away_from_the_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def two_structures() -> Path:
    ase.io.write("two.xyz", [molecule("H2O"), molecule("CH3CH2OH")], format="extxyz")
    return Path("two.xyz")
