import numpy as np
import pytest

from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.inference.embedding import embed_many


@pytest.mark.slow
def test_other_processes_find_the_very_same_geometries() -> None:
    graphs = [graph_from_smiles(smiles) for smiles in ("CCO", "CC(=O)O", "c1ccccc1")]
    serial = embed_many(graphs, [0, 1, 2])
    parallel = embed_many(graphs, [0, 1, 2], n_processes=2)
    assert all(np.array_equal(a, b) for a, b in zip(serial, parallel, strict=True))
