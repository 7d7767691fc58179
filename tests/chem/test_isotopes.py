import numpy as np
import pytest

from physcon_ase.chem.compare import symmetries
from physcon_ase.chem.isotopes import isotope_masses, isotopes_of_masses
from physcon_ase.chem.perceive import graph_from_geometry
from physcon_ase.chem.smiles import canonical_smiles, graph_from_smiles
from tests.tiny import WATER, WATER_NUMBERS


def test_masses_are_those_of_the_isotopes() -> None:
    masses = isotope_masses(graph_from_smiles("[2H]O[3H]"))
    assert masses == pytest.approx([2.0141018, None, 3.0160493], abs=1e-6)


def test_isotopes_are_found_again_in_the_masses_and_other_masses_are_none() -> None:
    numbers, natural = np.array([1, 1, 1, 1, 6, 17]), np.array([1.008, 1.008, 1.008, 1.008, 12.011, 35.45])
    masses = np.array([1.00783, 2.0, 2.0141, 4.5, 13.00335, 34.969])
    assert isotopes_of_masses(numbers, masses, natural).tolist() == [0, 2, 2, 0, 13, 35]


def test_isotopes_of_a_geometry_are_part_of_its_graph_and_break_its_symmetry() -> None:
    heavy = graph_from_geometry(WATER_NUMBERS, WATER, isotopes=np.array([0, 2, 0]))
    assert canonical_smiles(heavy) == "[2H]O"
    assert len(symmetries(heavy, heavy_only=False)) == 1
    assert len(symmetries(graph_from_smiles("O"), heavy_only=False)) == 2
