"""Learning-rate schedule, optimiser and moving average of the weights."""

import torch
from torch import Tensor, nn

from physcon_ase.training.recipe import OptimRecipe

_BETAS = (0.9, 0.99)


def learning_rate(optim: OptimRecipe, step: int) -> float:
    """Learning rate of a step counted from 0: linear warm-up, constant, linear decay to zero at `optim.steps`."""
    warm = min(1.0, (step + 1) / max(optim.warmup, 1))
    n_decay = max(optim.decay * optim.steps, 1)
    return optim.lr * warm * min(1.0, (optim.steps - step) / n_decay)


def make_optimizer(model: nn.Module, optim: OptimRecipe) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, doi 10.48550/arXiv.1711.05101) that decays matrices, not biases and embeddings."""
    trained = {id(p): p for p in model.parameters() if p.requires_grad}
    embeddings = {id(own.weight) for own in model.modules() if isinstance(own, nn.Embedding)}
    decayed = [p for key, p in trained.items() if p.ndim > 1 and key not in embeddings]
    plain = [p for key, p in trained.items() if p.ndim <= 1 or key in embeddings]
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=_BETAS, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors, to be kept in a safetensors file."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Puts tensors from `optimizer_tensors` back."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class WeightAverage:
    """Exponential moving average of the weights, with the usual shorter memory during the first steps."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.tensors = {name: value.detach().clone() for name, value in model.named_parameters()}

    def update(self, model: nn.Module, step: int) -> None:
        """Takes in the weights after a step counted from 0."""
        keep = min(self.decay, (step + 1) / (step + 10))
        averages = list(self.tensors.values())
        weights = [parameter.detach() for parameter in model.parameters()]
        torch._foreach_lerp_(averages, weights, 1 - keep)  # pyright: ignore[reportPrivateImportUsage]  # one call for all

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts stored averages back."""
        for name, value in tensors.items():
            self.tensors[name].copy_(value)
