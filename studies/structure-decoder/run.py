"""Study of the structure network: a separate network, or a decoder that reads the features of the energy network.

    python studies/structure-decoder/run.py --stores stores --folder structure-decoder

The energy network is that of the shipped checkpoint and is not changed; all rows receive its forces. Finished trainings
in the folder are not repeated, and interrupted ones continue. One core is used.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from unittest import mock

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the clone: studies are no part of the package

from physcon_ase.batch import Batch, with_positions
from physcon_ase.cli import exit_code
from physcon_ase.data.loader import evaluation_batches, load_items
from physcon_ase.model.checkpoint import load_into, read_checkpoint, save_checkpoint
from physcon_ase.model.config import config_from_dict
from physcon_ase.model.energy import Levels
from physcon_ase.model.heads import fade_in
from physcon_ase.model.pairs import make_pairs, pair_products
from physcon_ase.model.physcon import PhysCon
from physcon_ase.model.structure import Denoiser
from physcon_ase.training import start
from physcon_ase.training.recipe_files import read_recipe
from physcon_ase.training.trainer import RunOptions
from studies.shared.rows import check_rows
from studies.shared.trained import log_of, trained

RECIPE: Final = Path(__file__).with_name("recipe.toml")


@dataclass(frozen=True)
class Row:
    """One training."""

    n_layers: int
    """Layers of the structure network."""
    reads_features: bool
    """Whether it reads the features of the energy network."""
    n_steps: int
    """Steps, about 15 minutes."""


ROWS: Final = {
    "own network, four layers": Row(4, False, 970),
    "decoder, two layers": Row(2, True, 1290),
}


class ReadingEmbedding(nn.Module):
    """Element embedding of the structure network, to which the features of the energy network are added."""

    def __init__(self, embedding: nn.Module, n_features: int, channels: int):
        super().__init__()
        self.embedding = embedding
        self.read = nn.Sequential(nn.LayerNorm(n_features), nn.Linear(n_features, channels))
        self.features: Tensor | None = None
        """Features [molecules, slots, features] of the next batch."""

    def forward(self, atomic_numbers: Tensor) -> Tensor:
        """Features [molecules, slots, channels] before the first layer."""
        assert self.features is not None
        return self.embedding(atomic_numbers) + self.read(self.features)


class DecoderModel(PhysCon):
    """PhysCon whose structure network reads the features of its energy network."""

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **settings)
        assert self.structure is not None
        n_features, channels = self.config.encoder.channels, self.structure.config.channels
        reading = ReadingEmbedding(self.structure.embedding, n_features, channels)
        self.structure.embedding = reading  # pyright: ignore[reportAttributeAccessIssue]

    def denoiser(self, level: str) -> Denoiser:
        """The structure network, which reads the features of this level."""
        return self._with_features(super().denoiser(level), Levels((level,)))

    def denoiser_at(self, level_index: Tensor) -> Denoiser:
        """The same with a level for each molecule."""
        return self._with_features(super().denoiser_at(level_index), self._levels_present(level_index))

    def _with_features(self, denoiser: Denoiser, levels: Levels) -> Denoiser:
        assert self.structure is not None
        embedding = self.structure.embedding

        def reading(batch: Batch, sigma: Tensor) -> Tensor:
            with torch.no_grad():
                embedding.features = encoder_features(self, batch, levels)
            return denoiser(batch, sigma)

        return reading


def encoder_features(model: PhysCon, batch: Batch, levels: Levels) -> Tensor:
    """Scalar features [molecules, slots, channels] of the energy network after its last layer."""
    network = model.energy
    pairs = make_pairs(batch, model.config.encoder.cutoff)
    overlap = model.core.overlap(batch, pairs)
    basis = pair_products(*network.pair_functions(pairs, None if overlap is None else fade_in(overlap)))
    scalars, vectors = network.embedded(batch, levels), None
    for layer, interaction in enumerate(network.layers):
        if network.is_charged_before(layer):
            assert network.charge_effect is not None
            charges = network.charges(0, scalars, batch, network.charge_groups(batch, pairs))
            scalars, _ = network.charge_effect(scalars, charges.partial)
        scalars, vectors = interaction(basis, scalars, vectors, pairs.neighbours)
    return scalars


def energy_network(folder: Path) -> Path:
    """The shipped checkpoint without its structure network, in `folder`."""
    stored, target = read_checkpoint("physcon-2"), folder / "energy-network"
    tensors = {name: value for name, value in stored.tensors.items() if not name.startswith("structure.")}
    save_checkpoint(target, tensors, {**stored.config, "structure": None})
    return target


def trained_row(name: str, stores: Path, folder: Path) -> Path:
    """The checkpoint of a row."""
    row, recipe = ROWS[name], read_recipe(RECIPE)
    assert recipe.structure is not None
    recipe = replace(
        recipe,
        name=name.replace(" ", "-").replace(",", ""),
        structure=replace(recipe.structure, n_layers=row.n_layers),
        optim=replace(recipe.optim, steps=row.n_steps),
        start_from=(str(energy_network(folder)),),
    )
    options = RunOptions(validate_steps=500, validation_molecules=200)
    with mock.patch.object(start, "PhysCon", DecoderModel if row.reads_features else PhysCon):
        return trained(recipe, folder, stores, options=options)


def milliseconds(name: str, checkpoint: Path, stores: Path) -> float:
    """Time of an evaluation of the structure network per molecule, for about 30 molecules of QM9 together."""
    stored = read_checkpoint(checkpoint)
    model = (DecoderModel if ROWS[name].reads_features else PhysCon)(config_from_dict(stored.config))
    load_into(model, stored.tensors)
    model.eval().requires_grad_(False)
    qm9 = [replace(data, max_molecules=100) for data in read_recipe(RECIPE).data if data.levels == ("b3lyp",)]
    items = load_items(qm9, model.level_names, "validation", root=stores, with_graph=True)
    batch = next(evaluation_batches(items, atoms_per_batch=600)).batch
    noisy, sigma = with_positions(batch, batch.positions + 0.1), torch.full((len(batch),), 0.1)
    denoiser, times = model.denoiser("b3lyp"), []
    for _ in range(20):
        begin = time.perf_counter()
        denoiser(noisy, sigma)
        times.append(time.perf_counter() - begin)
    return 1000 * sorted(times)[len(times) // 2] / len(batch)


def table(rows: Sequence[str], checkpoints: Sequence[Path], stores: Path) -> str:
    """Time and errors of each row at the end of its training."""
    lines = []
    for name, checkpoint in zip(rows, checkpoints, strict=True):
        log = log_of(checkpoint)
        last = {line["sigma"]: line for line in log if line.get("validation") == "structure"}
        refinement = [line["refinement"] for line in log if "refinement" in line][-5:]
        if not lines:
            sigmas = " | ".join(f"σ = {sigma} Å" for sigma in last)
            lines = [
                f"| row | steps | processor time [s] | evaluation [ms] | refinement loss | {sigmas} |",
                f"| --- |{' ---: |' * (4 + len(last))}",
            ]
        final = next(iter(last.values()))
        errors = " | ".join(f"{line['rmsd']:.4f}" for line in last.values())
        lines.append(
            f"| {name} | {final['step']} | {final['cpu_seconds']:.0f} | {milliseconds(name, checkpoint, stores):.2f} "
            f"| {sum(refinement) / len(refinement):.3f} | {errors} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the study and returns the exit code of `physcon_ase.cli`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", type=Path, default=Path(), help="folder of the stores (default: here)")
    parser.add_argument("--folder", type=Path, default=Path("runs", "structure-decoder"), help="default: %(default)s")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), metavar="ROW", help="default: all")
    options = parser.parse_args(arguments)

    def run() -> int:
        check_rows(options.rows, list(ROWS))
        print(
            table(
                options.rows, [trained_row(row, options.stores, options.folder) for row in options.rows], options.stores
            )
        )
        return 0

    return exit_code("run.py", run)


if __name__ == "__main__":
    sys.exit(main())
