"""The shipped models give today what they gave when they were released; see renew.py."""

import json

import numpy as np
import pytest
import torch

from physcon_ase.model.checkpoint import shipped_names
from physcon_ase.model.physcon import load_model
from tests.golden.renew import evaluate, golden_file

TOLERANCE = {torch.float64: 1e-7, torch.float32: 2e-3}
"""Energies [eV], forces [eV/Å], charges [e], structures [Å]: another processor sums in another order, nothing more."""

RELATIVE = {torch.float64: 1e-9, torch.float32: 3e-5}
"""Of the forces between squeezed atoms, which are hundreds of eV/Å."""


@pytest.mark.parametrize("name", shipped_names())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_shipped_model_gives_its_golden_numbers(name: str, dtype: torch.dtype) -> None:
    golden = json.loads(golden_file(name).read_text(encoding="utf-8"))
    loaded = load_model(name, dtype=dtype)
    assert loaded.revision == golden["revision"], f"new weights: python -m tests.golden.renew {name}"
    found = evaluate(loaded.model)
    assert found["energies"].keys() == golden["energies"].keys()
    for level, molecules in golden["energies"].items():
        for molecule, expected in molecules.items():
            for kind, value in expected.items():
                ours = found["energies"][level][molecule][kind]
                np.testing.assert_allclose(
                    ours, value, rtol=RELATIVE[dtype], atol=TOLERANCE[dtype], err_msg=f"{kind} of {molecule} at {level}"
                )
    assert found["structures"].keys() == golden["structures"].keys()
    for sigma, expected in golden["structures"].items():
        np.testing.assert_allclose(found["structures"][sigma], expected, rtol=0, atol=TOLERANCE[dtype], err_msg=sigma)
