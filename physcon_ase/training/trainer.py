"""`train`: a recipe in, a checkpoint out; resumable at any moment."""

import copy
import json
import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.distributed
from torch import Tensor, nn
from tqdm import tqdm

from physcon_ase.data.labels import (
    charges_at,
    elements_at,
    fit_references,
    format_label_report,
    has_energies,
    label_report,
)
from physcon_ase.data.loader import Bucket, Items, epoch_batches, load_items, n_batches, take
from physcon_ase.data.sample import LabelledBatch, select
from physcon_ase.data.selection import DataSet
from physcon_ase.errors import LabelError, RecipeError, UnsupportedChargeError
from physcon_ase.model.checkpoint import Checkpoint, load_into, read_checkpoint, save_checkpoint
from physcon_ase.model.config import LevelConfig, ModelConfig, config_from_dict, config_to_dict
from physcon_ase.model.physcon import PhysCon, load_model
from physcon_ase.training.config import LevelRecipe, LossRecipe, Recipe, check_likeness, format_recipe, parse_recipe
from physcon_ase.training.evaluate import evaluate_denoising, evaluate_energies
from physcon_ase.training.losses.asteroid import bias_weights, score_matching_loss
from physcon_ase.training.losses.consistency import optimality_loss, score_loss
from physcon_ase.training.losses.displacement import displacement_loss
from physcon_ase.training.losses.multitask import charge_loss, energy_loss, force_loss, predict
from physcon_ase.training.losses.structure import denoising_loss, refinement_loss
from physcon_ase.training.optim import WeightAverage, learning_rate, make_optimizer, set_learning_rate
from physcon_ase.training.state import STATE_FILE, Progress, load_state, save_state
from physcon_ase.units import CHEMICAL_SYMBOLS

_JUDGED_SLOTS = 2048

_MISSING = {"score_matching": "geometry without force labels"}

LOG_FILE = "log.jsonl"
"""Name of the log in the folder of a run: one JSON object per line."""


@dataclass(frozen=True)
class RunOptions:
    """What does not change the result of a training."""

    save_minutes: float = 3.0
    """Minutes between saved states."""
    log_steps: int = 100
    """Steps between lines of the log."""
    validate_steps: int = 2000
    """Steps between validations."""
    validation_molecules: int = 400
    """Molecules per data set in a validation."""
    progress_bar: bool = True
    """Whether to draw one."""


def train(
    recipe: Recipe, folder: Path | str, *, store_root: Path | str = ".", options: RunOptions | None = None
) -> Path:
    """Trains a model, or goes on with an interrupted training in the same folder.

    Started by ``torchrun`` it shares each step among the processes.

    Args:
        recipe: what to train on what.
        folder: where state, log and checkpoint go.
        store_root: folder that relative store paths of the recipe refer to.
        options: how often to save, log and validate.

    Returns:
        The folder of the checkpoint, `folder` / recipe name.

    Raises:
        RecipeError: the folder holds the state of another recipe or of another number of processes.
        LabelError: a weighted loss has no label in the whole data set.
        UnsupportedChargeError: the data hold open-shell molecules, or charged ones without `encoder.charged`.
    """
    options = options or RunOptions()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _processes() as (rank, world_size):
        return _Training(recipe, folder, Path(store_root), options, rank, world_size).run()


class _Training:
    """One process of a training."""

    def __init__(self, recipe: Recipe, folder: Path, store_root: Path, options: RunOptions, rank: int, world_size: int):
        self.recipe, self.folder, self.options = recipe, folder, options
        self.rank, self.world_size = rank, world_size
        self.items = load_training_items(recipe, store_root, "train")
        rows = label_report(self.items)
        if rank == 0:
            tqdm.write(format_label_report(rows))
        check_labels(recipe, self.items)
        check_teachers(recipe, self.items)
        self.items = judged_items(recipe, self.items)
        self.model = make_model(recipe, self.items)
        self.average = WeightAverage(self.model, recipe.optim.ema)
        self.optimizer = make_optimizer(self.model, recipe.optim)
        own = [data for data in recipe.data if not data.borrow_forces_from]  # lent labels are no measure of errors
        validation = replace(recipe, data=tuple(_limited(data, options.validation_molecules) for data in own))
        self.validation = load_training_items(validation, store_root, "validation")
        self.progress = Progress()
        if (folder / STATE_FILE).exists():
            self.progress, saved = load_state(folder, self.model, self.average, self.optimizer)
            _check_same_recipe(recipe, saved, folder)
            _check_same_processes(self.progress, world_size, folder)
        self.progress = replace(self.progress, n_processes=world_size)

    def run(self) -> Path:
        optim, saved_at, losses = self.recipe.optim, time.monotonic(), []
        cpu_before = self.progress.cpu_seconds - time.process_time()
        bar = tqdm(
            total=optim.steps,
            initial=self.progress.step,
            disable=self.rank > 0 or not self.options.progress_bar,
            unit="step",
        )
        if (
            self.recipe.start_from and self.progress.step == 0
        ):  # what the training does to levels that are known already
            self._validate(bar)
        for labelled in self._batches():
            step = self.progress.step
            losses.append(self._step(labelled, step))
            self.progress = replace(self.progress, step=step + 1, cpu_seconds=cpu_before + time.process_time())
            bar.update()
            if (step + 1) % self.options.log_steps == 0:
                means = torch.stack(losses).mean(dim=0).tolist()
                self._log(bar, dict(zip(_active_terms(self.recipe), means, strict=True)))
                losses = []
            if (step + 1) % self.options.validate_steps == 0 and step + 1 < optim.steps:
                self._validate(bar)
            if time.monotonic() - saved_at > 60 * self.options.save_minutes:
                self._save()
                saved_at = time.monotonic()
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
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.stack(list(terms.values())).sum()
        if total.requires_grad:  # not so if the batch has no label that the recipe trains on
            total.backward()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        _average_gradients(trained, self.world_size)
        nn.utils.clip_grad_norm_(trained, self.recipe.optim.clip)
        set_learning_rate(self.optimizer, learning_rate(self.recipe.optim, step))
        self.optimizer.step()
        self.average.update(self.model, step)
        return torch.stack([value.detach() for value in terms.values()])

    def _validate(self, bar: tqdm) -> None:
        if self.rank > 0:
            return
        model, weights = self._averaged_model(), self.recipe.loss
        if weights.trains_energies:
            for row in evaluate_energies(model, self.validation):
                errors = {"energy_mae": row.energy_mae, "force_mae": row.force_mae}
                if weights.direct_forces > 0:
                    errors["direct_force_mae"] = row.direct_force_mae
                self._report(bar, {"validation": row.level, **errors})
        if weights.trains_structures:
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
        with open(self.folder / LOG_FILE, "a") as file:
            file.write(json.dumps({**asdict(self.progress), **entries}) + "\n")
        bar.set_postfix({key: f"{value:.3f}" for key, value in entries.items() if isinstance(value, float)})

    def _save(self) -> None:
        if self.rank == 0:
            save_state(self.folder, self.progress, format_recipe(self.recipe), self.model, self.average, self.optimizer)

    def _export(self) -> Path:
        target = self.folder / self.recipe.name
        if self.rank == 0:
            config = config_to_dict(self.model.config)
            save_checkpoint(target, self._averaged_tensors(), config, recipe=format_recipe(self.recipe))
        return target


def load_training_items(recipe: Recipe, store_root: Path, split: str) -> Items:
    """The items of a split that a recipe uses."""
    levels = tuple(level.name for level in recipe.levels)
    return load_items(recipe.data, levels, split, root=store_root, with_graph=recipe.loss.trains_structures)


def check_labels(recipe: Recipe, items: Items) -> None:
    """Refuses a weighted loss that would meet no label in the whole data set, and what no model can learn from.

    Raises:
        LabelError: names the term.
        UnsupportedChargeError: open-shell molecules, or charged ones for a model that does not see the charge.
    """
    if len(items) == 0:
        raise LabelError(
            f"recipe {recipe.name}: no training data are left after the split and the choice of kinds and levels"
        )
    n_radicals = sum(int((bucket.multiplicity != 1).sum()) for bucket in items.buckets)
    if n_radicals:
        raise UnsupportedChargeError(
            f"recipe {recipe.name}: {n_radicals} of {len(items)} items are open-shell; the model does not see the spin "
            "and would mix them with singlets: leave them out of the stores"
        )
    n_ions = sum(int((bucket.charge != 0).sum()) for bucket in items.buckets)
    if n_ions and not recipe.encoder.charged:
        raise UnsupportedChargeError(
            f"recipe {recipe.name}: {n_ions} of {len(items)} items are charged, which the model would mix with neutral "
            "ones; set encoder.charged = true, or leave them out of the stores"
        )
    found = {
        "energy": any(bucket.energy.isfinite().any() for bucket in items.buckets),
        "charges": any(bucket.charges.isfinite().all(dim=1).any() for bucket in items.buckets),
        "forces": any(bucket.forces[:, 0].isfinite().all(dim=1).any() for bucket in items.buckets),
        "structure": any(bucket.is_minimum.any() for bucket in items.buckets),
    }
    found["direct_forces"] = found["displacement"] = found["forces"]
    found["score_matching"] = any(bucket.forces[:, 0].isnan().any() for bucket in items.buckets)
    found["refinement"] = found["optimality"] = found["score"] = found["structure"]
    for term, present in found.items():
        weight = getattr(recipe.loss, term)
        if weight > 0 and not present:
            missing = _MISSING.get(term, f"{term} label")
            raise LabelError(
                f"recipe {recipe.name}: loss.{term} = {weight}, but the data have no {missing}; "
                "add such data or set it to 0"
            )


def check_teachers(recipe: Recipe, items: Items) -> None:
    """Refuses consistency with, and guidance by, an energy that nothing has taught its derivative.

    Raises:
        LabelError: names the term and the level.
    """
    trained = {level for source, part in _sources(recipe) if not part for level in _level_names(source)}
    if recipe.loss.forces > 0 or recipe.loss.displacement > 0:
        with_forces = [bucket.level[bucket.forces[:, 0].isfinite().all(dim=1)] for bucket in items.buckets]
        trained |= {items.levels[index] for index in torch.cat(with_forces).unique().tolist()}
    for term, section in (("optimality", recipe.optimality), ("score", recipe.score)):
        if section is not None and getattr(recipe.loss, term) > 0 and section.level not in trained:
            raise LabelError(
                f"recipe {recipe.name}: level {section.level!r} is to teach loss.{term}, but no force trains it here "
                "and no checkpoint of start_from has it; add force labels and loss.forces, or a trained checkpoint"
            )
    if recipe.structure is not None and recipe.structure.guided and recipe.loss.trains_structures:
        of_minima = torch.cat([bucket.level[bucket.is_minimum] for bucket in items.buckets]).unique().tolist()
        untaught = sorted({items.levels[index] for index in of_minima} - trained)
        if untaught:
            raise LabelError(
                f"recipe {recipe.name}: the forces of level {', '.join(untaught)} are to guide the structure head, but "
                "no force trains them here and no checkpoint of start_from has them; add one, or unset structure.guided"
            )


def judged_items(recipe: Recipe, items: Items) -> Items:
    """The items with the weights of borrowed labels reduced by their bias, as `recipe.asteroid` asks."""
    if recipe.asteroid is None or not recipe.asteroid.checkpoint:
        return items
    judge, gamma = load_model(recipe.asteroid.checkpoint).model, recipe.asteroid.gamma
    borrowed = torch.tensor([bool(data.borrow_forces_from) for data in recipe.data])
    buckets = tuple(
        _judged(bucket, borrowed[bucket.source.long()], items.levels, judge, gamma) for bucket in items.buckets
    )
    return replace(items, buckets=buckets)


def _judged(bucket: Bucket, borrowed: Tensor, levels: Sequence[str], judge: PhysCon, gamma: float) -> Bucket:
    weight, rows = bucket.weight.clone(), borrowed.nonzero().squeeze(1)
    for chosen in rows.split(max(1, _JUDGED_SLOTS // bucket.n_slots)):
        labelled = take(bucket, chosen.numpy())
        names = [judge.level(levels[int(index)]).name for index in labelled.level]
        own = torch.tensor([judge.level_names.index(name) for name in names])
        forces = predict(judge, replace(labelled, level=own), create_graph=False).forces
        assert forces is not None
        weight[chosen] *= bias_weights(forces, labelled, gamma)
    return replace(bucket, weight=weight)


def _sources(recipe: Recipe) -> list[tuple[Checkpoint, str]]:
    """The checkpoints to start from, and what the names of the parameters that are taken begin with."""
    entries = [entry.partition("#") for entry in recipe.start_from]
    return [(read_checkpoint(name), part) for name, _, part in entries]


def _level_names(source: Checkpoint) -> list[str]:
    return [level.name for level in config_from_dict(source.config).levels]


def make_model(recipe: Recipe, items: Items) -> PhysCon:
    """A model with seeded weights and fitted references, or those of `recipe.start_from` where it has them."""
    sources = _sources(recipe)
    # Weights only fit the references that they were trained with.
    known = {
        level.name: level for source, part in sources if not part for level in config_from_dict(source.config).levels
    }
    check_likeness(recipe)
    levels: dict[str, LevelConfig] = {}
    for entry in recipe.levels:
        alike = levels.get(entry.like, known.get(entry.like))
        levels[entry.name] = _level_config(entry, known.get(entry.name), alike, items, recipe.loss)
    config = ModelConfig(levels=tuple(levels.values()), encoder=recipe.encoder, structure=recipe.structure)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = PhysCon(config)
    taken = {name for source, part in sources for name in _take_over(model, source, part)}
    for entry in recipe.levels:
        if entry.like:
            _begin_like(model, entry, taken)
    if recipe.optim.train:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(recipe.optim.train))
    return model


def compute_losses(
    model: PhysCon, labelled: LabelledBatch, recipe: Recipe, *, generator: torch.Generator
) -> dict[str, Tensor]:
    """Weighted loss terms of a batch, those of weight 0 left out; `generator` draws the noise."""
    weights, terms = recipe.loss, {}
    with_forces, with_direct = weights.forces > 0 or weights.displacement > 0, weights.direct_forces > 0
    if weights.energy > 0 or weights.charges > 0 or with_forces or with_direct:
        found = predict(model, labelled, create_graph=True, forces=with_forces, direct_forces=with_direct)
        if weights.energy > 0:
            terms["energy"] = weights.energy * energy_loss(found, labelled)
        if weights.forces > 0 and found.forces is not None:
            terms["forces"] = weights.forces * force_loss(found.forces, labelled)
        if weights.displacement > 0 and found.forces is not None:
            terms["displacement"] = weights.displacement * displacement_loss(found.forces, labelled)
        if weights.charges > 0:
            terms["charges"] = weights.charges * charge_loss(found, labelled)
        if found.direct_forces is not None:
            terms["direct_forces"] = weights.direct_forces * force_loss(found.direct_forces, labelled)
    if weights.score_matching > 0:
        assert recipe.asteroid is not None
        unlabelled = select(labelled, ~labelled.has_forces)
        energy_fn = model.energy_fn(unlabelled.level)
        terms["score_matching"] = weights.score_matching * (
            score_matching_loss(energy_fn, unlabelled.batch, recipe.asteroid.kt, generator=generator)
            if len(unlabelled)
            else labelled.batch.positions.new_zeros(())
        )
    if weights.trains_structures:
        terms |= _structure_losses(model, labelled, recipe, generator)
    return terms


def _structure_losses(
    model: PhysCon, labelled: LabelledBatch, recipe: Recipe, generator: torch.Generator
) -> dict[str, Tensor]:
    weights, terms = recipe.loss, {}
    minima = select(labelled, labelled.is_minimum)
    if len(minima) == 0:
        nothing = labelled.batch.positions.new_zeros(())
        return {
            name: nothing for name in ("structure", "refinement", "optimality", "score") if getattr(weights, name) > 0
        }
    denoiser = model.denoiser_at(minima.level)
    if weights.structure > 0:
        assert recipe.structure is not None
        loss = denoising_loss(denoiser, minima, recipe.structure, generator=generator)
        terms["structure"] = weights.structure * loss
    if weights.refinement > 0:
        terms["refinement"] = weights.refinement * refinement_loss(denoiser, minima, generator=generator)
    if weights.optimality > 0:
        assert recipe.optimality is not None
        teacher = model.energy_fn(recipe.optimality.level)
        loss = optimality_loss(denoiser, teacher, minima, recipe.optimality, generator=generator)
        terms["optimality"] = weights.optimality * loss
    if weights.score > 0:
        assert recipe.score is not None
        teacher = model.energy_fn(recipe.score.level)
        loss = score_loss(denoiser, teacher, minima, recipe.score, generator=generator)
        terms["score"] = weights.score * loss
    return terms


def _active_terms(recipe: Recipe) -> list[str]:
    return [name for name, weight in asdict(recipe.loss).items() if weight > 0]


def _level_config(
    entry: LevelRecipe, old: LevelConfig | None, alike: LevelConfig | None, items: Items, weights: LossRecipe
) -> LevelConfig:
    """The level with the references that it has already; those of other elements are fitted to the energies.

    Without energies they are those of the level that it begins like.
    """
    references, charges = _references(old), charges_at(items, entry.name)
    if has_energies(items, entry.name):
        references = fit_references(items, entry.name, references)
    elif old is None and not weights.trains_energies:  # a structure network needs the elements alone
        references = dict.fromkeys(elements_at(items, entry.name), 0.0)
    elif old is None:
        elements, borrowed = elements_at(items, entry.name), _references(alike)
        missing = ", ".join(CHEMICAL_SYMBOLS[number] for number in sorted(elements - set(borrowed)))
        if missing:
            raise RecipeError(
                f"level {entry.name!r} has no energies to fit its atomic reference energies to, and begins like no "
                f"level that has those of {missing}; add energies, or leave these molecules out"
            )
        references = {element: borrowed[element] for element in elements}
    energies = tuple(references[element] for element in sorted(references))
    charges = tuple(sorted(charges | set(old.charges if old else ())))
    return LevelConfig(entry.name, entry.description, tuple(sorted(references)), energies, charges)


def _references(level: LevelConfig | None) -> dict[int, float]:
    return {} if level is None else dict(zip(level.elements, level.references, strict=True))


@torch.no_grad()
def _begin_like(model: PhysCon, entry: LevelRecipe, taken: Collection[str]) -> None:
    """Copies row and head of another level, unless a checkpoint had those of the level itself."""
    parameters = dict(model.named_parameters())
    for part in ("rows", "heads"):
        prefix = f"energy.{part}.{entry.name}."
        for name in [name for name in parameters if name.startswith(prefix) and name not in taken]:
            parameters[name].copy_(parameters[f"energy.{part}.{entry.like}.{name.removeprefix(prefix)}"])


def _take_over(model: PhysCon, source: Checkpoint, part: str) -> list[str]:
    """Copies the parameters of a checkpoint whose names begin with `part`, and returns their names."""
    own = {name: value for name, value in model.named_parameters() if name.startswith(part)}
    tensors = {name: value for name, value in source.tensors.items() if name.startswith(part)}
    shared = [name for name, value in tensors.items() if name in own and own[name].shape == value.shape]
    if not shared:
        raise RecipeError(f"start_from: checkpoint {source.name} shares no parameter with the model of this recipe")
    left = [name for name, value in tensors.items() if name in own and own[name].shape != value.shape]
    tqdm.write(f"{source.name}: {len(shared)} of {len(own)} tensors taken over")
    if left:
        tqdm.write(f"{source.name}: {len(left)} have another shape here and were left, such as {left[0]}")
    with torch.no_grad():
        for name in shared:
            own[name].copy_(tensors[name])
    return shared


def _limited(data: DataSet, molecules: int) -> DataSet:
    return replace(data, max_molecules=min(data.max_molecules or molecules, molecules))


def _check_same_recipe(recipe: Recipe, saved: str, folder: Path) -> None:
    """Only the length of a training may change while it runs: the decay then starts earlier or later."""
    before = parse_recipe(saved, str(folder / STATE_FILE))
    unchanged = replace(before, optim=replace(before.optim, steps=recipe.optim.steps, decay=recipe.optim.decay))
    if recipe != unchanged:
        raise RecipeError(
            f"{folder} holds the state of another recipe; train into another folder, or delete {STATE_FILE} there"
        )


def _check_same_processes(progress: Progress, n_processes: int, folder: Path) -> None:
    if progress.n_processes not in (0, n_processes):
        raise RecipeError(
            f"{folder} holds the state of a training by {progress.n_processes} process(es), now there are "
            f"{n_processes}, which would see the data in another order; start it as before (torchrun "
            f"--nproc-per-node={progress.n_processes}), or train into another folder"
        )


def _average_gradients(parameters: list[nn.Parameter], world_size: int) -> None:
    if world_size == 1:
        return
    # A head without a label in this process' batch has no gradient here, but may have one elsewhere. Without one
    # anywhere it must stay without: a gradient of zero would let the optimiser decay its weights.
    present = torch.tensor([float(p.grad is not None) for p in parameters])
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([present, *(gradient.flatten() for gradient in gradients)])
    torch.distributed.all_reduce(flat)
    present, means = flat[: len(parameters)], (flat[len(parameters) :] / world_size)
    for parameter, known, mean in zip(
        parameters, present.tolist(), means.split([p.numel() for p in parameters]), strict=True
    ):
        parameter.grad = mean.view_as(parameter) if known else None


@contextmanager
def _processes() -> Iterator[tuple[int, int]]:
    """Rank and number of processes; joins and leaves the group that ``torchrun`` made, if any."""
    if "RANK" not in os.environ:
        yield 0, 1
        return
    torch.distributed.init_process_group("gloo")
    try:
        yield torch.distributed.get_rank(), torch.distributed.get_world_size()
    finally:
        torch.distributed.destroy_process_group()
