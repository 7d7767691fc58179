import pytest
import torch

from physcon_ase.training.optim import (
    WeightAverage,
    learning_rate,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
)
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


def test_biases_and_embeddings_are_not_decayed():
    model = torch.nn.ModuleDict({"embedding": torch.nn.Embedding(3, 2), "linear": torch.nn.Linear(2, 2)})
    decayed, plain = make_optimizer(model, OptimRecipe(steps=1, weight_decay=0.1)).param_groups
    assert [p is model["linear"].weight for p in decayed["params"]] == [True]
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0


def test_restored_optimizer_goes_on_exactly():
    def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()

    torch.manual_seed(0)
    model, copy = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    optimizer = make_optimizer(model, OptimRecipe(steps=9))
    for _ in range(3):
        step(model, optimizer)
    copy.load_state_dict(model.state_dict())
    restored = make_optimizer(copy, OptimRecipe(steps=9))
    restore_optimizer(restored, {name: value.clone() for name, value in optimizer_tensors(optimizer).items()})
    step(model, optimizer)
    step(copy, restored)
    assert torch.equal(model.weight, copy.weight)


def test_average_follows_the_weights_with_the_stated_memory():
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    average = WeightAverage(model, decay=0.9)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average.update(model, step=1000)
    torch.testing.assert_close(average.tensors["weight"], torch.tensor([[0.1]]))
