"""Bond lengths of molecules that neural potentials often get wrong, at level wb97m against its teacher."""

import numpy as np
import pytest
import torch

from physcon_ase.inference.one import optimize
from physcon_ase.model.physcon import LoadedModel, load_model

TOLERANCE = 0.03
"""Deviation [Å] from the minima of AIMNet2 (mean of its four networks, relaxed to 0.01 eV/Å)."""

HEAVY_BONDS = {
    "C1=CC=C1": (1.326, 1.326, 1.567, 1.567),
    "COOC": (1.411, 1.411, 1.434),
    "OO": (1.438,),
    "CC(=O)OO": (1.204, 1.347, 1.423, 1.496),
    "C1OOC1": (1.445, 1.445, 1.464, 1.516),
    "NN": (1.468,),
    "c1ccccc1": (1.388,) * 6,
}
"""Lengths [Å] of the bonds between heavy atoms, the shortest first: antiaromatic alternation, peroxides, hydrazine."""

HYDROGEN_BONDS = {"[NH4+]": 1.022, "[OH3+]": 0.978}
"""Lengths [Å] of the bonds of small cations."""


@pytest.fixture(scope="module")
def double() -> LoadedModel:
    return load_model(dtype=torch.float64)


def bond_lengths(smiles: str, model: LoadedModel, *, level: str, hydrogen: bool) -> np.ndarray:
    result = optimize(smiles, level=level, checkpoint=model)
    assert result.is_minimum, result.status
    assert result.graph is not None
    numbers, bonds = result.atoms.numbers, result.graph.bonds
    chosen = bonds[(numbers[bonds] > 1).all(axis=1) != hydrogen]
    return np.sort(np.linalg.norm(np.diff(result.atoms.positions[chosen], axis=1)[:, 0], axis=1))


@pytest.mark.parametrize("smiles", HEAVY_BONDS)
def test_bonds_of_heavy_atoms(smiles: str, double: LoadedModel) -> None:
    found = bond_lengths(smiles, double, level="wb97m", hydrogen=False)
    np.testing.assert_allclose(found, HEAVY_BONDS[smiles], atol=TOLERANCE)


@pytest.mark.parametrize("smiles", HYDROGEN_BONDS)
def test_bonds_of_small_cations(smiles: str, double: LoadedModel) -> None:
    found = bond_lengths(smiles, double, level="wb97m", hydrogen=True)
    np.testing.assert_allclose(found, HYDROGEN_BONDS[smiles], atol=TOLERANCE)


def test_cyclobutadiene_alternates_at_the_default_level(double: LoadedModel) -> None:
    short, *_, long = bond_lengths("C1=CC=C1", double, level="b3lyp-d3", hydrogen=False)
    assert long - short > 0.1
