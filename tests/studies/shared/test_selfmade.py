from itertools import pairwise

import numpy as np
import pytest

from physcon_ase.data.split import split_mask_of
from physcon_ase.data.store import check_store, geometry_offsets
from physcon_ase.errors import PhysConError
from physcon_ase.labelling.engines import tblite_engine
from studies.shared.selfmade import make_store, split_smiles, study_smiles

MMFF94_FORCE = 0.05
"""GFN2-xTB force [eV/Å] that MMFF94 minima of small molecules exceed."""


def test_a_store_has_starts_hot_geometries_and_minima_with_labels_and_names_what_failed() -> None:
    store, failed = make_store(["CCO", "C1=CC", "CC=O"], tblite_engine(), progress=False)
    check_store(store)
    assert list(failed) == ["C1=CC"]
    assert len(store.molecules) == 2
    kinds, minima = store.geometries.kind.tolist(), store.geometries.minimum_of.tolist()
    assert kinds == ["start"] * 2 + ["thermal"] * 4 + ["minimum"] * 2
    assert minima == ["mmff94"] * 2 + [""] * 4 + ["gfn2"] * 2
    labels, offsets = store.labels["gfn2"], geometry_offsets(store)
    assert labels.forces is not None
    largest = [np.abs(labels.forces[a:b]).max() for a, b in pairwise(offsets)]
    assert max(largest[-2:]) < 0.01 < MMFF94_FORCE < min(largest[:2])
    assert (labels.energy[:2] > labels.energy[-2:]).all()


def test_nothing_made_is_an_error() -> None:
    with pytest.raises(PhysConError, match="none of 1 molecule could be made"):
        make_store(["C1=CC"], tblite_engine(), progress=False)


def test_molecules_are_chosen_by_split() -> None:
    chosen = split_smiles(study_smiles()[:1500], n_train=20, n_test=10)
    store, _ = make_store(chosen[:3], tblite_engine(), progress=False)
    assert split_mask_of(store.molecules.key_hash, "train").all()
    assert len(chosen) == len(set(chosen)) == 31
    with pytest.raises(PhysConError, match="ask for fewer"):
        split_smiles(study_smiles()[:30], n_train=1000, n_test=10)
