"""Writes b3lyp_pairs.h5: forces between two atoms at short range, B3LYP/6-31G(2df,p) by PySCF.

    python recipes/physcon-2/b3lyp_pairs.py stores/b3lyp_pairs.h5

All pairs of H, C, N, O and F, neutral, as singlets or doublets, from half of the bond length to the bond length. At
these distances the energy of every pair must fall with the distance; level b3lyp has no other data there. Geometries
without convergence, with attractive forces, or with an energy above `HIGHEST` are left out and counted.

All pairs belong to the training split.
"""

import argparse
from itertools import combinations_with_replacement, count
from pathlib import Path
from typing import Final

import numpy as np
from rdkit import Chem

from physcon_ase.chem.graph import make_graph
from physcon_ase.data.rows import GeometryRow, Label, MoleculeRow, store_from_rows
from physcon_ase.data.split import key_hash, split_of
from physcon_ase.data.store import write_store
from physcon_ase.errors import EngineError
from physcon_ase.labelling.engines import Molecule, pyscf_engine
from physcon_ase.units import CHEMICAL_SYMBOLS

LEVEL: Final = "b3lyp"
ELEMENTS: Final = (1, 6, 7, 8, 9)
RATIOS: Final = np.arange(0.5, 1.01, 0.05)
"""Distances in sums of covalent radii."""
HIGHEST: Final = 25.0
"""Energy [eV] above the lowest of the pair."""

_TABLE: Final = Chem.GetPeriodicTable()


def main() -> None:
    """Labels all pairs and writes the store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    engine, molecules, rows = pyscf_engine(LEVEL), [], []
    output = parser.parse_args().store
    failed = attractive = high = 0
    for pair in combinations_with_replacement(ELEMENTS, 2):
        name = "".join(CHEMICAL_SYMBOLS[number] for number in pair)
        places = [
            np.array([[0, 0, -half], [0, 0, half]])
            for half in RATIOS * sum(_TABLE.GetRcovalent(number) for number in pair) / 2
        ]
        labels = engine.label_many([Molecule(np.array(pair), place, 0, 1 + sum(pair) % 2) for place in places])
        limit = HIGHEST + min(label.energy for label in labels if not isinstance(label, EngineError))
        for place, label in zip(places, labels, strict=True):
            if isinstance(label, EngineError):
                failed += 1
            elif label.forces[1, 2] < 0:
                attractive += 1
            elif label.energy > limit:
                high += 1
            else:
                found = {LEVEL: Label(label.energy, label.forces)}
                rows.append(GeometryRow(len(molecules), place, "diatomic", "", found))
        hashed = next(h for h in (key_hash(f"{name} {LEVEL} {i}") for i in count()) if split_of(h) == "train")
        molecules.append(MoleculeRow(make_graph(pair, [(0, 1)], [1], [0, 0]), "", name, hashed))
    provenance = "PySCF, recipes/physcon-2/b3lyp_pairs.py"
    write_store(output, store_from_rows(molecules, rows, source="b3lyp_pairs", licence="CC0", provenance=provenance))
    print(
        f"{len(molecules)} pairs, {len(rows)} geometries; "
        f"left out: {failed} failed, {attractive} attractive, {high} of high energy"
    )


if __name__ == "__main__":
    main()
