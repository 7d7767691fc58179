"""Initial model of a training: random weights, fitted atomic references, and weights of start checkpoints."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor
from tqdm import tqdm

from physcon_ase.data.labels import charges_at, elements_at, fit_references, has_energies
from physcon_ase.data.loader import Bucket, Items, take
from physcon_ase.errors import RecipeError
from physcon_ase.model.checkpoint import Checkpoint, read_checkpoint
from physcon_ase.model.config import LevelConfig, ModelConfig, config_from_dict
from physcon_ase.model.physcon import TABLES, PhysCon, load_model
from physcon_ase.training.losses.asteroid import bias_weights
from physcon_ase.training.losses.multitask import predict
from physcon_ase.training.losses.terms import trains
from physcon_ase.training.preflight import check_likeness, check_recipe
from physcon_ase.training.recipe import LevelRecipe, LossRecipe, Recipe
from physcon_ase.units import CHEMICAL_SYMBOLS

_JUDGED_SLOTS = 2048

_OF_LEVEL: Final = ("energy.rows", "energy.heads", "direct_heads")
"""What the names of the parameters of a single level begin with, before its name."""


def make_model(recipe: Recipe, items: Items) -> PhysCon:
    """A model with random weights and fitted references, or those of `recipe.start_from` as far as available.

    Tables of uncertainty are taken over for levels that are not trained, the table of environments always.

    Raises:
        RecipeError: a checkpoint shares no parameter with the model, `optim.train` names no part of it, or a level has
            no energies to fit references to.
    """
    sources = _sources(recipe)
    # Weights are only valid with the references that they were trained with.
    known = {
        level.name: level for source, part in sources if not part for level in config_from_dict(source.config).levels
    }
    check_likeness(recipe)
    levels: dict[str, LevelConfig] = {}
    for entry in recipe.levels:
        alike = levels.get(entry.like, known.get(entry.like))
        levels[entry.name] = _level_config(entry, known.get(entry.name), alike, items, recipe.loss)
    config = ModelConfig(levels=tuple(levels.values()), encoder=recipe.encoder, structure=recipe.structure)
    base = _base(recipe, sources)
    if base is not None:
        config = _with_tables(config, recipe, base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = PhysCon(config)
    taken = {name for source, part in sources for name in _take_over(model, source, part)}
    for entry in recipe.levels:
        if entry.like:
            _begin_like(model, entry, taken)
    if base is not None:
        for name, buffer in model.named_buffers():
            if name.startswith(TABLES):
                buffer.copy_(base.tensors[name])
    if recipe.optim.train:
        _check_parts(recipe, [name for name, _ in model.named_parameters()])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(recipe.optim.train))
    return model


def _check_parts(recipe: Recipe, names: Sequence[str]) -> None:
    """Refuses parts to train that the model does not have."""
    for prefix in recipe.optim.train:
        if not any(name.startswith(prefix) for name in names):
            first = prefix.partition(".")[0]
            inner = dict.fromkeys(name.split(".")[1] for name in names if name.startswith(f"{first}."))
            hint = f"; those of {first} are {', '.join(f'{first}.{part}' for part in inner)}" if inner else ""
            raise RecipeError(
                f"recipe {recipe.name}: optim.train has {prefix!r}, with which the name of no parameter begins; the "
                f"parts of the model are {', '.join(dict.fromkeys(name.split('.')[0] for name in names))}{hint}"
            )


def _base(recipe: Recipe, sources: Sequence[tuple[Checkpoint, str]]) -> Checkpoint | None:
    """The checkpoint that the whole energy network is taken from."""
    of_energies = [(source, part) for source, part in sources if part.partition(".")[0] != "structure"]
    if not of_energies or of_energies[-1][1]:
        return None
    source = of_energies[-1][0]
    return source if config_from_dict(source.config).encoder == recipe.encoder else None


def _with_tables(config: ModelConfig, recipe: Recipe, base: Checkpoint) -> ModelConfig:
    """The configuration with the tables of `base` that stay right: those of levels that are not trained.

    The environments of the molecules that it was trained on stay known in any case.
    """
    old = config_from_dict(base.config)
    kept = [name for name in old.energy_uncertainty + old.forces_uncertainty if _is_frozen(name, recipe, base)]
    kept = [level.name for level in config.levels if level.name in kept]
    return replace(
        config,
        energy_uncertainty=tuple(name for name in kept if name in old.energy_uncertainty),
        forces_uncertainty=tuple(name for name in kept if name in old.forces_uncertainty),
        n_environments=old.n_environments,
    )


def _is_frozen(level: str, recipe: Recipe, base: Checkpoint) -> bool:
    """Whether the training leaves all weights of `base` that the energies of a level depend on."""
    own, per_level = (f"energy.rows.{level}.", f"energy.heads.{level}."), ("energy.rows.", "energy.heads.")
    names = [name for name in base.tensors if name.startswith("energy.")]
    names = [name for name in names if name.startswith(own) or not name.startswith(per_level)]
    return bool(recipe.optim.train) and not any(name.startswith(recipe.optim.train) for name in names)


def _sources(recipe: Recipe) -> list[tuple[Checkpoint, str]]:
    """The checkpoints to start from, and what the names of the parameters that are taken begin with."""
    entries = [entry.partition("#") for entry in recipe.start_from]
    return [(read_checkpoint(name), part) for name, _, part in entries]


def known_levels(recipe: Recipe) -> set[str]:
    """Levels of theory of the checkpoints that a recipe starts from."""
    return {name for source, part in _sources(recipe) if not part for name in _level_names(source)}


def _level_names(source: Checkpoint) -> list[str]:
    return [level.name for level in config_from_dict(source.config).levels]


def _level_config(
    entry: LevelRecipe, old: LevelConfig | None, alike: LevelConfig | None, items: Items, weights: LossRecipe
) -> LevelConfig:
    """The level with the references that it has already; those of other elements are fitted to the energies.

    Without energies they are those of the level that it begins like.
    """
    references, charges = _references(old), charges_at(items, entry.name)
    if has_energies(items, entry.name):
        references = fit_references(items, entry.name, references)
    elif old is None and not trains(weights, "energies"):  # a structure network needs the elements alone
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
    """Copies row and heads of another level, unless a checkpoint had those of the level itself."""
    parameters = dict(model.named_parameters())
    for part in _OF_LEVEL:
        prefix = f"{part}.{entry.name}."
        for name in [name for name in parameters if name.startswith(prefix) and name not in taken]:
            parameters[name].copy_(parameters[f"{part}.{entry.like}.{name.removeprefix(prefix)}"])


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


def bias_weighted_items(recipe: Recipe, items: Items) -> Items:
    """The items with the weights of borrowed labels reduced by their bias, as `recipe.asteroid` asks."""
    if recipe.asteroid is None or not recipe.asteroid.checkpoint:
        return items
    judge, gamma = load_model(recipe.asteroid.checkpoint).model, recipe.asteroid.gamma
    borrowed = torch.tensor([bool(data.borrow_forces_from) for data in recipe.data])
    buckets = tuple(
        _bias_weighted(bucket, borrowed[bucket.source.long()], items.levels, judge, gamma) for bucket in items.buckets
    )
    return replace(items, buckets=buckets)


def _bias_weighted(bucket: Bucket, borrowed: Tensor, levels: Sequence[str], judge: PhysCon, gamma: float) -> Bucket:
    weight, rows = bucket.weight.clone(), borrowed.nonzero().squeeze(1)
    for chosen in rows.split(max(1, _JUDGED_SLOTS // bucket.n_slots)):
        labelled = take(bucket, chosen.numpy())
        names = [judge.level(levels[int(index)]).name for index in labelled.level]
        own = torch.tensor([judge.level_names.index(name) for name in names])
        forces = predict(judge, replace(labelled, level=own), create_graph=False).forces
        assert forces is not None
        weight[chosen] *= bias_weights(forces, labelled, gamma)
    return replace(bucket, weight=weight)


def added_to(recipe: Recipe, checkpoint: str, config: ModelConfig, *, frozen: bool = True) -> Recipe:
    """The recipe that adds the levels of `recipe` to a checkpoint.

    Args:
        recipe: recipe of the new levels; data, losses and schedule are used, encoder and structure network are not.
        checkpoint: name or folder of the checkpoint.
        config: configuration of the checkpoint.
        frozen: whether the row and the heads of the new levels alone are trained, so that nothing else changes and the
            uncertainties of the other levels are kept.

    Raises:
        RecipeError: the checkpoint has one of the levels already.
    """
    old = tuple(LevelRecipe(level.name, level.description) for level in config.levels)
    known = sorted({level.name for level in old} & {level.name for level in recipe.levels})
    if known:
        raise RecipeError(f"{checkpoint} has level {', '.join(known)} already; a level to be added needs another name")
    parts = _OF_LEVEL if config.encoder.output_vectors else _OF_LEVEL[:2]
    own = [f"{part}.{level.name}." for level in recipe.levels for part in parts]
    added = replace(
        recipe,
        levels=(*old, *recipe.levels),
        encoder=config.encoder,
        structure=config.structure,
        start_from=(checkpoint,),
        optim=replace(recipe.optim, train=tuple(own) if frozen else recipe.optim.train),
    )
    check_recipe(added, recipe.name)
    check_likeness(added)
    return added
