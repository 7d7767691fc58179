import numpy as np
import pytest
from scipy.spatial.distance import cdist

from physcon_ase.chem.compare import rmsd
from physcon_ase.chem.conformers import embed
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.labelling.displacements import hessian_factor, thermal_displacements
from physcon_ase.labelling.samplers import Origin, thermal


def test_thermal_displacements_grow_with_temperature_and_do_not_turn_the_molecule() -> None:
    graph, generator = graph_from_smiles("O"), np.random.default_rng(0)
    start = embed(graph)[0]
    stretched = []
    for kelvin in (30.0, 700.0):
        places = thermal_displacements(start, hessian_factor(graph, start), generator, 40, max_kelvin=kelvin)
        stretched.append(
            np.mean([np.abs(cdist(place, place)[0, 1:] - cdist(start, start)[0, 1:]).mean() for place in places])
        )
        assert max(rmsd(place, start) for place in places) > 0.9 * max(
            np.sqrt(((place - start) ** 2).sum(axis=1).mean()) for place in places
        )  # nothing is gained by turning them back
    assert 2 < stretched[1] / stretched[0] < 10  # the root of 700 / 30 is 4.8
    assert stretched[1] < 0.05  # kT / k of an O-H bond: .037 Å at 700 K


@pytest.mark.parametrize("smiles", ["C=O", "O=C[O-]", "CC(C)=O", "[O-][N+](=O)[O-]", "FB(F)F"])
def test_flat_centres_stay_near_the_plane_of_their_neighbours(smiles: str) -> None:
    origin = Origin(graph_from_smiles(smiles), 0)
    bonds = origin.graph.bonds
    centre = int(np.bincount(bonds.ravel()).argmax() if smiles != "CC(C)=O" else 1)
    around = [int(sum(bond) - centre) for bond in bonds.tolist() if centre in bond]

    def height(place: np.ndarray) -> float:
        corners = place[around]
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        return (place[centre] - corners[0]) @ normal / np.linalg.norm(normal)

    assert len(around) == 3
    moved = [height(place) - height(origin.start) for _, place in thermal(origin, 0, 100, max_kelvin=700.0)]
    assert np.sqrt(np.mean(np.square(moved))) < 0.06  # sqrt(kT / k) at the mean temperature of 350 K: 0.043 Å
