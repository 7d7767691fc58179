"""Writes short_range.h5: forces between two atoms at short range as labels of level b3lyp.

    python recipes/physcon-2/short_range.py CHECKPOINT stores/short_range.h5

Level b3lyp has no other data at these distances. The core repulsion of the model is stronger there than that of a
density functional, with whose forces the network would become attractive further inside. The labels are therefore the
forces of level b3lyp-d3 of CHECKPOINT, revision da5c19cfd23b of physcon-2 (git revision 3d7d050), for all pairs of
H, C, N, O and F from 0.25 Å to 0.8 sums of the covalent radii, where they are repulsive and not above `LARGEST`. All
pairs belong to the training split.
"""

import argparse
from itertools import combinations_with_replacement, count
from pathlib import Path
from typing import Final

import numpy as np
import torch
from rdkit import Chem

from physcon_ase.batch import make_batch
from physcon_ase.chem.graph import make_graph
from physcon_ase.data.rows import GeometryRow, Label, MoleculeRow, store_from_rows
from physcon_ase.data.split import key_hash, split_of
from physcon_ase.data.store import write_store
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import load_model
from physcon_ase.units import CHEMICAL_SYMBOLS

LEVEL: Final = "b3lyp"
TEACHER: Final = "b3lyp-d3"
ELEMENTS: Final = (1, 6, 7, 8, 9)
SHORTEST: Final = 0.25
"""Shortest distance [Å]."""
LONGEST: Final = 0.8
"""Longest distance in sums of covalent radii."""
N_DISTANCES: Final = 60
LARGEST: Final = 100.0
"""Largest force [eV/Å]; nearer atoms repel each other in any case."""

_TABLE: Final = Chem.GetPeriodicTable()


def main() -> None:
    """Labels all pairs and writes the store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("store", type=Path)
    options = parser.parse_args()
    loaded, molecules, rows = load_model(options.checkpoint, dtype="float64"), [], []
    energy_fn = loaded.model.energy_fn(TEACHER)
    for pair in combinations_with_replacement(ELEMENTS, 2):
        name = "".join(CHEMICAL_SYMBOLS[number] for number in pair)
        reach = LONGEST * sum(_TABLE.GetRcovalent(number) for number in pair)
        places = [np.array([[0, 0, -r / 2], [0, 0, r / 2]]) for r in np.linspace(SHORTEST, reach, N_DISTANCES)]
        batch = make_batch([np.array(pair)] * len(places), places, dtype=torch.float64)
        energies, forces = energies_and_forces(energy_fn, batch)
        for place, energy, force in zip(places, energies.tolist(), forces.numpy(force=True), strict=True):
            if not 0 < force[1, 2] < LARGEST:
                continue
            labels = {LEVEL: Label(energy, force)}
            rows.append(GeometryRow(len(molecules), place, "diatomic", "", labels))
        hashed = next(h for h in (key_hash(f"{name} {LEVEL} {i}") for i in count()) if split_of(h) == "train")
        molecules.append(MoleculeRow(make_graph(pair, [(0, 1)], [1], [0, 0]), "", name, hashed))
    provenance = f"level {TEACHER} of {loaded.name}, revision {loaded.revision}; recipes/physcon-2/short_range.py"
    store = store_from_rows(molecules, rows, source="short_range", licence="CC0", provenance=provenance)
    write_store(options.store, store)
    print(f"{len(molecules)} pairs, {len(rows)} geometries")


if __name__ == "__main__":
    main()
