"""Forces around the minima of a store, with the curvature that a checkpoint knows: F(x) - F(x₀), labels for training.

    python recipes/physcon-1/anchored.py runs/teacher/teacher stores/qm9_b3lyp.h5 stores/qm9_anchored.h5

Only minima of training molecules. Where there are several levels, the first one that covers a molecule teaches it.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the clone: studies are no part of the package

from physcon_ase.data.split import split_mask
from physcon_ase.data.store import Geometries, LevelLabels, Store, open_store, write_store
from physcon_ase.model.physcon import load_model
from studies.shared.anchored import anchored_forces


def joined(stores: Sequence[Store], level: str) -> Store:
    """One store of the geometries of several that hold the same molecules."""
    geometries, labels = [store.geometries for store in stores], [store.labels[level] for store in stores]
    return replace(
        stores[0],
        geometries=Geometries(
            molecule=np.concatenate([own.molecule for own in geometries]),
            kind=np.concatenate([own.kind for own in geometries]),
            minimum_of=np.concatenate([own.minimum_of for own in geometries]),
            positions=np.concatenate([own.positions for own in geometries]),
        ),
        labels={
            level: LevelLabels(
                np.concatenate([own.energy for own in labels]), np.concatenate([own.forces for own in labels])
            )
        },
        provenance="; ".join(store.provenance for store in stores),
    )


def main() -> None:
    """Reads, labels, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("store")
    parser.add_argument("output")
    parser.add_argument("--of", default="b3lyp", help="the level whose minima are in the store (default: %(default)s)")
    parser.add_argument("--teachers", nargs="+", default=["b3lyp"], help="levels of the checkpoint (default: b3lyp)")
    parser.add_argument("-n", type=int, default=1, help="displacements of each minimum (default: %(default)s)")
    parser.add_argument("--max-kelvin", type=float, default=400.0, help="highest temperature (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    store, teacher, found = open_store(options.store), load_model(options.checkpoint), []
    is_minimum = (store.geometries.minimum_of == options.of) & split_mask(store, "train")[store.geometries.molecule]
    for level in options.teachers:
        taught = np.concatenate([np.zeros(0, int), *(own.geometries.molecule for own in found)])
        rows = np.flatnonzero(is_minimum & ~np.isin(store.geometries.molecule, taught)).tolist()
        settings = {"n": options.n, "max_kelvin": options.max_kelvin, "seed": options.seed}
        found.append(anchored_forces(store, rows, teacher, level, **settings))
    write_store(options.output, joined(found, options.of))


if __name__ == "__main__":
    main()
