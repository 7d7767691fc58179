import pytest

from physcon_ase.batch import make_batch
from physcon_ase.chem.conformers import embed, mmff94_minimize
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.data.store import Store, geometry_offsets, molecule_graph
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import load_model
from studies.shared.taught import taught_minima
from tests.small_stores import bare_store

FMAX = 0.011
"""Largest force [eV/Å] in a taught minimum: .01, and rounding to float32."""


@pytest.fixture
def cheap() -> Store:
    """MMFF94 minima of three molecules; the second is torn apart."""
    graphs = [graph_from_smiles(smiles) for smiles in ("CCO", "CC=O", "NC=O")]
    places = [mmff94_minimize(graph, embed(graph, seed=0)[0]).positions for graph in graphs]
    places[1] = 3 * places[1]
    return bare_store(graphs, places, kind="start", minimum_of="mmff94", names="abc")


def test_taught_minima_are_minima_of_the_teacher_and_what_breaks_is_left_out(cheap: Store) -> None:
    teacher = load_model()
    taught = taught_minima(cheap, [0, 1, 2], teacher, "b3lyp")
    assert taught.geometries.molecule.tolist() == [0, 2]
    assert taught.geometries.minimum_of.tolist() == ["b3lyp", "b3lyp"]
    assert teacher.name in taught.provenance
    offsets = geometry_offsets(taught)
    for row, molecule in enumerate(taught.geometries.molecule):
        place = taught.geometries.positions[offsets[row] : offsets[row + 1]]
        batch = make_batch([molecule_graph(taught, int(molecule)).atomic_numbers], [place])
        _, forces = energies_and_forces(teacher.model.energy_fn("b3lyp"), batch)
        assert forces.norm(dim=2).max().item() < FMAX
