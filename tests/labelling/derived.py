"""Stores of minima of an accurate level with labels of a teacher, for tests of derived labels."""

from pathlib import Path

import numpy as np

from physcon_ase.chem.conformers import embed, mmff94_minimize
from physcon_ase.chem.smiles import canonical_key, graph_from_smiles
from physcon_ase.data.split import key_hash
from physcon_ase.data.store import Store, geometry_offsets, open_store
from physcon_ase.labelling.engines import tblite_engine
from physcon_ase.labelling.inputs import KnownGeometry
from physcon_ase.labelling.pipeline import label
from physcon_ase.labelling.samplings import Sampling, parse_samplings

SMILES = ("CCO", "CC#CC(=O)NC", "O")
"""The second has linear chains, whose bends no internal coordinate expresses."""

ENERGIES = (-100.0, -200.0, -300.0)

STEP = 1e-3
"""Of finite differences [Å]."""


def mmff94_minima() -> list[KnownGeometry]:
    """MMFF94 minima, as minima of an accurate level."""
    found = []
    for smiles, energy in zip(SMILES, ENERGIES, strict=True):
        graph = graph_from_smiles(smiles)
        place = mmff94_minimize(graph, embed(graph, seed=0)[0]).positions
        place = (place - place.mean(axis=0)).astype(np.float32).astype(float)
        found.append(KnownGeometry(graph, place, key_hash(canonical_key(graph)), smiles, smiles, "accurate", energy))
    return found


def labelled(minima: list[KnownGeometry], samplings: list[Sampling], folder: Path) -> Store:
    """Store of samples of the minima with labels of GFN2-xTB."""
    label(minima, tblite_engine(), samplings, folder / "out.h5", processes=0, progress_bar=False)
    return open_store(folder / "out.h5")


def moved_by(*displacements: np.ndarray, others: str = "start") -> list[Sampling]:
    """Other kinds, and the start displaced by each of these [Å]; none for molecules of another size."""

    def sampler(origin, seed: int, n: int) -> list:
        return [("thermal", origin.start + d) for d in displacements if d.shape == origin.start.shape]

    return [*parse_samplings(others), Sampling("thermal", len(displacements), sampler)]


def labels_of(store: Store, smiles: str | None = None) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Energies, forces and positions of the geometries with labels of the accurate level, of one molecule or all."""
    offsets, labels = geometry_offsets(store), store.labels["accurate"]
    assert labels.forces is not None
    own = store.molecules.smiles[store.geometries.molecule]
    rows = np.flatnonzero(own == smiles) if smiles else np.arange(len(own))
    slices = [slice(*offsets[row : row + 2]) for row in rows]
    return labels.energy[rows], [labels.forces[s] for s in slices], [store.geometries.positions[s] for s in slices]
