import hashlib
from dataclasses import replace

import numpy as np
import pytest

from physcon_ase.chem.smiles import canonical_key
from physcon_ase.data.split import TEST_FRACTION, VALIDATION_FRACTION, key_hash, split_mask, split_mask_of, split_of
from physcon_ase.errors import StoreError

FOUR_SIGMA = 4
"""Standard deviations that a fair draw exceeds once in 16,000 tests; the draw is seeded, so never by chance."""


def test_hash_is_the_first_eight_bytes_of_sha256():
    # a golden number: a change moves molecules between the splits of every trained checkpoint
    assert key_hash("CCO") == int(hashlib.sha256(b"CCO").hexdigest()[:16], 16)


def test_bounds_of_the_splits():
    test, validation = int(TEST_FRACTION * 2**64), int((TEST_FRACTION + VALIDATION_FRACTION) * 2**64)
    assert [split_of(h) for h in (0, test - 1, test, validation - 1, validation, 2**64 - 1)] == [
        "test", "test", "validation", "validation", "train", "train",
    ]  # fmt: skip


def test_mask_agrees_with_split_of_each_molecule():
    test, validation = int(TEST_FRACTION * 2**64), int((TEST_FRACTION + VALIDATION_FRACTION) * 2**64)
    hashes = [0, test - 1, test, validation - 1, validation, 2**64 - 1, *(key_hash(str(i)) for i in range(300))]
    for split in ("train", "validation", "test"):
        expected = [split_of(h) == split for h in hashes]
        assert split_mask_of(np.array(hashes, dtype=np.uint64), split).tolist() == expected


@pytest.mark.parametrize(("split", "fraction"), [("test", 0.05), ("validation", 0.02), ("train", 0.93)])
def test_fractions_are_the_documented_ones(split: str, fraction: float):
    n = 5_000
    hashes = np.array([key_hash(f"molecule {i}") for i in range(n)], dtype=np.uint64)
    deviation = abs(split_mask_of(hashes, split).sum() - fraction * n)
    assert deviation < FOUR_SIGMA * np.sqrt(n * fraction * (1 - fraction))


def test_stereoisomers_and_other_spellings_share_a_split():
    keys = {canonical_key(smiles) for smiles in ("F[C@H](Cl)Br", "F[C@@H](Cl)Br", "BrC(F)Cl")}
    assert len(keys) == 1


def test_split_does_not_depend_on_the_order_of_molecules(make_store):
    store = make_store(copies=20)
    order = np.random.default_rng(0).permutation(len(store.molecules))
    shuffled = replace(store, molecules=replace(store.molecules, key_hash=store.molecules.key_hash[order]))
    assert (split_mask(shuffled, "test") == split_mask(store, "test")[order]).all()


def test_unknown_split_is_refused(make_store):
    with pytest.raises(StoreError, match="unknown split 'valid'; allowed are train, validation, test"):
        split_mask(make_store(), "valid")
