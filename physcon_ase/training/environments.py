"""Counts of atomic environments in the training molecules of stores."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from physcon_ase.chem.environments import environment_hashes
from physcon_ase.data.split import split_mask
from physcon_ase.data.store import molecule_graph, open_store


def count_environments(stores: Iterable[Path]) -> dict[int, int]:
    """Number of training molecules with each environment, by its hash; a molecule of several stores counts once.

    Raises:
        StoreError: a store cannot be read.
    """
    counts: Counter[int] = Counter()
    seen: set[int] = set()
    for path in stores:
        store = open_store(path, levels=())
        for row in np.flatnonzero(split_mask(store, "train")).tolist():
            key = int(store.molecules.key_hash[row])
            if key not in seen:
                seen.add(key)
                graph = molecule_graph(store, row)
                counts.update(set(environment_hashes(graph.atomic_numbers, graph.bonds).tolist()))
    return dict(counts)
