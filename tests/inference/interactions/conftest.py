import pytest

from physcon_ase.inference.interactions.energies import interaction
from physcon_ase.inference.interactions.interaction import Interaction
from physcon_ase.model.physcon import LoadedModel
from tests.inference.interactions.water_dimer import dimer


@pytest.fixture(scope="module")
def rigid(double: LoadedModel) -> Interaction:
    return interaction(dimer(), checkpoint=double)
