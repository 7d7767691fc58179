"""Stores without the molecules that contain certain elements."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from physcon_ase.data.store import Store, check_other_file, open_store, select_geometries, write_store
from physcon_ase.errors import StoreError
from physcon_ase.units import CHEMICAL_SYMBOLS


def without_elements(store: Store, symbols: Sequence[str]) -> Store:
    """Store without the molecules that contain any of these elements.

    Raises:
        StoreError: a symbol is not that of an element, or no geometry is left.
    """
    numbers = {symbol: number for number, symbol in CHEMICAL_SYMBOLS.items()}
    if unknown := [symbol for symbol in symbols if symbol not in numbers]:
        raise StoreError(f"unknown element {unknown[0]!r}; give symbols such as I or Br")
    excluded = [numbers[symbol] for symbol in symbols]
    n_excluded = store.molecules.sums(np.isin(store.molecules.atomic_numbers, excluded))
    chosen = np.flatnonzero(n_excluded[store.geometries.molecule] == 0)
    if not len(chosen):
        raise StoreError(f"every molecule of {store.source} contains {' or '.join(symbols)}; no geometry is left")
    provenance = f"without {', '.join(symbols)}; {store.provenance}"
    return replace(select_geometries(store, chosen), provenance=provenance)


def exclude_elements(path: str | Path, output: str | Path, symbols: Sequence[str]) -> Store:
    """Applies `without_elements` to a store file, writes the result to another file and returns it.

    Raises:
        StoreError: a store cannot be read or written, input and output are the same, or see `without_elements`.
    """
    check_other_file(output, [path])
    found = without_elements(open_store(path), symbols)
    write_store(output, found)
    return found
