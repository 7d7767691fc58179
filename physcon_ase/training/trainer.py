"""Training of a model with a recipe; can be interrupted and continued at any time."""

import copy
import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed
from torch import Tensor, nn
from tqdm import tqdm

from physcon_ase.data.labels import (
    format_label_report,
    label_report,
)
from physcon_ase.data.loader import Items, epoch_batches, load_items, move_items, n_batches
from physcon_ase.data.sample import LabelledBatch
from physcon_ase.data.selection import DataSet
from physcon_ase.errors import LabelError, RecipeError
from physcon_ase.jobs.journal import output_lock
from physcon_ase.jobs.progress import is_terminal
from physcon_ase.model.checkpoint import check_replaceable, load_into, save_checkpoint
from physcon_ase.model.config import LevelConfig, ModelConfig, config_to_dict
from physcon_ase.model.physcon import PhysCon, usable_device
from physcon_ase.plurals import counted
from physcon_ase.training.evaluate import evaluate_denoising, evaluate_energies
from physcon_ase.training.losses.terms import active_terms, compute_losses, trains
from physcon_ase.training.optim import Optimizer, WeightAverage, learning_rate
from physcon_ase.training.preflight import check_labels, check_teachers
from physcon_ase.training.processes import average_gradients, processes
from physcon_ase.training.provenance import file_sum, provenance
from physcon_ase.training.recipe import Recipe
from physcon_ase.training.recipe_files import format_recipe, parse_recipe
from physcon_ase.training.start import bias_weighted_items, known_levels, make_model
from physcon_ase.training.state import STATE_FILE, Origin, TrainingProgress, load_state, save_state

LOG_FILE = "log.jsonl"
"""Name of the log in the folder of a run: one JSON object per line; null for what is not a finite number."""

_SAME_REFERENCE = 1e-6
"""Difference [eV] between references of the same stores on other machines, which round differently."""


@dataclass(frozen=True)
class RunOptions:
    """Options that do not change the result of a training."""

    save_minutes: float = 3.0
    """Minutes between saved states."""
    log_steps: int = 100
    """Steps between lines of the log."""
    validate_steps: int = 5000
    """Steps between validations."""
    validation_molecules: int = 200
    """Molecules per data set in a validation."""
    progress_bar: bool = True
    """Whether to show a progress bar on a terminal."""


def train(
    recipe: Recipe,
    folder: Path | str,
    *,
    store_root: Path | str = ".",
    device: torch.device | str = "cpu",
    options: RunOptions | None = None,
) -> Path:
    """Trains a model, or continues an interrupted training in the same folder.

    With ``torchrun``, the batches of each step are distributed over the processes.

    Args:
        recipe: what to train on what.
        folder: folder of state, log and checkpoint.
        store_root: folder that relative store paths of the recipe refer to.
        device: device of the model; data and noise are the same on all devices.
        options: intervals of saving, logging and validation.

    Returns:
        The folder of the checkpoint, `folder` / recipe name.

    Raises:
        RecipeError: the folder holds the state of another recipe, of another number of processes, of more steps, or of
            other stores or start checkpoints.
        LabelError: a weighted loss has no label in the whole data set, or a gradient is not finite.
        StoreError: a store is missing or cannot be read, or another training is running in the folder.
        UnsupportedChargeError: the data hold open-shell molecules, or charged ones without `encoder.charged`.
        PhysConError: the device cannot be used, or the folder of the checkpoint holds something else.
    """
    options = options or RunOptions()
    device = usable_device(device)
    folder = Path(folder)
    check_replaceable(folder / recipe.name)
    folder.mkdir(parents=True, exist_ok=True)
    with processes() as (rank, world_size), output_lock(folder / STATE_FILE, "writing") if rank == 0 else nullcontext():
        return _Training(recipe, folder, Path(store_root), device, options, rank, world_size).run()


class _Training:
    """One process of a training."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        store_root: Path,
        device: torch.device,
        options: RunOptions,
        rank: int,
        world_size: int,
    ):
        self.recipe, self.folder, self.options = recipe, folder, options
        self.store_root, self.device = store_root, device
        self.rank, self.world_size = rank, world_size
        self.items = load_training_items(recipe, store_root, "train")
        self.stores = {store: file_sum(store_root / store) for store in sorted({data.store for data in recipe.data})}
        rows = label_report(self.items)
        if rank == 0:
            tqdm.write(format_label_report(rows))
        check_labels(recipe, self.items)
        check_teachers(recipe, self.items, known_levels(recipe))
        self.items = bias_weighted_items(recipe, self.items)
        self.model = make_model(recipe, self.items).to(device)
        self.items = move_items(self.items, device)
        self.average = WeightAverage(self.model, recipe.optim.ema)
        self.optimizer = Optimizer(self.model, recipe.optim)
        own = [data for data in recipe.data if not data.borrow_forces_from]  # lent labels are no measure of errors
        validation = replace(recipe, data=tuple(_limited(data, options.validation_molecules) for data in own))
        self.validation = move_items(load_training_items(validation, store_root, "validation"), device)
        self.progress = TrainingProgress()
        if (folder / STATE_FILE).exists():
            self.progress, origin = load_state(folder, self.model, self.average, self.optimizer)
            _check_same_recipe(recipe, origin.recipe, folder)
            _check_same_stores(self.stores, origin.stores, folder)
            _check_same_model(self.model.config, origin.config, folder)
            _check_same_processes(self.progress, world_size, folder)
            _check_steps(self.progress, recipe, folder)
        self.progress = replace(self.progress, n_processes=world_size)

    def run(self) -> Path:
        optim, saved_at, losses = self.recipe.optim, time.monotonic(), []
        names = [term.name for term in active_terms(self.recipe.loss)]
        cpu_before = self.progress.cpu_seconds - time.process_time()
        if self.rank == 0:
            _cut_log(self.folder / LOG_FILE, self.progress.step)
        self._began, self._first_step = time.monotonic(), self.progress.step
        bar = tqdm(
            total=optim.steps,
            initial=self.progress.step,
            disable=self.rank > 0 or not self.options.progress_bar or not is_terminal(),
            unit="step",
        )
        if (
            self.recipe.start_from and self.progress.step == 0
        ):  # what the training does to levels that are known already
            self._validate(bar)
        before = self.progress
        for labelled in self._batches():
            step = self.progress.step
            try:
                losses.append(self._step(labelled, step))
            except LabelError:
                self.progress = before
                self._save()
                raise
            self.progress = replace(self.progress, step=step + 1, cpu_seconds=cpu_before + time.process_time())
            bar.update()
            if (step + 1) % self.options.log_steps == 0:
                means = torch.stack(losses).mean(dim=0).tolist()
                self._log(bar, dict(zip(names, means, strict=True)))
                self._print_progress(bar, dict(zip(names, means, strict=True)))
                losses = []
            if (step + 1) % self.options.validate_steps == 0 and step + 1 < optim.steps:
                self._validate(bar)
            if time.monotonic() - saved_at > 60 * self.options.save_minutes:
                self._save()
                saved_at = time.monotonic()
            before = self.progress
        self._save()
        self._validate(bar)
        bar.close()
        return self._export()

    def _batches(self) -> Iterator[LabelledBatch]:
        """Batches until the last step; keeps `progress` pointing at the next one."""
        size = {"atoms_per_batch": self.recipe.optim.atoms_per_batch, "world_size": self.world_size}
        count = n_batches(self.items, **size)
        while self.progress.step < self.recipe.optim.steps:
            epoch, start = self.progress.epoch, self.progress.batch
            if start >= count:  # no batch would ever come
                raise RecipeError(
                    f"{self.folder} stopped at batch {start} of an epoch that now has {count}: the stores or the "
                    f"number of processes have changed; restore them, or delete {STATE_FILE} there to begin anew"
                )
            batches = epoch_batches(self.items, seed=self.recipe.seed, epoch=epoch, rank=self.rank, start=start, **size)
            for done, labelled in enumerate(batches, start=start + 1):
                ended = done == count
                self.progress = replace(self.progress, epoch=epoch + ended, batch=0 if ended else done)
                yield labelled
                if self.progress.step >= self.recipe.optim.steps:
                    return

    def _step(self, labelled: LabelledBatch, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step * self.world_size + self.rank)
        terms = compute_losses(self.model, labelled, self.recipe, generator=generator)
        self.optimizer.zero_grad()
        total = torch.stack(list(terms.values())).sum()
        if total.requires_grad:  # not so if the batch has no label that the recipe trains on
            total.backward()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        average_gradients(trained, self.world_size)
        norm = nn.utils.clip_grad_norm_(trained, self.recipe.optim.clip)
        if not norm.isfinite():
            raise LabelError(_not_finite(norm.item(), labelled, step, self.folder))
        self.optimizer.step(learning_rate(self.recipe.optim, step))
        self.average.update(self.model, step)
        return torch.stack([value.detach() for value in terms.values()])

    def _validate(self, bar: tqdm) -> None:
        if self.rank > 0:
            return
        model, weights = self._averaged_model(), self.recipe.loss
        if trains(weights, "energies"):
            for row in evaluate_energies(model, self.validation):
                errors = {"energy_mae": row.energy_mae, "force_mae": row.force_mae}
                if weights.direct_forces > 0:
                    errors["direct_force_mae"] = row.direct_force_mae
                self._report(bar, {"validation": row.level, **errors})
        if trains(weights, "structures"):
            for sigma, rmsd in evaluate_denoising(model, self.validation).items():
                self._report(bar, {"validation": "structure", "sigma": sigma, "rmsd": rmsd})

    def _report(self, bar: tqdm, entries: dict) -> None:
        self._log(bar, entries)
        shown = "  ".join(f"{key} {value:.4f}" if isinstance(value, float) else value for key, value in entries.items())
        tqdm.write(f"step {self.progress.step:7d}  {shown}")

    def _averaged_model(self) -> PhysCon:
        model = copy.deepcopy(self.model)
        load_into(model, self._averaged_tensors())
        return model.eval()

    def _averaged_tensors(self) -> dict[str, Tensor]:
        """All tensors of a checkpoint, the weights averaged."""
        return {**self.model.state_dict(), **self.average.tensors}

    def _log(self, bar: tqdm, entries: dict) -> None:
        if self.rank > 0:
            return
        finite = {
            key: None if isinstance(own, float) and not math.isfinite(own) else own for key, own in entries.items()
        }
        with open(self.folder / LOG_FILE, "a") as file:
            file.write(json.dumps({**asdict(self.progress), **finite}, allow_nan=False) + "\n")
        bar.set_postfix({key: f"{value:.3f}" for key, value in entries.items() if isinstance(value, float)})

    def _print_progress(self, bar: tqdm, losses: dict[str, float]) -> None:
        """One line instead of the bar, for log files."""
        if not (bar.disable and self.options.progress_bar) or self.rank > 0:
            return
        step, steps = self.progress.step, self.recipe.optim.steps
        rate = (step - self._first_step) / (time.monotonic() - self._began)
        left = timedelta(seconds=round((steps - step) / rate))
        shown = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
        print(f"step {step:7d} of {steps}  {shown}  {rate:.3g} steps/s, {left} left", file=sys.stderr, flush=True)

    def _save(self) -> None:
        if self.rank == 0:
            origin = Origin(format_recipe(self.recipe), self.stores, self.model.config)
            save_state(self.folder, self.progress, origin, self.model, self.average, self.optimizer)

    def _export(self) -> Path:
        target = self.folder / self.recipe.name
        if self.rank == 0:
            config = config_to_dict(self.model.config)
            save_checkpoint(
                target,
                self._averaged_tensors(),
                config,
                recipe=format_recipe(self.recipe),
                provenance=provenance(self.recipe, self.stores, self.progress, self.device),
            )
        return target


def load_training_items(recipe: Recipe, store_root: Path, split: str) -> Items:
    """The items of a split that a recipe uses."""
    levels = tuple(level.name for level in recipe.levels)
    return load_items(recipe.data, levels, split, root=store_root, with_graph=trains(recipe.loss, "structures"))


def _cut_log(path: Path, step: int) -> None:
    """Removes what an interrupted run wrote after its last saved state, which is about to be done again."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith(b"\n") and step > 0 and json.loads(line)["step"] <= step]
    if kept != lines:
        replaced = path.with_name(f"{path.name}.partial")
        replaced.write_bytes(b"".join(kept))
        replaced.replace(path)


def _limited(data: DataSet, molecules: int) -> DataSet:
    return replace(data, max_molecules=min(data.max_molecules or molecules, molecules))


def _check_same_recipe(recipe: Recipe, saved: str, folder: Path) -> None:
    """Only the length of a training may change while it runs: the decay then starts earlier or later.

    Checkpoints to start from may have moved: they are read before the first step only.
    """
    before = parse_recipe(saved, str(folder / STATE_FILE))
    optim = replace(before.optim, steps=recipe.optim.steps, decay=recipe.optim.decay)
    unchanged = replace(before, optim=optim, start_from=recipe.start_from)
    if recipe != unchanged:
        raise RecipeError(
            f"{folder} holds the state of another recipe; train into another folder, or delete {STATE_FILE} there"
        )


def _check_same_stores(sums: dict[str, str], saved: dict[str, str] | None, folder: Path) -> None:
    """The order of the data depends on the stores, and the provenance of the checkpoint names one version of each."""
    changed = [store for store, found in sums.items() if saved is not None and saved[store] != found]
    if changed:
        raise RecipeError(
            f"{folder} holds the state of a training on other data: {', '.join(changed)} changed since its first step; "
            f"restore what was there, train into another folder, or delete {STATE_FILE} there to begin anew"
        )


def _check_same_model(config: ModelConfig, saved: ModelConfig | None, folder: Path) -> None:
    """Weights only fit the references, elements and charges that they were trained with."""
    if saved is None:  # a state of before
        return
    changed = [
        f"level {own.name!r}" for own, old in zip(config.levels, saved.levels, strict=True) if not _same_level(own, old)
    ]
    if replace(config, levels=()) != replace(saved, levels=()):
        changed.append("tables of uncertainty")
    if changed:
        raise RecipeError(
            f"{folder} holds the state of a training from other checkpoints: atomic reference energies, elements, "
            f"charges or tables differ now ({', '.join(changed)}), so the checkpoints to start from have changed; "
            f"restore them, train into another folder, or delete {STATE_FILE} there to begin anew"
        )


def _same_level(own: LevelConfig, old: LevelConfig) -> bool:
    if replace(own, references=()) != replace(old, references=()):
        return False
    return all(abs(a - b) <= _SAME_REFERENCE for a, b in zip(own.references, old.references, strict=True))


def _not_finite(norm: float, labelled: LabelledBatch, step: int, folder: Path) -> str:
    """The error of a gradient that would turn all weights into NaN."""
    batch = labelled.batch
    pairs = batch.atom_mask[:, :, None] & batch.atom_mask[:, None, :]
    pairs &= ~torch.eye(pairs.shape[1], dtype=torch.bool, device=pairs.device)
    lines = batch.positions[:, :, None] - batch.positions[:, None]  # not `cdist`, which rounds short distances away
    distances = lines.norm(dim=-1).masked_fill(~pairs, math.inf)
    return (
        f"step {step + 1}: the norm of the gradient is {norm}, it must be finite; the closest atoms of the batch are "
        f"{distances.min():.3g} Å apart. Look in the stores for geometries with overlapping atoms and for labels that "
        f"are far too large, and remove them. {folder / STATE_FILE} is the state before this step"
    )


def _check_steps(progress: TrainingProgress, recipe: Recipe, folder: Path) -> None:
    """A checkpoint is that of as many steps as its recipe has."""
    if progress.step > recipe.optim.steps:
        raise RecipeError(
            f"{folder} holds the state after {counted(progress.step, 'step')}, more than the {recipe.optim.steps} of "
            f"the recipe; give as many or more, train into another folder, or delete {STATE_FILE} there to begin anew"
        )


def _check_same_processes(progress: TrainingProgress, n_processes: int, folder: Path) -> None:
    if progress.n_processes not in (0, n_processes):
        raise RecipeError(
            f"{folder} holds the state of a training by {counted(progress.n_processes, 'process', 'processes')}, now "
            f"there are {n_processes}, which would see the data in another order; start it as before (torchrun "
            f"--nproc-per-node={progress.n_processes}), or train into another folder"
        )
