"""LEVELS of tests/tiny.py: "cheap" covers H C N O F Cl, "dft" only H C N O."""

from dataclasses import replace

import numpy as np
import pytest

from physcon_ase.errors import UnknownLevelError
from physcon_ase.model.coverage import AUTO, checked_level, level_for
from physcon_ase.model.physcon import PhysCon
from tests.tiny import LEVELS, tiny_model

WATER, CHLORIDE, SILANE = (np.array(numbers) for numbers in ([8, 1, 1], [17], [14, 1, 1, 1, 1]))


@pytest.fixture(scope="module")
def model() -> PhysCon:
    """The more accurate level first, the other one also for anions."""
    return tiny_model(levels=(LEVELS[1], replace(LEVELS[0], charges=(-1, 0))))


def test_auto_is_the_first_level_that_covers_elements_and_charge(model: PhysCon) -> None:
    assert level_for(AUTO, [(WATER, 0)], model) == "dft"
    assert level_for(AUTO, [(CHLORIDE, -1)], model) == "cheap"
    assert level_for(AUTO, [(np.array([8, 1]), -1)], model) == "cheap"


def test_several_molecules_get_one_level(model: PhysCon) -> None:
    assert level_for(AUTO, [(WATER, 0), (CHLORIDE, -1)], model) == "cheap"


def test_without_a_level_that_fits_it_is_the_first_and_an_explicit_one_stays(model: PhysCon) -> None:
    assert level_for(AUTO, [(SILANE, 0)], model) == "dft"
    assert level_for("dft", [(CHLORIDE, -1)], model) == "dft"


def test_unknown_levels_are_refused_and_auto_is_a_name(model: PhysCon) -> None:
    assert checked_level(AUTO, model) == AUTO
    with pytest.raises(UnknownLevelError, match="unknown level 'pbe'"):
        checked_level("pbe", model)
