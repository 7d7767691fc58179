import numpy as np
import pytest

from physcon_ase.batch import make_batch
from physcon_ase.chem.conformers import embed, mmff94_minimize
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.data.store import Store, geometry_offsets
from physcon_ase.errors import LabelError
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import LoadedModel, load_model
from studies.shared.anchored import anchored_forces
from tests.small_stores import bare_store

SMILES = ("CCO", "CC(=O)O", "C[Si](C)C")
"""Level b3lyp of the shipped model does not cover the last one."""


@pytest.fixture
def minima() -> Store:
    graphs = [graph_from_smiles(smiles) for smiles in SMILES]
    places = [mmff94_minimize(graph, embed(graph, seed=0)[0]).positions for graph in graphs[:2]]
    places.append(embed(graphs[2], seed=0)[0])
    return bare_store(graphs, places, kind="minimum", minimum_of="accurate", names=SMILES)


def forces_of(teacher: LoadedModel, numbers: np.ndarray, place: np.ndarray) -> np.ndarray:
    _, forces = energies_and_forces(teacher.model.energy_fn("b3lyp"), make_batch([numbers], [place]))
    return forces[0].numpy()


def test_anchored_forces_have_the_slope_of_the_teacher_and_vanish_at_the_minimum(minima: Store) -> None:
    teacher = load_model()
    found = anchored_forces(minima, [0, 1, 2], teacher, "b3lyp", n=3, max_kelvin=300.0)
    assert found.geometries.molecule.tolist() == [0, 0, 0, 1, 1, 1]
    assert set(found.geometries.kind.tolist()) == {"anchored"}
    assert not any(found.geometries.minimum_of)
    assert np.isnan(found.labels["accurate"].energy).all()
    offsets, ends = geometry_offsets(found), geometry_offsets(minima)
    for row, molecule in enumerate(found.geometries.molecule.tolist()):
        numbers = graph_from_smiles(SMILES[molecule]).atomic_numbers
        anchor = minima.geometries.positions[ends[molecule] : ends[molecule + 1]]
        place = found.geometries.positions[offsets[row] : offsets[row + 1]]
        expected = forces_of(teacher, numbers, place) - forces_of(teacher, numbers, anchor)
        own = found.labels["accurate"].forces[offsets[row] : offsets[row + 1]]
        np.testing.assert_allclose(own, expected, atol=2e-4)
        assert np.abs(own).max() > 0.1
        # Displaced uphill: the force points back to the minimum.
        assert np.sum(own * (place - anchor)) < 0
    cold = anchored_forces(minima, [0], teacher, "b3lyp", max_kelvin=1e-6)
    assert np.abs(cold.labels["accurate"].forces).max() < 1e-2


def test_what_cannot_be_anchored_is_refused(minima: Store) -> None:
    teacher = load_model()
    with pytest.raises(LabelError, match="covers none of the 1 minima"):
        anchored_forces(minima, [2], teacher, "b3lyp")
    minima.geometries.minimum_of[1] = ""
    with pytest.raises(LabelError, match=r"minima of \['', 'accurate'\]; choose those of one level"):
        anchored_forces(minima, [0, 1], teacher, "b3lyp")
