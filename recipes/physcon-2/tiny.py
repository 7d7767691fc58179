"""A store of twenty small molecules with GFN2-xTB labels in place of those of a recipe, for its smallest scale.

    python tiny.py stores/anchored_qm9.h5 b3lyp

Each molecule has the MMFF94 minimum of an ETKDG conformer, which counts as minimum of the levels named, and a
displaced geometry; energies, forces and partial charges are those of GFN2-xTB at every level.
"""

import argparse
from pathlib import Path

import numpy as np

from physcon_ase.chem.conformers import embed, mmff94_minimize
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.data.rows import GeometryRow, Label, molecule_row, store_from_rows
from physcon_ase.data.store import write_store
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
    rows = []
    for molecule, graph in enumerate(graphs):
        start = mmff94_minimize(graph, embed(graph, seed=molecule)[0]).positions
        for kind, positions in (("start", start), ("thermal", start + generator.normal(scale=WIDTH, size=start.shape))):
            found = engine(Molecule(graph.atomic_numbers, positions, graph.charge, graph.multiplicity))
            label = Label(found.energy, found.forces, found.charges)
            minimum_of = arguments.levels[0] if kind == "start" else ""
            rows.append(GeometryRow(molecule, positions, kind, minimum_of, dict.fromkeys(arguments.levels, label)))
    store = store_from_rows(
        [molecule_row(graph, name) for graph, name in zip(graphs, SMILES, strict=True)],
        rows,
        source=arguments.store.stem,
        provenance="recipes/physcon-2/tiny.py: ETKDG, MMFF94 (RDKit), GFN2-xTB (tblite)",
    )
    write_store(arguments.store, store)


if __name__ == "__main__":
    main()
