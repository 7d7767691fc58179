import numpy as np
import pytest
import torch

from physcon_ase.batch import Batch, in_chunks, make_batch, select, to, unpad, with_positions
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.errors import PhysConError

WATER = ([8, 1, 1], [[0.0, 0.0, 0.1], [0.8, 0.0, -0.5], [-0.8, 0.0, -0.5]])
HYDROGEN = ([1, 1], [[0.0, 0.0, 0.0], [0.74, 0.0, 0.0]])


@pytest.fixture
def batch() -> Batch:
    """Two molecules, given as lists as a newcomer would."""
    return make_batch([WATER[0], HYDROGEN[0]], [WATER[1], HYDROGEN[1]], n_slots=4)


def test_lists_and_arrays_make_the_same_batch(batch: Batch) -> None:
    arrays = make_batch(
        [np.array(WATER[0]), np.array(HYDROGEN[0])], [np.array(WATER[1]), np.array(HYDROGEN[1])], n_slots=4
    )
    assert torch.equal(arrays.atomic_numbers, batch.atomic_numbers)
    assert torch.equal(arrays.positions, batch.positions)
    assert batch.atomic_numbers.tolist() == [[8, 1, 1, 0], [1, 1, 0, 0]]
    assert (batch.positions[0, 3] == 0).all()
    assert (batch.charge.tolist(), batch.multiplicity.tolist()) == ([0, 0], [1, 1])
    assert batch.n_atoms.tolist() == [3, 2]


def test_charges_come_from_the_graphs_unless_given() -> None:
    graph = graph_from_smiles("[NH4+]")
    place = np.zeros((5, 3))
    assert make_batch([graph.atomic_numbers], [place], graphs=[graph]).charge.tolist() == [1]
    assert make_batch([graph.atomic_numbers], [place], graphs=[graph], charges=[0]).charge.tolist() == [0]


def test_stereocentres_of_different_molecules_are_padded() -> None:
    graphs = [graph_from_smiles("C[C@H](N)C(=O)O"), graph_from_smiles("O")]
    chiral = make_batch([g.atomic_numbers for g in graphs], [np.zeros((g.n_atoms, 3)) for g in graphs], graphs=graphs)
    assert chiral.tetrahedra is not None
    assert chiral.pair_types is not None
    assert chiral.tetrahedra[0, 0].tolist() == graphs[0].tetrahedra[0].tolist()
    assert (chiral.tetrahedra[1] == -1).all()
    assert (chiral.pair_types[1, 3:] == 0).all()


def test_selected_moved_and_unpadded_molecules_are_the_same(batch: Batch) -> None:
    (hydrogen,) = unpad(select(batch, torch.tensor([1])), batch.positions[1:])
    assert np.allclose(hydrogen, HYDROGEN[1])
    double = to(batch, dtype=torch.float64)
    assert double.positions.dtype == torch.float64
    assert double.atomic_numbers.dtype == torch.int64
    moved = with_positions(batch, batch.positions + 1)
    assert torch.equal(moved.positions, batch.positions + 1)
    assert moved.atomic_numbers is batch.atomic_numbers


def test_chunks_hold_similar_sizes_within_the_budget_and_leave_nobody_out() -> None:
    sizes, chunks = [9, 30, 3, 10, 3, 200], []
    assert in_chunks(sizes, 40, chunks.append) == {}
    assert sorted(index for chunk in chunks for index in chunk) == list(range(6))
    assert all(len(chunk) == 1 or len(chunk) * max(sizes[i] for i in chunk) <= 40 for chunk in chunks)
    assert [5] in chunks  # larger than the budget: alone


@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: can't allocate"), torch.OutOfMemoryError("CUDA"), MemoryError("full")]
)
def test_out_of_memory_halves_the_chunks_and_names_what_never_fits(error: Exception) -> None:
    done, lengths = [], []

    def work(chunk: list[int]) -> None:
        lengths.append(len(chunk))
        if len(chunk) > 2 or 7 in chunk:
            raise error
        done.extend(chunk)

    (row, found), *others = in_chunks([10] * 7 + [500], 1000, work).items()
    assert (row, others) == (7, [])
    assert str(found).startswith(f"not enough memory for 500 atoms ({error}): use")
    assert sorted(done) == list(range(7))
    assert lengths[:3] == [7, 3, 1]


def test_an_error_that_is_not_about_memory_is_not_swallowed() -> None:
    def work(chunk: list[int]) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        in_chunks([1], 10, work)


def test_chunks_need_room() -> None:
    with pytest.raises(PhysConError, match="atoms_per_batch is 0; 1 or more is needed"):
        in_chunks([1], 0, lambda _: None)
