"""Batches of molecules as padded tensors.

All molecules of a batch are padded to the same number of slots; empty slots have atomic number 0 and position 0.
The loader and `optimize_many` group molecules of similar size to limit the padding.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Final, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int16, UInt8
from numpy.typing import ArrayLike
from torch import Tensor

from physcon_ase.chem.graph import MolGraph, pair_types
from physcon_ase.chem.hydrogens import hydrogen_tetrahedra
from physcon_ase.errors import NotEnoughMemoryError, PhysConError


@dataclass(frozen=True)
class Batch:
    """Padded batch of molecules, the input of models and optimisers."""

    atomic_numbers: Int[Tensor, "molecules slots"]
    """Atomic numbers, int64; 0 in empty slots."""
    positions: Float[Tensor, "molecules slots 3"]
    """Positions [Å]; 0 in empty slots."""
    charge: Int[Tensor, " molecules"]
    """Total charge [e]."""
    multiplicity: Int[Tensor, " molecules"]
    """Spin multiplicity 2S + 1."""
    pair_types: Int[Tensor, "molecules slots slots"] | None = None
    """`chem.graph.pair_types` of each atom pair, 0 in empty slots; None without graphs."""
    tetrahedra: Int[Tensor, "molecules centres 4"] | None = None
    """`MolGraph.tetrahedra` and `chem.hydrogens.hydrogen_tetrahedra`, padded with -1; None without graphs."""
    formal_charges: Int[Tensor, "molecules slots"] | None = None
    """Formal charges [e], 0 in empty slots: their sums are the total charges of separate groups of atoms in training.
    None in any other use: those follow from the geometry alone (`model.charge_groups`)."""

    @property
    def atom_mask(self) -> Bool[Tensor, "molecules slots"]:
        """Whether each slot contains an atom."""
        return self.atomic_numbers > 0

    @property
    def n_atoms(self) -> Int[Tensor, " molecules"]:
        """Number of atoms of each molecule."""
        return self.atom_mask.sum(dim=1)

    def __len__(self) -> int:
        return self.atomic_numbers.shape[0]


ONE_THREAD_SLOTS: Final = 256
"""Number of slots up to which a batch is computed on one thread; a second thread gives no speed-up at this size and can
slow it down tenfold on a busy machine."""

EnergyFn: TypeAlias = Callable[[Batch], Float[Tensor, " molecules"]]
"""Energies [eV] of the molecules of a batch, differentiable with respect to `Batch.positions`."""


def make_batch(
    atomic_numbers: Sequence[ArrayLike],
    positions: Sequence[ArrayLike],
    *,
    graphs: Sequence[MolGraph] | None = None,
    charges: Sequence[int] | None = None,
    multiplicities: Sequence[int] | None = None,
    n_slots: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Batch:
    """Packs molecules of any size into a batch.

    Args:
        atomic_numbers: atomic numbers [atoms] of each molecule.
        positions: positions [atoms, 3] [Å] of each molecule.
        graphs: graph of each molecule; only required by the structure network. Default charges and multiplicities are
            taken from the graphs.
        charges: total charge [e] of each molecule; 0 by default.
        multiplicities: spin multiplicity of each molecule; 1 by default.
        n_slots: number of slots per molecule, at least the size of the largest one (the default).
        dtype: dtype of the positions.
        device: device of the tensors.
    """
    sizes = [len(np.asarray(numbers)) for numbers in atomic_numbers]
    n_molecules, n_slots = len(sizes), max(sizes, default=0) if n_slots is None else n_slots
    padded_numbers = np.zeros((n_molecules, n_slots), dtype=np.int64)
    padded_positions = np.zeros((n_molecules, n_slots, 3))
    for row, (size, numbers, place) in enumerate(zip(sizes, atomic_numbers, positions, strict=True)):
        padded_numbers[row, :size] = numbers
        padded_positions[row, :size] = place
    if graphs is not None:
        charges = [graph.charge for graph in graphs] if charges is None else charges
        multiplicities = [graph.multiplicity for graph in graphs] if multiplicities is None else multiplicities
    return Batch(
        atomic_numbers=torch.as_tensor(padded_numbers, device=device),
        positions=torch.as_tensor(padded_positions, dtype=dtype, device=device),
        charge=_per_molecule(charges, 0, n_molecules, device),
        multiplicity=_per_molecule(multiplicities, 1, n_molecules, device),
        pair_types=None
        if graphs is None
        else torch.as_tensor(pad_pair_types(graphs, n_slots), dtype=torch.int64, device=device),
        tetrahedra=None
        if graphs is None
        else torch.as_tensor(pad_tetrahedra(graphs), dtype=torch.int64, device=device),
    )


def with_positions(batch: Batch, positions: Float[Tensor, "molecules slots 3"]) -> Batch:
    """Copy of the batch with other positions [Å]."""
    return replace(batch, positions=positions)


def select(batch: Batch, molecules: Tensor) -> Batch:
    """Sub-batch of the selected molecules (indices or boolean mask), in the same slots."""
    return _map(batch, lambda values: values[molecules])


def to(batch: Batch, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Batch:
    """Copy of the batch on another device; `dtype` applies to the positions."""
    moved = _map(batch, lambda values: values.to(device=device))
    return with_positions(moved, moved.positions.to(dtype=dtype))


def unpad(batch: Batch, values: Tensor) -> list[np.ndarray]:
    """Splits per-slot values [molecules, slots, ...] into one array [atoms, ...] per molecule."""
    return [row[:size] for row, size in zip(values.detach().cpu().numpy(), batch.n_atoms.tolist(), strict=True)]


def in_chunks(
    sizes: Sequence[int], atoms_per_batch: int, work: Callable[[list[int]], None]
) -> dict[int, NotEnoughMemoryError]:
    """Calls `work` for chunks of molecules of similar size that fill up to `atoms_per_batch` slots.

    If memory runs out, the number of slots is halved for the remaining molecules.

    Args:
        sizes: number of atoms of each molecule.
        atoms_per_batch: number of slots per chunk, including empty ones.
        work: called with the indices of each chunk; called again for a chunk that ran out of memory.

    Returns:
        Error by index of molecules that do not fit into memory on their own.

    Raises:
        PhysConError: `atoms_per_batch` is below 1.
    """
    if atoms_per_batch < 1:
        raise PhysConError(f"atoms_per_batch is {atoms_per_batch}; 1 or more is needed")
    waiting, too_large, budget = sorted(range(len(sizes)), key=sizes.__getitem__), {}, atoms_per_batch
    while waiting:
        chunk = _next_chunk(waiting, sizes, budget)
        try:
            work(chunk)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(chunk) > 1:
                budget = max(1, min(budget, len(chunk) * sizes[chunk[-1]]) // 2)
                continue
            reason = str(error).split("\n", maxsplit=1)[0]
            too_large[chunk[0]] = NotEnoughMemoryError(
                f"not enough memory for {sizes[chunk[0]]} atoms ({reason}): use a machine with more memory, or float32"
            )
        waiting = waiting[len(chunk) :]
    return too_large


def _map(batch: Batch, function: Callable[[Tensor], Tensor]) -> Batch:
    """Applies a function to every tensor of the batch."""
    tensors = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return replace(batch, **{name: function(tensor) for name, tensor in tensors.items() if tensor is not None})


def _per_molecule(values: Sequence[int] | None, default: int, n_molecules: int, device: torch.device | str) -> Tensor:
    if values is None:
        return torch.full((n_molecules,), default, dtype=torch.int64, device=device)
    return torch.tensor(values, dtype=torch.int64, device=device)


def pad_pair_types(graphs: Sequence[MolGraph], n_slots: int) -> UInt8[np.ndarray, "molecules slots slots"]:
    """`chem.graph.pair_types` of each molecule, 0 in empty slots."""
    padded = np.zeros((len(graphs), n_slots, n_slots), dtype=np.uint8)
    for row, graph in enumerate(graphs):
        padded[row, : graph.n_atoms, : graph.n_atoms] = pair_types(graph)
    return padded


def pad_tetrahedra(graphs: Sequence[MolGraph]) -> Int16[np.ndarray, "molecules centres 4"]:
    """`MolGraph.tetrahedra` and `hydrogen_tetrahedra` of each molecule, padded with -1."""
    tetrahedra = [np.concatenate([graph.tetrahedra, hydrogen_tetrahedra(graph)]) for graph in graphs]
    padded = np.full((len(graphs), max(map(len, tetrahedra), default=0), 4), -1, dtype=np.int16)
    for row, own in enumerate(tetrahedra):
        padded[row, : len(own)] = own
    return padded


def _next_chunk(waiting: list[int], sizes: Sequence[int], budget: int) -> list[int]:
    """First molecules that fit into the slots when padded to the size of the largest one, which is the last."""
    length = 1
    while length < len(waiting) and (length + 1) * sizes[waiting[length]] <= budget:
        length += 1
    return waiting[:length]


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    # On the CPU, PyTorch raises a plain RuntimeError.
    is_cpu = "DefaultCPUAllocator" in str(error) or "not enough memory" in str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or is_cpu


@contextmanager
def threads_for(batch: Batch) -> Iterator[None]:
    """Context manager: uses a single thread for small batches and restores the number of threads afterwards."""
    n_threads = torch.get_num_threads()
    if n_threads == 1 or batch.atomic_numbers.numel() > ONE_THREAD_SLOTS:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
