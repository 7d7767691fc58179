"""Muon: optimiser that orthogonalises the momentum of weight matrices (Jordan et al. 2024)."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import torch
import torch.distributed
from jaxtyping import Float
from torch import Tensor, nn

from physcon_ase.training.processes import sum_over_processes

_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic Newton-Schulz iteration; five rounds map singular values from 0.02 to 1 to 0.7 to 1.2."""
_ROUNDS: Final = 5
_UPDATE_RMS: Final = 0.2
"""Root mean square of the entries of an update at learning rate 1, close to that of AdamW: both use the same rate."""


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates, for matrices only.

    All singular values of an update are about equal, so that the weights change equally along directions of
    small and of large gradients. The scale of updates and the weight decay follow Liu et al. 2025 (doi
    10.48550/arXiv.2502.16982). In contrast to `torch.optim.Muon` everything is computed in the precision of the
    weights, and matrices of one shape are orthogonalised together.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, *, momentum: float, weight_decay: float):
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # no closures
        """One step with the current gradients; matrices without a gradient are unchanged."""
        for group in self.param_groups:
            matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
            updates = _shared([self._direction(matrix, group["momentum"]) for matrix in matrices])
            for matrix, update in zip(matrices, updates, strict=True):
                rate = group["lr"] * _UPDATE_RMS * max(matrix.shape) ** 0.5
                matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=rate)

    def _direction(self, matrix: nn.Parameter, momentum: float) -> Tensor:
        """Gradient averaged over past steps, one step ahead (Nesterov)."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
        average = state["momentum"].lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(average, momentum)


def _shared(matrices: Sequence[Tensor]) -> list[Tensor]:
    """`orthogonalized` of each matrix; each process computes a part, and all processes get all results."""
    rank, world_size = 0, 1
    if torch.distributed.is_initialized():
        rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    own: dict[torch.Size, list[int]] = defaultdict(list)
    for place, owner in enumerate(_owners([matrix.shape for matrix in matrices], world_size)):
        if owner == rank:
            own[matrices[place].shape].append(place)
    found = [torch.zeros_like(matrix) for matrix in matrices]
    for places in own.values():
        updates = orthogonalized(torch.stack([matrices[place] for place in places]))
        for place, update in zip(places, updates, strict=True):
            found[place] = update
    if world_size == 1 or not found:
        return found
    return sum_over_processes(found)  # of each matrix all but one are zero


def _owners(shapes: Sequence[torch.Size], world_size: int) -> list[int]:
    """The process that computes each matrix, so that all have about the same work."""
    work = [min(shape) ** 2 * max(shape) for shape in shapes]
    owners, loads = [0] * len(shapes), [0] * world_size
    for place in sorted(range(len(shapes)), key=lambda place: -work[place]):
        owners[place] = loads.index(min(loads))
        loads[owners[place]] += work[place]
    return owners


def orthogonalized(matrices: Float[Tensor, "matrices rows columns"]) -> Float[Tensor, "matrices rows columns"]:
    """Matrices with the same singular vectors and singular values near 1, by Newton-Schulz iteration."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalized(matrices.mT).mT
    linear, cubic, quintic = _COEFFICIENTS
    found = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    for _ in range(_ROUNDS):
        gram = found @ found.mT
        found = linear * found + (cubic * gram + quintic * gram @ gram) @ found
    return found
