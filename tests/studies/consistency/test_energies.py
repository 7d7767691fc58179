from importlib.util import find_spec
from pathlib import Path

import pytest

from physcon_ase.chem.graph import make_graph
from physcon_ase.labelling.engines import pyscf_engine
from studies.consistency.energies import KeptEnergies
from tests.tiny import WATER, WATER_NUMBERS

pytestmark = pytest.mark.skipif(find_spec("pyscf") is None, reason="PySCF is not installed")


def kept(path: Path, functional: str = "lda") -> KeptEnergies:
    return KeptEnergies(path, pyscf_engine("small", functional=functional, basis="sto-3g", grid_level=0))


def test_an_energy_is_computed_once_for_each_name_and_functional(tmp_path: Path) -> None:
    water = make_graph(WATER_NUMBERS, [[0, 1], [0, 2]], [1, 1])
    path = tmp_path / "energies.json"
    first = kept(path).energy("water", water, WATER)
    assert kept(path).energy("water", water, 2 * WATER) == first  # what is kept is not computed again
    assert kept(path).energy("wide water", water, 1.5 * WATER) > first
    assert kept(path, "pbe").energy("water", water, WATER) != first
    assert kept(path).energy("water", water, 2 * WATER) == first


def test_a_structure_without_an_energy_lies_infinitely_high_and_is_not_tried_again(tmp_path: Path) -> None:
    doublet = make_graph(WATER_NUMBERS, [[0, 1], [0, 2]], [1, 1], multiplicity=2)
    water = make_graph(WATER_NUMBERS, [[0, 1], [0, 2]], [1, 1])
    path = tmp_path / "energies.json"
    assert kept(path).energy("doublet", doublet, WATER) == float("inf")
    assert kept(path).energy("doublet", water, WATER) == float("inf")
