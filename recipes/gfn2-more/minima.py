"""Minima of a checkpoint's level gfn2 for ions, bromine, iodine and silicon: targets of the structure network.

    python recipes/gfn2-more/minima.py runs/energy-6/energy-6 stores

Reads ions.h5, halogens.h5 and silicon.h5, which label.py makes, and writes ions_minima.h5 and so on beside them.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the clone: studies are no part of the package

from physcon_ase.data.split import split_mask
from physcon_ase.data.store import open_store, write_store
from physcon_ase.model.physcon import load_model
from studies.shared.taught import taught_minima


def main() -> None:
    """One minimum for each of several molecules of a store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("stores", type=Path)
    parser.add_argument("--molecules", type=int, default=2000, help="of each store (default: 2000)")
    options = parser.parse_args()
    teacher = load_model(options.checkpoint)
    for name in ("ions", "halogens", "silicon"):
        store = open_store(options.stores / f"{name}.h5")
        thermal = np.flatnonzero(store.geometries.kind == "thermal")
        _, first = np.unique(store.geometries.molecule[thermal], return_index=True)
        rows = thermal[first]
        rows = rows[split_mask(store, "train")[store.geometries.molecule[rows]]]
        chosen = np.random.default_rng(0).permutation(rows)[: options.molecules]
        minima = taught_minima(store, np.sort(chosen).tolist(), teacher, "gfn2")
        write_store(options.stores / f"{name}_minima.h5", minima)


if __name__ == "__main__":
    main()
