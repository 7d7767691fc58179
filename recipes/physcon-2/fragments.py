"""Writes fragments.smi: small molecules from a list of SMILES, more molecules for pairs.py.

    python recipes/physcon-2/fragments.py smiles_union.tsv.xz > recipes/physcon-2/fragments.smi

A random `PER_SIZE` of each number of heavy atoms in `SIZES`, ions included, of elements that AIMNet2 covers.
"""

import argparse
from typing import Final

import numpy as np

from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.data.importers.smiles_list import read_smiles_list
from physcon_ase.errors import PhysConError
from physcon_ase.labelling.engines.aimnet2 import ELEMENTS

SIZES: Final = range(3, 14)
"""Numbers of heavy atoms."""
PER_SIZE: Final = 150
SEED: Final = 30


def main() -> None:
    """Prints the list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("smiles", help="tab-separated list with the columns smiles, heavy, charge, allowed and sets")
    rows, _ = read_smiles_list(parser.parse_args().smiles, allowed_only=False)
    generator = np.random.default_rng(SEED)
    print("# Random small molecules of a list of SMILES, from fragments.py; further molecules for pairs.py.")
    for size in SIZES:
        found = 0
        own = [row.smiles for row in rows if row.n_heavy_atoms == size and "." not in row.smiles]
        for index in generator.permutation(len(own)).tolist():
            if found < PER_SIZE and is_usable(own[index]):
                found += 1
                print(own[index], f"{size}-{found}")


def is_usable(smiles: str) -> bool:
    """Whether it is a closed-shell molecule of known elements."""
    try:
        graph = graph_from_smiles(smiles)
    except PhysConError:
        return False
    return set(ELEMENTS).issuperset(graph.atomic_numbers.tolist()) and graph.multiplicity == 1


if __name__ == "__main__":
    main()
