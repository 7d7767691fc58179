"""Records energies, forces, charges and structures of a shipped checkpoint, for `test_golden.py` to compare with.

Renew after a new checkpoint, never to make a failing test pass:

    python -m tests.golden.renew physcon-2
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from physcon_ase.batch import make_batch
from physcon_ase.chem.graph import make_graph
from physcon_ase.model.physcon import PhysCon, load_model
from tests.tiny import ETHANOL, ETHANOL_BONDS, ETHANOL_NUMBERS, WATER, WATER_NUMBERS

MOLECULES = {
    "ethanol": (ETHANOL_NUMBERS, ETHANOL, 0),
    "ethoxide": (ETHANOL_NUMBERS[:-1], ETHANOL[:-1], -1),
    "water": (WATER_NUMBERS, WATER, 0),
    "squeezed hydrogen": (np.array([1, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.4]]), 0),
    "five ethanols": (
        np.tile(ETHANOL_NUMBERS, 5),
        np.concatenate([ETHANOL + [0.0, 0.0, 3.5 * k] for k in range(5)]),  # noqa: RUF005  # arrays are added
        0,
    ),
}
"""Atomic numbers, positions [Å] and charge [e]; ions count at the levels that cover them."""

NOISE_LEVELS = (0.1, 1.0)
"""σ [Å] that the structure network is told about the geometry of ethanol."""


def golden_file(name: str) -> Path:
    return Path(__file__).with_name(f"{name}.json")


def evaluate(model: PhysCon) -> dict[str, Any]:
    """Everything that is recorded, as JSON-ready data."""
    return {
        "energies": {level: _energies(model, level) for level in model.level_names},
        "structures": _structures(model),
    }


def _energies(model: PhysCon, level: str) -> dict[str, Any]:
    found = {}
    for name, (numbers, positions, charge) in MOLECULES.items():
        if charge not in model.level(level).charges:
            continue
        batch = make_batch([numbers], [positions], charges=[charge], dtype=model.energy.embedding.weight.dtype)
        with torch.no_grad():
            outputs = model.evaluate(batch, level, forces=True)
        assert outputs.forces is not None
        found[name] = {"energy": outputs.energies.item(), "forces": outputs.forces[0].tolist()}
        if outputs.charges is not None:
            found[name]["charges"] = outputs.charges[0].tolist()
    return found


def _structures(model: PhysCon) -> dict[str, Any]:
    if model.structure is None:
        return {}
    graph = make_graph(ETHANOL_NUMBERS, ETHANOL_BONDS, np.ones(len(ETHANOL_BONDS)))
    dtype = model.energy.embedding.weight.dtype
    batch = make_batch([ETHANOL_NUMBERS], [ETHANOL], graphs=[graph], dtype=dtype)
    return {
        str(sigma): model.denoiser(model.level_names[0])(batch, torch.tensor([sigma], dtype=dtype))[0].tolist()
        for sigma in NOISE_LEVELS
    }


if __name__ == "__main__":
    for checkpoint in sys.argv[1:]:
        loaded = load_model(checkpoint, dtype=torch.float64)
        record = {"checkpoint": checkpoint, "revision": loaded.revision, **evaluate(loaded.model)}
        golden_file(checkpoint).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {golden_file(checkpoint).name} for revision {loaded.revision[:12]}")
