"""Assignment of molecules to training, validation and test split by a hash of the molecule.

The SHA-256 of the canonical SMILES without stereochemistry is read as a number in [0, 1): below 0.05 the molecule
belongs to the test split, below 0.07 to the validation split, otherwise to the training split. Conformers,
stereoisomers and duplicates in other data sets therefore share a split, regardless of the order or number of molecules.
"""

import hashlib
from typing import Final, Literal, get_args

import numpy as np
from jaxtyping import Bool, UInt64

from physcon_ase.data.store import Store
from physcon_ase.errors import StoreError

Split = Literal["train", "validation", "test"]

TEST_FRACTION: Final = 0.05
"""Expected fraction of molecules in the test split."""

VALIDATION_FRACTION: Final = 0.02
"""Expected fraction of molecules in the validation split."""

_HASHES: Final = 2**64


def key_hash(key: str) -> int:
    """First 64 bits of the SHA-256 of the key of a molecule, big-endian.

    Args:
        key: `chem.smiles.canonical_key` of the molecule, or another unique identifier.
    """
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


def split_of(hashed_key: int) -> Split:
    """Split of a molecule with the given `key_hash`."""
    position = int(hashed_key)
    if position < TEST_FRACTION * _HASHES:
        return "test"
    if position < (TEST_FRACTION + VALIDATION_FRACTION) * _HASHES:
        return "validation"
    return "train"


def split_mask_of(hashed_keys: UInt64[np.ndarray, " molecules"], split: str) -> Bool[np.ndarray, " molecules"]:
    """Mask of the molecules that belong to a split.

    Raises:
        StoreError: there is no such split.
    """
    if split not in get_args(Split):
        raise StoreError(f"unknown split {split!r}; allowed are {', '.join(get_args(Split))}")
    bounds = np.array([TEST_FRACTION * _HASHES, (TEST_FRACTION + VALIDATION_FRACTION) * _HASHES]).astype(np.uint64)
    # side="right": a hash equal to a bound belongs to the next split, as in `split_of`
    place = np.searchsorted(bounds, hashed_keys, side="right")
    return place == {"test": 0, "validation": 1, "train": 2}[split]


def split_mask(store: Store, split: str) -> Bool[np.ndarray, " molecules"]:
    """Mask of the molecules of a store that belong to a split.

    Raises:
        StoreError: there is no such split.
    """
    return split_mask_of(store.molecules.key_hash, split)
