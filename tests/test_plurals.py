import numpy as np
import pytest

from physcon_ase.plurals import counted


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("0 molecules", (0, "molecule")),
        ("1 molecule", (1, "molecule")),
        ("1 atom", (np.int64(1), "atom")),
        ("2 imaginary modes", (2, "imaginary mode")),
        ("1 minimum", (1, "minimum", "minima")),
        ("3 minima", (3, "minimum", "minima")),
    ],
)
def test_only_one_is_singular(text: str, arguments: tuple) -> None:
    assert counted(*arguments) == text
