"""Muon: momentum whose matrices are orthogonalised before a step (Jordan et al. 2024)."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration: singular values from 0.02 to 1 end between 0.7 and 1.2 in five rounds."""
_ROUNDS: Final = 5
_UPDATE_RMS: Final = 0.2
"""Root mean square of the entries of an update at learning rate 1, close to that of AdamW: both take the same rate."""


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates, for matrices only.

    All singular values of an update are about equal, so that directions with small gradients are learnt as fast as
    those with large ones. The scale of updates and the weight decay follow Liu et al. 2025 (doi
    10.48550/arXiv.2502.16982). In contrast to `torch.optim.Muon` everything is computed in the precision of the
    weights, and matrices of one shape are orthogonalised together.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, *, momentum: float, weight_decay: float):
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # no closures
        """One step with the present gradients; matrices without gradient stay as they are."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[matrix.shape].append(matrix)
            for matrices in by_shape.values():
                updates = orthogonalized(torch.stack([self._direction(own, group["momentum"]) for own in matrices]))
                rate = group["lr"] * _UPDATE_RMS * max(updates.shape[1:]) ** 0.5
                for matrix, update in zip(matrices, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=rate)

    def _direction(self, matrix: nn.Parameter, momentum: float) -> Tensor:
        """Gradient averaged over past steps, one step ahead (Nesterov)."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
        average = state["momentum"].lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(average, momentum)


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
