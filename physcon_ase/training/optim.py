"""Learning-rate schedule, optimiser and moving average of the weights."""

from typing import Final

import torch
from torch import Tensor, nn

from physcon_ase.training.muon import Muon
from physcon_ase.training.recipe import OptimRecipe

_BETAS: Final = (0.9, 0.99)
_MOMENTUM: Final = 0.95
_SMALLEST_MATRIX: Final = 8
"""Smallest number of rows and columns of matrices trained with Muon."""


def learning_rate(optim: OptimRecipe, step: int) -> float:
    """Learning rate of a step counted from 0: linear warm-up, constant, linear decay to zero at `optim.steps`."""
    warm = min(1.0, (step + 1) / max(optim.warmup, 1))
    n_decay = max(optim.decay * optim.steps, 1)
    return optim.lr * warm * min(1.0, (optim.steps - step) / n_decay)


class Optimizer:
    """Muon for matrices; AdamW (doi 10.48550/arXiv.1711.05101) for biases, embeddings and small matrices.

    Weight decay applies to the matrices of Muon only.
    """

    def __init__(self, model: nn.Module, optim: OptimRecipe):
        embeddings = {id(own.weight) for own in model.modules() if isinstance(own, nn.Embedding)}
        trained = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.ndim == 2 and min(p.shape) >= _SMALLEST_MATRIX and id(p) not in embeddings]
        others = [p for p in trained if not any(p is matrix for matrix in matrices)]
        self.parts: dict[str, torch.optim.Optimizer] = {}
        """The optimisers of both kinds, as far as the model has such parameters."""
        if matrices:
            self.parts["matrices"] = Muon(matrices, optim.lr, momentum=_MOMENTUM, weight_decay=optim.weight_decay)
        if others:
            self.parts["others"] = torch.optim.AdamW(others, lr=optim.lr, betas=_BETAS, weight_decay=0.0, fused=True)

    def zero_grad(self) -> None:
        """Clears all gradients."""
        for part in self.parts.values():
            part.zero_grad(set_to_none=True)

    def step(self, lr: float) -> None:
        """One step at a learning rate."""
        for part in self.parts.values():
            for group in part.param_groups:
                group["lr"] = lr
            part.step()

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors, for a safetensors file."""
        return {
            f"{name}.{index}.{key}": value
            for name, part in self.parts.items()
            for index, entry in part.state_dict()["state"].items()
            for key, value in entry.items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restores the state from the tensors of `tensors`."""
        states: dict[str, dict[int, dict[str, Tensor]]] = {name: {} for name in self.parts}
        for key, value in tensors.items():
            name, index, entry = key.split(".", 2)
            states.setdefault(name, {}).setdefault(int(index), {})[entry] = value
        for name, part in self.parts.items():
            part.load_state_dict({"state": states[name], "param_groups": part.state_dict()["param_groups"]})


class WeightAverage:
    """Exponential moving average of the weights, with a smaller decay constant during the first steps."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.tensors = {name: value.detach().clone() for name, value in model.named_parameters()}

    def update(self, model: nn.Module, step: int) -> None:
        """Updates the average with the weights after a step counted from 0."""
        keep = min(self.decay, (step + 1) / (step + 10))
        averages = list(self.tensors.values())
        weights = [parameter.detach() for parameter in model.parameters()]
        torch._foreach_lerp_(averages, weights, 1 - keep)  # pyright: ignore[reportPrivateImportUsage]  # one call for all

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restores stored averages."""
        for name, value in tensors.items():
            self.tensors[name].copy_(value)
