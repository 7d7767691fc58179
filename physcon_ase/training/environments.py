"""Counts of atomic environments in the training molecules of stores."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from physcon_ase.chem.environments import environment_hashes, small_molecule_hashes
from physcon_ase.data.split import split_mask
from physcon_ase.data.store import molecule_graph, open_store


def count_environments(stores: Iterable[Path]) -> dict[int, int]:
    """Number of training molecules with each environment, by its hash; a molecule of several stores counts once.

    Small molecules have an entry of their own for each level of their stores, `small_molecule_hashes`.

    Raises:
        StoreError: a store cannot be read.
    """
    counts: Counter[int] = Counter()
    seen: set[int] = set()
    seen_at: set[tuple[int, str]] = set()
    for path in stores:
        store = open_store(path)
        for row in np.flatnonzero(split_mask(store, "train")).tolist():
            key = int(store.molecules.key_hash[row])
            new = [level for level in store.labels if (key, level) not in seen_at]
            if not new and key in seen:
                continue
            graph = molecule_graph(store, row)
            if key not in seen:
                counts.update(set(environment_hashes(graph.atomic_numbers, graph.bonds).tolist()))
            for level in new:
                counts.update(set(small_molecule_hashes(graph.atomic_numbers, graph.bonds, level).tolist()) - {0})
            seen.add(key)
            seen_at.update((key, level) for level in new)
    return dict(counts)
