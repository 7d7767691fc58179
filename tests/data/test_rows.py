import numpy as np

from physcon_ase.chem.smiles import canonical_key, graph_from_smiles
from physcon_ase.data.rows import GeometryRow, Label, molecule_row, store_from_rows
from physcon_ase.data.split import key_hash
from physcon_ase.data.store import check_store, molecule_graph

WATER, HYDROGEN = graph_from_smiles("O"), graph_from_smiles("[H][H]")


def test_labels_that_a_geometry_lacks_are_nan():
    geometries = [
        GeometryRow(0, np.ones((3, 3)), "start", "dft", {"dft": Label(-1.0), "xtb": Label(-2.0, np.ones((3, 3)))}, -1),
        GeometryRow(1, np.zeros((2, 3)), "thermal", "", {"dft": Label(-3.0, charges=np.array([0.1, -0.1]))}, 0),
    ]
    molecules = [molecule_row(WATER, "water"), molecule_row(HYDROGEN, "hydrogen")]
    store = store_from_rows(molecules, geometries, with_starts=True, source="test")
    check_store(store)
    dft, xtb = store.labels["dft"], store.labels["xtb"]
    assert dft.energy.tolist() == [-1.0, -3.0]
    assert dft.forces is None
    assert dft.charges is not None
    assert np.isnan(dft.charges).tolist() == [True, True, True, False, False]
    assert np.isnan(xtb.energy).tolist() == [False, True]
    assert xtb.forces is not None
    assert np.isnan(xtb.forces[:, 0]).tolist() == [False, False, False, True, True]
    assert store.geometries.start is not None
    assert store.geometries.start.tolist() == [-1, 0]
    assert store.geometries.minimum_of.tolist() == ["dft", ""]


def test_molecules_keep_graph_smiles_and_split():
    store = store_from_rows([molecule_row(WATER, "water")], [], levels=("dft",), source="test")
    check_store(store)
    assert molecule_graph(store, 0).bonds.tolist() == WATER.bonds.tolist()
    assert store.molecules.smiles.tolist() == ["O"]
    assert int(store.molecules.key_hash[0]) == key_hash(canonical_key("O"))
    assert len(store.labels["dft"].energy) == 0
    assert store.geometries.start is None
