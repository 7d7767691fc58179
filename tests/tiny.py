"""Models with random weights that are small enough for tests, and molecules to try them on."""

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from physcon_ase.batch import Batch, make_batch
from physcon_ase.data.sample import LabelledBatch
from physcon_ase.model.checkpoint import load_into
from physcon_ase.model.config import EncoderConfig, LevelConfig, ModelConfig, StructureConfig
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import LoadedModel, PhysCon
from physcon_ase.model.uncertainty import energy_table, force_table

LEVELS = (
    LevelConfig("cheap", "covers more elements", (1, 6, 7, 8, 9, 17), (-10.5, -50.2, -60.3, -100.4, -120.0, -130.0)),
    LevelConfig("dft", "covers fewer", (1, 6, 7, 8), (-13.1, -1030.2, -1480.3, -2040.4)),
)

STRUCTURE = StructureConfig(
    n_layers=2, n_radial=4, channels=12, mixed_channels=10, source_scalars=4, source_vectors=3, hidden=12
)

ETHANOL_NUMBERS = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])
ETHANOL_BONDS = np.array([[0, 1], [1, 2], [0, 3], [0, 4], [0, 5], [1, 6], [1, 7], [2, 8]])
ETHANOL = np.array(
    [
        [1.168, -0.388, 0.018],
        [-0.058, 0.511, -0.051],
        [-1.219, -0.288, 0.102],
        [1.183, -1.115, -0.801],
        [1.181, -0.931, 0.968],
        [2.080, 0.213, -0.047],
        [-0.046, 1.068, -0.993],
        [-0.028, 1.243, 0.762],
        [-1.240, -0.883, -0.662],
    ]
)
WATER_NUMBERS = np.array([8, 1, 1])
WATER = np.array([[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]])


def tiny_model(
    source_vectors: int = 0,
    dtype: torch.dtype = torch.float64,
    *,
    structure: StructureConfig | None = None,
    levels: tuple[LevelConfig, ...] = LEVELS,
    charged: bool = False,
    long_range: bool = False,
    output_vectors: int = 0,
) -> PhysCon:
    """Random weights, the same at each call, with forces of about 1 eV/Å: noise of rounding must not hide in them."""
    encoder = EncoderConfig(
        n_radial=5,
        channels=12,
        mixed_channels=10,
        source_scalars=4,
        source_vectors=source_vectors,
        hidden=12,
        charged=charged,
        long_range=long_range,
        output_vectors=output_vectors,
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(7)
    model = PhysCon(ModelConfig(levels, encoder, structure), dtype=torch.float64)
    enliven(model)
    torch.random.set_rng_state(state)
    return model.to(dtype).eval().requires_grad_(False)


def enliven(model: PhysCon) -> None:
    """Random weights in place of those that begin at zero, and large ones in the heads: every part has a say."""
    network = model.energy
    for head in network.heads.values():
        nn.init.normal_(head.network[2].weight, std=40.0)
    for rows in network.rows.values():
        nn.init.normal_(rows.weight)
    if network.charge_effect is not None:
        nn.init.normal_(network.charge_effect.last.weight)
        for head in network.charge_heads:
            nn.init.normal_(head.network[2].weight)
    if model.structure is not None:
        nn.init.normal_(model.structure.readout.weight)


def charged_tiny_model() -> PhysCon:
    """A tiny model with charges and long-range energies, whose first level covers charges of -1 and 1 as well."""
    levels = (replace(LEVELS[0], charges=(-1, 0, 1)), LEVELS[1])
    return tiny_model(source_vectors=4, levels=levels, charged=True, long_range=True)


def calibrated_model(dtype: torch.dtype = torch.float64) -> PhysCon:
    """The tiny model with tables of uncertainty from ethanol and water in thermal motion, for made-up errors."""
    plain, names = tiny_model(4), tuple(level.name for level in LEVELS)
    with torch.random.fork_rng(devices=[]):
        model = PhysCon(replace(plain.config, energy_uncertainty=names, forces_uncertainty=names), dtype=torch.float64)
    generator = np.random.default_rng(11)
    molecules = [
        (numbers, place + generator.normal(scale=0.05, size=place.shape))
        for numbers, place in [(ETHANOL_NUMBERS, ETHANOL), (WATER_NUMBERS, WATER)] * 30
    ]
    batch = pack(plain, molecules)
    tensors = dict(plain.state_dict())
    for name in names:
        features = plain.evaluate(batch, name).features
        of_molecules, of_atoms = features.sum(dim=1), features[batch.atom_mask]
        errors = torch.as_tensor(generator.normal(scale=0.05, size=(len(of_atoms), 3)))
        energy = energy_table(
            of_molecules.T @ of_molecules / 60,
            of_molecules,
            errors[: len(of_molecules), 0],
            torch.full((len(of_molecules),), 9),
        )
        atoms = batch.atomic_numbers[batch.atom_mask]
        forces = force_table(of_atoms.T @ of_atoms / len(of_atoms), of_atoms, errors, atoms)
        tensors |= {f"energy_rigidity.{name}.{key}": value for key, value in energy.items()}
        tensors |= {f"force_rigidity.{name}.{key}": value for key, value in forces.items()}
    load_into(model, tensors)
    return model.to(dtype).eval().requires_grad_(False)


def tiny_loaded(source_vectors: int = 4, dtype: torch.dtype = torch.float64, *, output_vectors: int = 0) -> LoadedModel:
    return LoadedModel(tiny_model(source_vectors, dtype, output_vectors=output_vectors), "tiny", "0" * 64)


def pack(model: PhysCon, molecules: Iterable[tuple[np.ndarray, np.ndarray]], n_slots: int | None = None) -> Batch:
    """A batch in the number format of the model."""
    numbers, positions = zip(*molecules, strict=True)
    return make_batch(numbers, positions, n_slots=n_slots, dtype=model.energy.embedding.weight.dtype)


def evaluate(
    model: PhysCon, *molecules: tuple[np.ndarray, np.ndarray], level: str | None = None, n_slots: int | None = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Energies [eV] without the references, and forces [eV/Å] of each molecule."""
    batch = pack(model, molecules, n_slots)
    level = level or model.level_names[0]
    energies, forces = energies_and_forces(model.energy_fn(level), batch)
    references = model.references[level](batch).sum(dim=1)
    sizes = [len(numbers) for numbers, _ in molecules]
    return (energies - references).numpy(), [row[:n].double().numpy() for n, row in zip(sizes, forces, strict=True)]


def labelled_with(batch: Batch, forces: torch.Tensor) -> LabelledBatch:
    """The geometries with these forces [eV/Å] as labels, and no energies."""
    return LabelledBatch(
        batch=batch,
        level=torch.zeros(len(batch), dtype=torch.int64),
        energy=torch.full((len(batch),), math.nan, dtype=torch.float64),
        forces=forces,
        is_minimum=torch.zeros(len(batch), dtype=torch.bool),
        weight=torch.ones(len(batch), dtype=torch.float64),
        charges=torch.full(batch.atomic_numbers.shape, math.nan, dtype=torch.float64),
        identity=torch.arange(len(batch)),
    )
