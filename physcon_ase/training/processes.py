"""Data-parallel training: several processes share the batches of each step."""

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import torch
import torch.distributed
from torch import Tensor, nn

_LONGEST_WAIT: Final = timedelta(days=7)
"""Time that the other processes wait for the first one, which makes the stores."""


def sum_over_processes(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Sum of each tensor over the processes, with one communication for all tensors."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def average_gradients(parameters: list[nn.Parameter], world_size: int) -> None:
    """Replaces the gradients by their means over the processes."""
    if world_size == 1:
        return
    # A head without a label in this process' batch has no gradient here, but may have one elsewhere. Without a
    # label in any process it must have none: with a gradient of zero the optimiser would decay its weights.
    present = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    present, *sums = sum_over_processes([present, *gradients])
    for parameter, known, total in zip(parameters, present.tolist(), sums, strict=True):
        parameter.grad = total / world_size if known else None


@contextmanager
def processes() -> Iterator[tuple[int, int]]:
    """Rank and number of processes; joins the group that ``torchrun`` made, if any, and leaves it with all of them.

    Within another one it only waits for all processes at its end.
    """
    if "RANK" not in os.environ:
        yield 0, 1
        return
    is_outermost = not torch.distributed.is_initialized()
    if is_outermost:
        # Optimisers import this module. Imported after the group was made, default arguments of its functions would
        # keep the group and its threads until the interpreter ends, which aborts if one of them still holds a tensor.
        importlib.import_module("torch.distributed.nn.functional")
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend, timeout=_LONGEST_WAIT)
    try:
        yield torch.distributed.get_rank(), torch.distributed.get_world_size()
        torch.distributed.barrier()  # files written by the first process exist for all
    finally:
        if is_outermost:
            torch.distributed.destroy_process_group()
