"""Molecules per second delivered by the loader, compared with the rate of training steps.

python benchmarks/loader.py STORE [LEVEL ...]
"""

import sys
import time

import torch

from physcon_ase.data.loader import epoch_batches, load_items, n_batches
from physcon_ase.data.selection import DataSet
from physcon_ase.data.store import open_store

TRAINED_PER_SECOND = 300
"""Molecules of 19 atoms per second and core in training steps with forces."""

ATOMS_PER_BATCH = 1024


def main(path: str, levels: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    levels = levels or tuple(open_store(path).labels)
    source = DataSet(str(path), levels, assign_to="train")
    print(f"{'graph':>6} {'items':>9} {'load s':>7} {'batches':>8} {'molecules/s':>12} {'times training':>15}")
    for with_graph in (False, True):
        begin = time.perf_counter()
        items = load_items([source], levels, "train", with_graph=with_graph)
        loaded = time.perf_counter()
        n_molecules = sum(
            len(batch) for batch in epoch_batches(items, atoms_per_batch=ATOMS_PER_BATCH, seed=0, epoch=0)
        )
        rate = n_molecules / (time.perf_counter() - loaded)
        batches = n_batches(items, atoms_per_batch=ATOMS_PER_BATCH)
        print(
            f"{with_graph!s:>6} {len(items):>9} {loaded - begin:>7.1f} {batches:>8} {rate:>12.0f}"
            f" {rate / TRAINED_PER_SECOND:>15.0f}"
        )


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], tuple(sys.argv[2:]))
