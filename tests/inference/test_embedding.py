from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.errors import EmbeddingError
from physcon_ase.inference import embedding
from physcon_ase.inference.embedding import embed_many
from physcon_ase.jobs.workers import Workers


@pytest.mark.slow
def test_other_processes_find_the_very_same_geometries() -> None:
    graphs = [graph_from_smiles(smiles) for smiles in ("CCO", "CC(=O)O", "c1ccccc1")]
    serial = embed_many(graphs, [0, 1, 2])
    parallel = embed_many(graphs, [0, 1, 2], n_processes=2)
    assert all(np.array_equal(a, b) for a, b in zip(serial, parallel, strict=True))


def test_the_time_may_be_unlimited() -> None:
    assert np.shape(embed_many([graph_from_smiles("O")], [0], max_seconds=float("inf"))) == (1, 3, 3)


@pytest.mark.parametrize(
    ("one", "other"), [("CCO", "OCC"), ("NC(C)C(=O)O", "OC(=O)C(N)C"), ("CC(=O)[O-].O", "O.[O-]C(C)=O")]
)
def test_the_spelling_of_a_smiles_does_not_change_the_geometry(one: str, other: str) -> None:
    graphs = [graph_from_smiles(smiles, allow_fragments=True) for smiles in (one, other)]
    first, second = embed_many(graphs, [3, 3])
    assert isinstance(first, np.ndarray)
    assert isinstance(second, np.ndarray)
    spectra = [np.sort(pdist(place)) for place in (first, second)]
    np.testing.assert_allclose(spectra[0], spectra[1], atol=1e-9)


def test_a_molecule_that_kills_its_process_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(graph, *_):
        if graph.n_atoms == 3:
            raise BrokenProcessPool
        return np.zeros((graph.n_atoms, 3))

    monkeypatch.setattr(embedding, "_start_or_error", start)
    monkeypatch.setattr(
        embedding, "worker_pool", lambda _: nullcontext(Workers(ThreadPoolExecutor(1), 1, (BrokenProcessPool,)))
    )
    graphs = [graph_from_smiles(smiles) for smiles in ("C", "O", "N")]
    first, lost, last = embed_many(graphs, [0, 0, 0], n_processes=2)
    assert (len(first), len(last)) == (5, 4)
    assert isinstance(lost, EmbeddingError)
    assert "the worker process crashed" in str(lost)
