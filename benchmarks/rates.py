"""Rates of single calls, batches and training steps, for several benchmarks."""

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from physcon_ase.batch import make_batch
from physcon_ase.chem.conformers import embed
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.data.sample import LabelledBatch, to
from physcon_ase.data.selection import DataSet
from physcon_ase.model.config import ModelConfig
from physcon_ase.model.physcon import PhysCon
from physcon_ase.relax.state import ForceFn
from physcon_ase.training.losses.terms import compute_losses
from physcon_ase.training.optim import Optimizer
from physcon_ase.training.recipe import LevelRecipe, LossRecipe, OptimRecipe, Recipe

MOLECULES = {
    "ethanol": "CCO",
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "ibuprofen": "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "methandienone": "C[C@]12CC[C@H]3[C@@H](CCC4=CC(=O)C=C[C@]34C)[C@@H]1CC[C@]2(C)O",
    "saquinavir": "CC(C)(C)NC(=O)[C@@H]1C[C@@H]2CCCC[C@@H]2CN1C[C@H]"
    "([C@H](Cc1ccccc1)NC(=O)[C@H](CC(=O)N)NC(=O)c1ccc2ccccc2n1)O",
}
"""9, 21, 33, 50 and 99 atoms."""

ISOMER = "CCCC(=O)C(=O)C=C"
"""An isomer of C7H10O2: 19 atoms, the size for which training rates are given."""

JITTER = 0.02
"""Displacement [Å per coordinate] between two calls, so that no calculator can return cached results."""


_CALLS_PER_TURN = 5
"""Number of timed calls in a row."""


def geometry(smiles: str) -> tuple[MolGraph, np.ndarray]:
    """A molecule and an ETKDG geometry [Å] of it."""
    graph = graph_from_smiles(smiles)
    return graph, embed(graph)[0]


def jittered(positions: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Nearby positions [Å]."""
    return positions + generator.normal(scale=JITTER, size=positions.shape)


def interleaved(
    calls: Mapping[str, Callable[[], object]], n_calls: int, *, warm_up: int = 3
) -> dict[str, tuple[float, float]]:
    """Median wall and processor time [s] of each call.

    The calls are timed alternately, so that all are measured under the same load. Each is called a few times in a row,
    as in a relaxation, and the first of these calls is not counted, because the others have filled the caches.
    """
    wall: dict[str, list[float]] = {name: [] for name in calls}
    processor: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-(-n_calls // _CALLS_PER_TURN) + warm_up):
        for name, call in calls.items():
            call()
            for _ in range(_CALLS_PER_TURN):
                before = time.perf_counter(), time.process_time()
                call()
                after = time.perf_counter(), time.process_time()
                if turn >= warm_up:
                    wall[name].append(after[0] - before[0])
                    processor[name].append(after[1] - before[1])
    return {name: (float(np.median(wall[name])), float(np.median(processor[name]))) for name in calls}


def batched_rate(force_fn: ForceFn, smiles: str, *, atoms_per_batch: int = 1024, n_calls: int = 10) -> float:
    """Molecules per processor second, energies and forces of a batch of copies that differ a little."""
    graph, positions = geometry(smiles)
    count = max(1, atoms_per_batch // graph.n_atoms)
    generator = np.random.default_rng(0)
    batch = make_batch([graph.atomic_numbers] * count, [jittered(positions, generator) for _ in range(count)])
    (_, seconds) = interleaved({"batch": lambda: force_fn(batch)}, n_calls)["batch"]
    return count / seconds


def latency(force_fn: ForceFn, smiles: str, *, n_calls: int = 50) -> float:
    """Median processor time [s] for energy and forces of one molecule, without the ASE calculator around it."""
    graph, positions = geometry(smiles)
    batch = make_batch([graph.atomic_numbers], [positions])
    return interleaved({"call": lambda: force_fn(batch)}, n_calls)["call"][1]


def training_rate(config: ModelConfig, *, atoms_per_batch: int = 512, n_steps: int = 10) -> float:
    """Molecules of 19 atoms per processor second in full training steps on energies and forces."""
    step = training_step(config, LossRecipe(energy=0.2, forces=1.0), atoms_per_batch=atoms_per_batch)
    return n_labelled(atoms_per_batch) / interleaved({"step": step}, n_steps)["step"][1]


def n_labelled(atoms_per_batch: int) -> int:
    """Molecules in the batch of a `training_step`."""
    return atoms_per_batch // geometry(ISOMER)[0].n_atoms


def training_step(
    config: ModelConfig, loss: LossRecipe, *, atoms_per_batch: int = 512, device: torch.device | str = "cpu"
) -> Callable[[], None]:
    """A full training step of a model with random weights on molecules of 19 atoms, the same at each call."""
    recipe = Recipe(
        name="rate",
        levels=tuple(LevelRecipe(level.name, level.description) for level in config.levels),
        data=(DataSet(store="", levels=(config.levels[0].name,)),),
        optim=OptimRecipe(steps=10**6, atoms_per_batch=atoms_per_batch),
        encoder=config.encoder,
        loss=loss,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PhysCon(config).to(device)
    optimizer = Optimizer(model, recipe.optim)
    labelled = to(_labelled(atoms_per_batch), device=device)

    def step() -> None:
        terms = compute_losses(model, labelled, recipe, generator=torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        sum(terms.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optim.clip)
        optimizer.step(recipe.optim.lr)

    return step


def _labelled(atoms_per_batch: int) -> LabelledBatch:
    """Copies of a molecule that differ a little, with labels of about the right size."""
    graph, positions = geometry(ISOMER)
    assert graph.n_atoms == 19
    count, generator = n_labelled(atoms_per_batch), np.random.default_rng(0)
    batch = make_batch([graph.atomic_numbers] * count, [jittered(positions, generator) for _ in range(count)])
    return LabelledBatch(
        batch=batch,
        level=torch.zeros(count, dtype=torch.int64),
        energy=torch.as_tensor(generator.normal(size=count)),
        forces=torch.as_tensor(generator.normal(size=(count, graph.n_atoms, 3)), dtype=torch.float32),
        is_minimum=torch.zeros(count, dtype=torch.bool),
        weight=torch.ones(count),
        charges=torch.full((count, graph.n_atoms), float("nan")),
        identity=torch.arange(count),
    )
