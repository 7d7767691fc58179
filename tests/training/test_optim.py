import pytest
import torch

from physcon_ase.training.optim import Optimizer, WeightAverage, learning_rate
from physcon_ase.training.recipe import OptimRecipe

EXACT = 1e-12
"""The same floating-point operations."""


def test_learning_rate_warms_up_stays_and_decays_to_zero():
    optim = OptimRecipe(steps=100, lr=1.0, warmup=10, decay=0.5)
    assert learning_rate(optim, 0) == pytest.approx(0.1, abs=EXACT)
    assert learning_rate(optim, 9) == learning_rate(optim, 30) == learning_rate(optim, 50) == 1.0
    assert learning_rate(optim, 75) == pytest.approx(0.5, abs=EXACT)
    assert 0 < learning_rate(optim, 99) <= 0.02


def test_without_decay_the_rate_is_constant_to_the_end():
    optim = OptimRecipe(steps=100, lr=1.0, warmup=1, decay=0.0)
    assert {learning_rate(optim, step) for step in range(100)} == {1.0}


class Mixed(torch.nn.Module):
    """A matrix, a bias, an embedding and a single row."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(16, 16)
        self.matrix = torch.nn.Linear(16, 12)
        self.row = torch.nn.Linear(12, 1, bias=False)

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        return self.row(torch.tanh(self.matrix(self.embedding(index)))).square().sum()


def trained(model: Mixed, optimizer: Optimizer, steps: int = 1) -> Mixed:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.arange(4)).backward()
        optimizer.step(0.01)
    return model


def test_muon_trains_and_decays_matrices_only():
    model = Mixed()
    parts = Optimizer(model, OptimRecipe(steps=1, weight_decay=0.1)).parts
    (matrices,), (others,) = parts["matrices"].param_groups, parts["others"].param_groups
    assert [id(p) for p in matrices["params"]] == [id(model.matrix.weight)]
    assert {id(p) for p in others["params"]} == {
        id(model.embedding.weight),
        id(model.matrix.bias),
        id(model.row.weight),
    }
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.1, 0.0)


def test_frozen_parameters_are_not_trained():
    model = Mixed()
    model.matrix.weight.requires_grad_(requires_grad=False)
    before = model.matrix.weight.clone()
    trained(model, Optimizer(model, OptimRecipe(steps=9)), steps=3)
    assert torch.equal(model.matrix.weight, before)


def test_restored_optimizer_goes_on_exactly():
    torch.manual_seed(0)
    model, copy = Mixed(), Mixed()
    optimizer = Optimizer(model, OptimRecipe(steps=9))
    trained(model, optimizer, steps=3)
    copy.load_state_dict(model.state_dict())
    restored = Optimizer(copy, OptimRecipe(steps=9))
    restored.restore({name: value.clone() for name, value in optimizer.tensors().items()})
    trained(model, optimizer)
    trained(copy, restored)
    for own, other in zip(model.parameters(), copy.parameters(), strict=True):
        assert torch.equal(own, other)


def test_average_follows_the_weights_with_the_stated_memory():
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    average = WeightAverage(model, decay=0.9)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average.update(model, step=1000)
    torch.testing.assert_close(average.tensors["weight"], torch.tensor([[0.1]]))
