"""Forces around the minima of a store, with the curvature that a checkpoint knows: F(x) - F(x₀), labels for training.

    python recipes/physcon-1/anchored.py runs/teacher/teacher stores/qm9_b3lyp.h5 stores/qm9_anchored.h5

One displacement of each minimum of a training molecule that level b3lyp of the checkpoint covers.
"""

import argparse

import numpy as np
import torch

from physcon_ase.data.split import split_mask
from physcon_ase.data.store import open_store, write_store
from physcon_ase.model.physcon import load_model
from physcon_ase.studies.anchored import anchored_forces


def main() -> None:
    """Reads, labels, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("store")
    parser.add_argument("output")
    parser.add_argument("--of", default="b3lyp", help="the level whose minima are in the store (default: %(default)s)")
    parser.add_argument("--teacher", default="b3lyp", help="level of the checkpoint (default: %(default)s)")
    parser.add_argument("-n", type=int, default=1, help="displacements of each minimum (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    store = open_store(options.store)
    rows = np.flatnonzero(store.geometries.minimum_of == options.of)
    rows = rows[split_mask(store, "train")[store.geometries.molecule[rows]]]
    teacher = load_model(options.checkpoint)
    write_store(
        options.output,
        anchored_forces(store, rows.tolist(), teacher, options.teacher, n=options.n, seed=options.seed),
    )


if __name__ == "__main__":
    main()
