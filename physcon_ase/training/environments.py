"""Counts of atomic environments in the training molecules of stores."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np

from physcon_ase.chem.environments import environment_hashes, small_molecule_hashes
from physcon_ase.data.split import split_mask
from physcon_ase.data.store import molecule_graph, open_store

_HASHES: Final = (environment_hashes, small_molecule_hashes)


def count_environments(stores: Iterable[Path]) -> dict[int, int]:
    """Number of training molecules with each environment, by its hash; a molecule of several stores counts once.

    Small molecules have an entry of their own, `chem.environments.small_molecule_hashes`.

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
                own = (function(graph.atomic_numbers, graph.bonds) for function in _HASHES)
                counts.update(set(np.concatenate(list(own)).tolist()) - {0})
    return dict(counts)
