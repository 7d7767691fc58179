"""Learning curves for few accurate force labels: one accurate level together with an inexpensive one.

Every row is a way to train the accurate level on N labelled geometries, with the same number of steps on the same
geometries; rows differ in the initial weights and in the additional data. Errors are those of forces off equilibrium
on held-out molecules, at the accurate level and, for models that have it, at the cheap one. The accurate test molecules
are those of the test and validation splits, since nothing is selected by validation here.

    b3lyp      GFN2-xTB (gfn2_qm9) and B3LYP (data/b3lyp_thermal)
    selfmade   GFN1-xTB and GFN2-xTB, computed by the study; reproducible without stores
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from tqdm import tqdm

from physcon_ase.data.loader import load_items
from physcon_ase.data.selection import ENERGY_LABELS, DataSet, subset_mask
from physcon_ase.data.split import split_mask
from physcon_ase.data.store import (
    LevelLabels,
    Store,
    geometry_offsets,
    molecule_graph,
    open_store,
    select_geometries,
    write_store,
)
from physcon_ase.labelling.engines import Engine, Molecule, tblite_engine
from physcon_ase.model.checkpoint import read_checkpoint, save_checkpoint
from physcon_ase.model.config import EncoderConfig
from physcon_ase.model.physcon import load_model
from physcon_ase.training.evaluate import evaluate_energies
from physcon_ase.training.recipe import AsteroidRecipe, LevelRecipe, LossRecipe, OptimRecipe, Recipe
from physcon_ase.units import EV_PER_KELVIN
from studies.shared.selfmade import make_store, split_smiles, study_smiles
from studies.shared.trained import trained

RESULTS: Final = "levels.json"

_HOT: Final = ("start", "thermal", "conformer")
"""Kinds of geometries off equilibrium."""

_LOSS: Final = LossRecipe(energy=0.2, forces=1.0)

_SCORE_KT: Final = 350 * EV_PER_KELVIN
"""k_B T [eV] of score matching: geometries were displaced as at 0 to 700 K."""

# Files of a study, in its folder.
_LABELLED, _TEST = "labelled.h5", "test.h5"
_CHEAP, _CHEAP_TEST, _BARE, _MINIMA = "cheap.h5", "cheap-test.h5", "bare.h5", "minima.h5"


@dataclass(frozen=True)
class Scale:
    """Sizes of a study."""

    counts: tuple[int, ...]
    """Numbers of labelled geometries, beside none and all."""
    encoder: EncoderConfig
    """Sizes of the encoder."""
    pretraining_steps: int
    """Steps on cheap labels that the rows share."""
    score_steps: int
    """Steps of score matching that the seeds share."""
    asteroid_steps: int
    """Steps on weighted cheap labels, for each number and seed."""
    steps: int
    """Steps on the accurate labels, in every row."""
    scratch_steps: int
    """The same for random weights, which need more."""
    n_cheap: int
    """Molecules with cheap labels in the second stages."""
    n_test: int
    """Test molecules of the cheap level."""
    atoms_per_batch: int = 256
    """Slots of a batch; every further data set adds as many."""
    lr: float = 2e-3
    """Learning rate of all trainings."""


SCALES: Final = {
    "tiny": Scale((8,), EncoderConfig(channels=16, mixed_channels=16, hidden=32), 300, 20, 20, 60, 60, 30, 6, 128),
    "small": Scale((50, 150, 500), EncoderConfig(), 9000, 600, 300, 400, 1200, 4000, 300),
    "full": Scale((50, 150, 500), EncoderConfig(channels=128, mixed_channels=128, hidden=256), 40000, 4000, 2000, 1500,
                  5000, 10000, 1000),
}  # fmt: skip
"""Scales of seconds, an hour, and a night on one core."""


@dataclass(frozen=True)
class Levels:
    """The two levels and their stores."""

    cheap: LevelRecipe
    """Level with plenty of labels."""
    accurate: LevelRecipe
    """Level with few."""
    cheap_store: str
    """Store with forces of the cheap level."""
    accurate_store: str
    """Store with forces of the accurate level, off equilibrium."""
    minima_store: str
    """Store with minima of the accurate level; their energies are not used."""


_GFN2: Final = LevelRecipe("gfn2", "GFN2-xTB")

STUDIES: Final = {
    "selfmade": Levels(LevelRecipe("gfn1", "GFN1-xTB"), _GFN2, "gfn1.h5", "gfn2.h5", "selfmade.h5"),
    "b3lyp": Levels(
        _GFN2, LevelRecipe("b3lyp", "B3LYP/6-31G(2df,p)"), "gfn2_qm9.h5", "b3lyp_thermal.h5", "qm9_b3lyp.h5"
    ),
}
"""Studies by name."""


@dataclass(frozen=True)
class Row:
    """One way to train the accurate level."""

    start: str = "cheap"
    """Initial weights: "" (random), "cheap" (pre-training on cheap labels), "asteroid" (pre-training, then training on
    cheap labels weighted with the model of row `SCRATCH`), or "score" (score matching on the same geometries)."""
    together: bool = False
    """Whether the cheap level is trained on along with it."""
    minima: bool = False
    """Whether minima of the accurate level count as zero force."""
    alone: bool = False
    """Whether only the embedding and the head of the accurate level are trained; the shared weights are not changed."""
    without_labels: bool = False
    """Whether there is such a model without any accurate label."""


SCRATCH: Final = "from scratch"
"""Row with which the others are compared, and the reference model of ASTEROID."""

ROWS: Final = {
    SCRATCH: Row(start=""),
    "fine-tuned": Row(without_labels=True),
    "two heads": Row(together=True),
    "two heads, zero force at minima": Row(together=True, minima=True, without_labels=True),
    "ASTEROID": Row(start="asteroid"),
    "score matching": Row(start="score", without_labels=True),
    "row and head only": Row(alone=True),
}


def run_levels(
    name: str,
    folder: Path,
    scale: Scale,
    *,
    stores: Path | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    rows: Sequence[str] = (),
) -> list[dict]:
    """Trains every row with every number of labels and every seed; goes on where an earlier run was interrupted.

    Args:
        name: key of `STUDIES`.
        folder: where data, checkpoints and results go; an earlier run there keeps its data, even if stores have grown.
        scale: how much is spent.
        stores: folder of the stores; the self-made study makes its own in `folder`.
        seeds: of the choice of labels, the weights and the order of the data.
        rows: rows of the study; all if empty.

    Returns:
        One record per row, number of labels and seed, also written to `RESULTS`; `curves` shows them.

    Raises:
        EngineError: the self-made study without tblite.
        StoreError: no such store.
    """
    folder.mkdir(parents=True, exist_ok=True)
    levels = STUDIES[name]
    if name == "selfmade":
        stores = folder / "stores"
        _make_stores(stores, levels, scale)
    stores = Path() if stores is None else stores
    _cut_stores(folder, stores, levels, scale)
    runner = _Runner(levels, folder, stores, scale, len(open_store(folder / _LABELLED).geometries))
    records = [
        runner.record(row, count, seed)
        for seed in seeds
        for row in rows or ROWS
        for count in label_counts(ROWS[row], scale, runner.n_labelled)
    ]
    (folder / RESULTS).write_text(json.dumps(records, indent=1))
    return records


def label_counts(row: Row, scale: Scale, n_labelled: int) -> list[int]:
    """Numbers of labelled geometries that a row is trained with."""
    return [*([0] if row.without_labels else []), *(n for n in scale.counts if n < n_labelled), n_labelled]


# ---- data


def _make_stores(folder: Path, levels: Levels, scale: Scale) -> None:
    if (folder / levels.minima_store).exists():
        return
    made, _ = make_store(split_smiles(study_smiles(), scale.n_cheap, scale.n_test), tblite_engine(levels.accurate.name))
    hot = select_geometries(made, np.flatnonzero(np.isin(made.geometries.kind, _HOT)))
    thermal = select_geometries(made, np.flatnonzero(made.geometries.kind == "thermal"))
    write_store(folder / levels.cheap_store, _relabelled(hot, tblite_engine(levels.cheap.name)))
    write_store(folder / levels.accurate_store, thermal)
    write_store(folder / levels.minima_store, made)  # last: it says that all are there


def _relabelled(store: Store, engine: Engine) -> Store:
    labels = []
    for row, (begin, end) in enumerate(pairwise(geometry_offsets(store).tolist())):
        graph = molecule_graph(store, int(store.geometries.molecule[row]))
        place = store.geometries.positions[begin:end].astype(np.float64)
        labels.append(engine(Molecule(graph.atomic_numbers, place, graph.charge, graph.multiplicity)))
    energy = np.array([label.energy for label in labels])
    forces = np.concatenate([label.forces for label in labels]).astype(np.float32)
    return replace(store, labels={engine.record.level: LevelLabels(energy, forces)})


def _cut_stores(folder: Path, stores: Path, levels: Levels, scale: Scale) -> None:
    """Writes what the study uses of each store beside the pre-training: small files are quick to read."""
    if (folder / _LABELLED).exists():
        return
    cheap, accurate = open_store(stores / levels.cheap_store), open_store(stores / levels.accurate_store)
    known = _of_elements(accurate, np.unique(cheap.molecules.atomic_numbers))
    in_training = split_mask(accurate, "train")
    hot, in_test = np.isin(cheap.geometries.kind, _HOT), split_mask(cheap, "test")
    shown = subset_mask(cheap, split_mask(cheap, "train"), scale.n_cheap)
    asked = subset_mask(cheap, in_test, scale.n_test)
    beside = select_geometries(cheap, np.flatnonzero(hot & shown[cheap.geometries.molecule]))
    energies = beside.labels[levels.cheap.name].energy
    minima = open_store(stores / levels.minima_store)
    is_minimum = minima.geometries.minimum_of == levels.accurate.name
    used = subset_mask(minima, split_mask(minima, "train"), scale.n_cheap)[minima.geometries.molecule]
    zero = select_geometries(minima, np.flatnonzero(is_minimum & used))
    cuts = {
        _CHEAP: beside,
        _CHEAP_TEST: select_geometries(cheap, np.flatnonzero(hot & asked[cheap.geometries.molecule])),
        # the energies give the atomic references and are not trained on
        _BARE: replace(beside, labels={levels.accurate.name: LevelLabels(energies)}),
        _MINIMA: replace(zero, labels={}),
        _TEST: _geometries_of(accurate, known & ~in_training),
        _LABELLED: _geometries_of(accurate, known & in_training),  # last: it says that all are there
    }
    for file, store in cuts.items():
        write_store(folder / file, store)


def _of_elements(store: Store, elements: np.ndarray) -> np.ndarray:
    """Which molecules consist of these elements alone, bool [molecules]."""
    foreign = ~np.isin(store.molecules.atomic_numbers, elements)
    return np.add.reduceat(foreign.astype(int), store.molecules.offsets["n_atoms"][:-1]) == 0


def _geometries_of(store: Store, molecules: np.ndarray) -> Store:
    return select_geometries(store, np.flatnonzero(molecules[store.geometries.molecule]))


# ---- recipes


def pretraining_recipe(levels: Levels, scale: Scale) -> Recipe:
    """The cheap level on all of its labels."""
    return Recipe(
        name="pretraining",
        levels=(levels.cheap,),
        data=(DataSet(levels.cheap_store, (levels.cheap.name,), labels=ENERGY_LABELS),),
        optim=OptimRecipe(scale.pretraining_steps, lr=scale.lr, atoms_per_batch=2 * scale.atoms_per_batch),
        encoder=scale.encoder,
        loss=_LOSS,
    )


def score_recipe(levels: Levels, scale: Scale) -> Recipe:
    """Score matching on the geometries of the cheap level, as the accurate level."""
    return Recipe(
        name="score",
        levels=(levels.accurate,),
        data=(DataSet(_BARE, (levels.accurate.name,), kinds=_HOT[1:], labels=("energy", "forces")),),
        optim=_optim(scale, scale.score_steps, scale.atoms_per_batch),
        encoder=scale.encoder,
        loss=LossRecipe(energy=0.0, forces=0.0, score_matching=1.0),
        asteroid=AsteroidRecipe(kt=_SCORE_KT),
    )


def asteroid_recipe(levels: Levels, scale: Scale, name: str, seed: int, *, pretrained: Path, judge: Path) -> Recipe:
    """Cheap forces as labels of the accurate level, weighted by their deviation from the reference model."""
    lent = DataSet(_CHEAP, (levels.accurate.name,), borrow_forces_from=levels.cheap.name, labels=ENERGY_LABELS)
    return Recipe(
        name=name,
        levels=_both(levels),
        data=(lent,),
        optim=_optim(scale, scale.asteroid_steps, scale.atoms_per_batch, train=(*_SHARED, *_own(levels.accurate))),
        encoder=scale.encoder,
        loss=LossRecipe(energy=0.0, forces=1.0),
        asteroid=AsteroidRecipe(str(judge)),
        seed=seed,
        start_from=(str(pretrained),),
    )


def row_recipe(
    levels: Levels, row: Row, scale: Scale, count: int, seed: int, *, labels: str, start_from: Sequence[str], name: str
) -> Recipe:
    """The training on the accurate labels.

    Args:
        levels, row, scale, seed: what it is of.
        count: number of labelled geometries.
        labels: store with these geometries.
        start_from: see `Recipe.start_from`.
        name: of the checkpoint.
    """
    cheap, accurate = levels.cheap, levels.accurate
    # An epoch contains about as much of every other data set as there are labels, drawn anew in each epoch.
    seen = max(count, _MIN_BESIDE)
    hot, minima = min(1.0, seen / (2 * scale.n_cheap)), min(1.0, seen / scale.n_cheap)
    data = [DataSet(labels, (accurate.name,), labels=ENERGY_LABELS)] if count else []
    if row.together:
        data.append(DataSet(_CHEAP, (cheap.name,), repeat=hot, labels=ENERGY_LABELS))
    if row.minima:
        data.append(DataSet(_MINIMA, (accurate.name,), repeat=minima, labels=ENERGY_LABELS))
    if row.minima and not count:  # zero force alone would also fit a flat potential
        lent = DataSet(
            _CHEAP,
            (accurate.name,),
            borrow_forces_from=cheap.name,
            repeat=hot,
            labels=ENERGY_LABELS,
        )
        data.append(lent)
    both = row.start in ("cheap", "asteroid")
    steps = scale.steps if row.start else scale.scratch_steps
    train = ()
    if row.alone:
        train = _own(accurate)
    elif both and not row.together:  # a level without labels keeps its row and head; what it shares moves
        train = (*_SHARED, *_own(accurate))
    optim = _optim(scale, steps, len(data) * scale.atoms_per_batch, train=train)
    return Recipe(
        name=name,
        levels=_both(levels) if both else (accurate,),
        data=tuple(data),
        optim=optim,
        encoder=scale.encoder,
        loss=_LOSS,
        seed=seed,
        start_from=tuple(start_from),
    )


_MIN_BESIDE: Final = 100
"""Smallest number of geometries of another data set in an epoch."""


_SHARED: Final = ("energy.embedding.", "energy.interactions.")
"""What the levels share in a network without charges: beginnings of the names of parameters."""


def _own(level: LevelRecipe) -> tuple[str, ...]:
    """The row and the head of a level: beginnings of the names of parameters."""
    return f"energy.rows.{level.name}.", f"energy.heads.{level.name}."


def _both(levels: Levels) -> tuple[LevelRecipe, ...]:
    """The cheap level, and the accurate one that begins like it."""
    return levels.cheap, replace(levels.accurate, like=levels.cheap.name)


def _optim(scale: Scale, steps: int, atoms_per_batch: int, *, train: tuple[str, ...] = ()) -> OptimRecipe:
    """Schedule of all rows."""
    return OptimRecipe(
        steps,
        lr=scale.lr,
        warmup=min(50, steps // 4),
        decay=0.7,
        ema=0.99,
        atoms_per_batch=atoms_per_batch,
        train=train,
    )


# ---- running


@dataclass(frozen=True)
class _Runner:
    levels: Levels
    folder: Path
    stores: Path
    scale: Scale
    n_labelled: int

    def record(self, name: str, count: int, seed: int) -> dict:
        """The errors of a row."""
        done = self.folder / f"{_slug(name, count, seed)}.json"
        if done.exists():
            return json.loads(done.read_text())
        tqdm.write(f"seed {seed}: {name}, {count} labels")
        model = load_model(self._model(name, count, seed)).model
        record = {"row": name, "labels": count, "seed": seed, "n_labelled": self.n_labelled}
        for key, file, level in (
            ("accurate", _TEST, self.levels.accurate.name),
            ("cheap", _CHEAP_TEST, self.levels.cheap.name),
        ):
            if level not in model.level_names:
                record[key] = None
                continue
            source = DataSet(str(self.folder / file), (level,), assign_to="test", labels=ENERGY_LABELS)
            (errors,) = evaluate_energies(model, load_items([source], model.level_names, "test"))
            record[key] = {"level": level, "force_mae": errors.force_mae, "n_forces": errors.n_forces}
        done.write_text(json.dumps(record))
        return record

    def _model(self, name: str, count: int, seed: int) -> Path:
        row = ROWS[name]
        if not count and row.start == "score":
            return self._trained(score_recipe(self.levels, self.scale))
        if not count and not row.together:
            return self._begin()
        recipe = row_recipe(
            self.levels, row, self.scale, count, seed, labels=self._labels(count, seed),
            start_from=self._start(row, count, seed), name=_slug(name, count, seed),
        )  # fmt: skip
        return self._trained(recipe)

    def _start(self, row: Row, count: int, seed: int) -> list[str]:
        if not row.start:
            return []
        # of others than the pre-training the weights alone: the references are fitted to the accurate energies
        if row.start == "score":
            return [f"{self._trained(score_recipe(self.levels, self.scale))}#energy."]
        if not count:
            return [str(self._begin())]
        pretrained = self._pretrained()
        if row.start != "asteroid":
            return [str(pretrained)]
        judge, name = self._model(SCRATCH, count, seed), f"asteroid-{count}-{seed}"
        recipe = asteroid_recipe(self.levels, self.scale, name, seed, pretrained=pretrained, judge=judge)
        return [str(pretrained), f"{self._trained(recipe)}#energy."]

    def _pretrained(self) -> Path:
        return trained(pretraining_recipe(self.levels, self.scale), self.folder, self.stores)

    def _begin(self) -> Path:
        """The pre-training with a row and a head for the accurate level, those of the cheap level. Its references are
        those of the cheap level, too: without accurate labels only forces mean something.
        """
        target = self.folder / "begin"
        if not target.exists():
            stored = read_checkpoint(self._pretrained())
            cheap, accurate = self.levels.cheap, self.levels.accurate
            (level,) = stored.config["levels"]
            added = {**level, "name": accurate.name, "description": accurate.description}
            own = {
                key.replace(prefix, new): value
                for prefix, new in zip(_own(cheap), _own(accurate), strict=True)
                for key, value in stored.tensors.items()
                if key.startswith(prefix)
            }
            config = {**stored.config, "levels": [level, added]}
            save_checkpoint(target, {**stored.tensors, **own}, config, recipe=stored.recipe)
        return target

    def _labels(self, count: int, seed: int) -> str:
        """The store of `count` labelled geometries; that of a smaller number is part of that of a larger one."""
        file = f"labels-{count}-{seed}.h5"
        if count and not (self.folder / file).exists():
            store = open_store(self.folder / _LABELLED)
            drawn = np.random.default_rng(seed).permutation(len(store.geometries))[:count]
            write_store(self.folder / file, select_geometries(store, np.sort(drawn)))
        return file

    def _trained(self, recipe: Recipe) -> Path:
        return trained(recipe, self.folder, self.folder)


def _slug(name: str, count: int, seed: int) -> str:
    return f"row{list(ROWS).index(name)}-{count}-{seed}"
