"""A store of twenty small molecules with GFN2-xTB labels in place of those of a recipe, for its smallest scale.

    python tiny.py stores/anchored_qm9.h5 b3lyp

Each molecule has the MMFF94 minimum of an ETKDG conformer, which counts as minimum of the levels named, and a
displaced geometry; energies, forces and partial charges are those of GFN2-xTB at every level.
"""

import argparse
from pathlib import Path

import numpy as np

from physcon_ase.chem.conformers import embed, mmff94_minimize
from physcon_ase.chem.smiles import canonical_key, canonical_smiles, graph_from_smiles
from physcon_ase.data.split import key_hash
from physcon_ase.data.store import Geometries, LevelLabels, Store, pack_molecules, write_store
from physcon_ase.labelling.engines import Molecule, tblite_engine

SMILES = (
    "C CC CO CN C=C C#C C=O CC=O CF COC CCO CC#N OCC=O C1CC1 CC(=O)O NC=O CCN CCC C1CO1 c1cc[nH]c1 CSC CCl N#CC=O OO"
).split()
WIDTH = 0.05
"""Displacement [Å per coordinate]."""


def main() -> None:
    """Writes the store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("levels", nargs="+")
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    engine = tblite_engine()
    graphs = [graph_from_smiles(smiles) for smiles in SMILES]
    places, labels = [], []
    for row, graph in enumerate(graphs):
        start = mmff94_minimize(graph, embed(graph, seed=row)[0]).positions
        for positions in (start, start + generator.normal(scale=WIDTH, size=start.shape)):
            places.append(positions)
            labels.append(engine(Molecule(graph.atomic_numbers, positions, graph.charge, graph.multiplicity)))
    own = LevelLabels(
        np.array([label.energy for label in labels]),
        np.concatenate([label.forces for label in labels]).astype(np.float32),
        np.concatenate([label.charges for label in labels]).astype(np.float32),
    )
    store = Store(
        molecules=pack_molecules(
            graphs,
            smiles=[canonical_smiles(graph) for graph in graphs],
            names=list(SMILES),
            key_hashes=[key_hash(canonical_key(graph)) for graph in graphs],
        ),
        geometries=Geometries(
            molecule=np.repeat(np.arange(len(graphs), dtype=np.int32), 2),
            kind=np.tile(["start", "thermal"], len(graphs)),
            minimum_of=np.tile([arguments.levels[0], ""], len(graphs)),
            positions=np.concatenate(places).astype(np.float32),
        ),
        labels=dict.fromkeys(arguments.levels, own),
        source=arguments.store.stem,
        provenance="recipes/physcon-2/tiny.py: ETKDG, MMFF94 (RDKit), GFN2-xTB (tblite)",
    )
    write_store(arguments.store, store)


if __name__ == "__main__":
    main()
