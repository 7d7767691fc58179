"""Effect of physical consistency on predicted structures: three studies of the same design.

A structure network is trained on the minima of a cheap method and evaluated against the minima of an accurate level
(the true minima) of held-out molecules. Stage one uses cheap minima alone. Stage two continues for the same number of
steps in every row, with or without consistency with the energy of the accurate level (the teacher): with the published
losses, with their variants with Newton steps, or with minima of the teacher, relaxed from the cheap ones, as targets.

    selfmade   MMFF94 minima and GFN2-xTB, computed by the study; reproducible without stores
    qm9        GFN2-xTB minima and B3LYP, from stores
    dft8k      MMFF94 minima and M06-2X of drug-like molecules; needs a teacher with the level "m062x"
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Final

import numpy as np
from tqdm import tqdm

from physcon_ase.batch import make_batch, unpad
from physcon_ase.data.loader import load_items
from physcon_ase.data.selection import ENERGY_LABELS, DataSet, chosen_molecules
from physcon_ase.data.store import Store, geometry_offsets, molecule_graph, open_store, write_store
from physcon_ase.labelling.engines import Engine, pyscf_engine, tblite_engine
from physcon_ase.model.config import StructureConfig
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel, PhysCon, load_model
from physcon_ase.training.evaluate import evaluate_energies
from physcon_ase.training.losses.consistency import teacher_steps
from physcon_ase.training.recipe import LevelRecipe, LossRecipe, OptimalityRecipe, OptimRecipe, Recipe, ScoreRecipe
from studies.consistency.energies import KeptEnergies
from studies.consistency.structures import MODES, Quality, Truth, sample_structures, structure_quality
from studies.shared.selfmade import make_store, split_smiles, study_smiles
from studies.shared.taught import taught_minima
from studies.shared.trained import trained

RESULTS: Final = "results.json"

ENERGIES: Final = "energies.json"
"""File of the energies of a density functional."""

ENERGY_MODE: Final = "matched, refined"
"""Mode whose structures get these energies."""

ALL: Final = "+ minima of the teacher, refinement, guided"
"""The row with all elements."""


@dataclass(frozen=True)
class Scale:
    """Numbers of molecules, steps and samples."""

    n_train: int
    """Training molecules."""
    n_test: int
    """Test molecules."""
    teacher_steps: int
    """Steps of a teacher."""
    first_steps: int
    """Steps of the structure network on cheap structures."""
    second_steps: int
    """Steps of each row of the study."""
    n_samples: int
    """Samples of each molecule in the modes that start from noise."""


SCALES: Final = {
    "tiny": Scale(60, 8, 150, 150, 60, 2),
    "small": Scale(800, 60, 2500, 3000, 1500, 10),
    "full": Scale(3000, 180, 8000, 8000, 4000, 10),
}
"""Minutes, an hour, and a night on two cores."""


@dataclass(frozen=True)
class Teacher:
    """Teacher: a checkpoint, or the settings of its training."""

    checkpoint: str = ""
    """Name or folder of an existing checkpoint."""
    data: tuple[DataSet, ...] = ()
    """Data of its training otherwise."""
    loss: LossRecipe = field(default_factory=LossRecipe)
    """Loss of this training."""
    share: float = 1.0
    """Part of the molecules that it is trained on."""


@dataclass(frozen=True)
class Row:
    """One row of a study."""

    teacher: str
    """Key of `Study.teachers`."""
    optimality: OptimalityRecipe | None = None
    score: ScoreRecipe | None = None
    shown: str = "cheap"
    """Minima that are the targets: the "cheap" ones, those of the teacher ("taught"), or the "true" ones."""
    refined: bool = False
    """Whether the network is also trained to refine its own predictions."""
    guided: bool = False
    """Whether the forces of the teacher are an input."""
    newton_step: bool = False
    """Whether predictions are moved by one Newton step of the teacher afterwards."""


@dataclass(frozen=True)
class Study:
    """Which data, teachers and rows."""

    levels: tuple[LevelRecipe, ...]
    """Levels of the teachers."""
    accurate: str
    """Level of the true minima and of the teachers."""
    cheap_structures: DataSet
    """Cheap minima, the targets of the first stage."""
    true_structures: DataSet
    """The same molecules' accurate minima, for the upper bound; test molecules come from its store."""
    teachers: dict[str, Teacher]
    rows: dict[str, Row]
    """The first is what the others are compared with."""
    max_atoms: int = 0
    """Atoms of the largest molecule; 0 for all."""


def selfmade_study() -> Study:
    """MMFF94 minima as cheap structures, GFN2-xTB as the accurate level."""
    store, level = "selfmade.h5", "gfn2"
    with_forces = LossRecipe(energy=0.5, forces=1.0, displacement=1.0)

    def seen(*kinds: str) -> tuple[DataSet, ...]:
        return (DataSet(store, (level,), kinds=kinds, labels=ENERGY_LABELS),)

    rows = _rows("shipped", level)
    weaker = (
        "off equilibrium",
        "off equilibrium, an eighth of the molecules",
        "forces at cheap minima",
        "energies alone",
    )
    for name in weaker:
        rows[f"{ALL}, teacher: {name}"] = replace(rows[ALL], teacher=name)
    return Study(
        levels=(LevelRecipe(level, "GFN2-xTB"),),
        accurate=level,
        cheap_structures=DataSet(store, (level,), kinds=("start",), targets_of="mmff94"),
        true_structures=DataSet(store, (level,), kinds=("minimum",)),
        teachers={
            "energies alone": Teacher(data=seen("start"), loss=LossRecipe(energy=1.0, forces=0.0)),
            "forces at cheap minima": Teacher(data=seen("start"), loss=with_forces),
            "off equilibrium, an eighth of the molecules": Teacher(
                data=seen("start", "thermal"), loss=with_forces, share=0.125
            ),
            "off equilibrium": Teacher(data=seen("start", "thermal"), loss=with_forces),
            "shipped": Teacher(checkpoint=DEFAULT_CHECKPOINT),
        },
        rows=rows,
    )


def qm9_study() -> Study:
    """GFN2-xTB minima as cheap structures; no B3LYP minimum is a target."""
    levels = (LevelRecipe("gfn2", "GFN2-xTB"), LevelRecipe("b3lyp", "B3LYP/6-31G(2df,p)"))
    energies = DataSet("qm9_b3lyp.h5", ("b3lyp",), labels=("energy", "forces"))
    rows = _rows("shipped", "b3lyp")
    rows[f"{ALL}, teacher: energies alone"] = replace(rows[ALL], teacher="energies alone")
    return Study(
        levels=levels,
        accurate="b3lyp",
        cheap_structures=DataSet("gfn2_qm9.h5", ("gfn2",), targets_of="gfn2", only_targets=True),
        true_structures=DataSet("qm9_b3lyp.h5", ("b3lyp",), targets_of="b3lyp", only_targets=True),
        teachers={
            "energies alone": Teacher(data=(energies,), loss=LossRecipe(energy=1.0, forces=0.0)),
            "shipped": Teacher(checkpoint=DEFAULT_CHECKPOINT),
        },
        rows=rows,
    )


def dft8k_study() -> Study:
    """MMFF94 minima of drug-like molecules as cheap structures, M06-2X/def2-TZVP minima as the truth."""
    store, level, max_atoms = "dft8k_m062x.h5", "m062x", 40
    cheap = DataSet(store, (level,), targets_of="mmff94", only_targets=True, max_atoms=max_atoms)
    return Study(
        levels=(LevelRecipe("gfn2", "GFN2-xTB"), LevelRecipe(level, "M06-2X/def2-TZVP")),
        accurate=level,
        cheap_structures=cheap,
        true_structures=replace(cheap, targets_of=level),
        teachers={"given": Teacher(checkpoint=DEFAULT_CHECKPOINT)},
        rows=_rows("given", level),
        max_atoms=max_atoms,
    )


def _rows(teacher: str, level: str) -> dict[str, Row]:
    hinge = OptimalityRecipe(level, "hinge", sigma_min=0.3, sigma_max=3.0)
    noisy = ScoreRecipe(level, "noisy", sigma_min=0.01, sigma_max=0.1)
    optimality = OptimalityRecipe(level, "newton", sigma_min=0.05, sigma_max=3.0)
    score = ScoreRecipe(level, "newton", sigma_min=0.01, sigma_max=0.3)
    return {
        "multi-task": Row(teacher),
        "+ optimality, published": Row(teacher, hinge),
        "+ score, published": Row(teacher, None, noisy),
        "+ both, published": Row(teacher, hinge, noisy),
        "+ optimality": Row(teacher, optimality),
        "+ score": Row(teacher, None, score),
        "+ both": Row(teacher, optimality, score),
        "multi-task, then one Newton step": Row(teacher, newton_step=True),
        "+ refinement": Row(teacher, refined=True),
        "+ refinement, guided": Row(teacher, refined=True, guided=True),
        "+ minima of the teacher": Row(teacher, shown="taught"),
        "+ minima of the teacher, refinement": Row(teacher, shown="taught", refined=True),
        ALL: Row(teacher, shown="taught", refined=True, guided=True),
        "shown the truth (upper bound)": Row(teacher, shown="true"),
        "shown the truth, refinement, guided (upper bound)": Row(teacher, shown="true", refined=True, guided=True),
        "+ both, published, τ below 0.3 Å": Row(teacher, replace(hinge, sigma_min=0.05, sigma_max=0.3), noisy),
    }


STUDIES: Final = {"selfmade": selfmade_study, "qm9": qm9_study, "dft8k": dft8k_study}
"""Studies by name."""


def run_study(
    name: str,
    folder: Path,
    scale: Scale,
    *,
    stores: Path | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    rows: Sequence[str] = (),
    modes: Sequence[str] = (),
    teacher: str = "",
    n_energies: int = 0,
) -> list[dict]:
    """Trains every row with every seed and evaluates it; continues an interrupted run.

    Args:
        name: key of `STUDIES`.
        folder: folder of checkpoints and results.
        scale: numbers of molecules, steps and samples.
        stores: folder of the stores; the self-made study makes its own in `folder`.
        seeds: of weights, order of the data and noise.
        rows: rows of the study; all if empty.
        modes: keys of `MODES`; all if empty.
        teacher: checkpoint that takes the place of the shipped one as a teacher; a folder of results has one.
        n_energies: smallest test molecules whose structures in `ENERGY_MODE` also get an energy at the accurate level
            by PySCF, minutes for each.

    Returns:
        One record per row, seed and mode, also written to `RESULTS`; `tables` shows them.

    Raises:
        EngineError: the self-made study without tblite; energies without PySCF, or of a level that it does not have.
        StoreError: no such store.
        UnknownLevelError: the teacher does not have the accurate level.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study = with_teacher(STUDIES[name](), teacher)
    engine: Engine | None = None
    if name == "selfmade":
        engine, stores = tblite_engine(study.accurate), folder
        _make_data(folder / study.true_structures.store, scale, engine)
    stores = Path() if stores is None else stores
    shown = study.true_structures
    molecules = truths(open_store(stores / shown.store), study.accurate, scale.n_test, max_atoms=study.max_atoms)
    runner = _Runner(study, folder, stores, scale, molecules, engine)
    runs = [(row, seed) for seed in seeds for row in rows or study.rows]
    records = [record for run in runs for record in runner.row(*run, modes or list(MODES))]
    if n_energies:
        kept = KeptEnergies(folder / ENERGIES, pyscf_engine(study.accurate, grid_level=1, convergence=1e-7))
        records += [runner.energies(*run, n_energies, kept) for run in runs]
    (folder / RESULTS).write_text(json.dumps(records, indent=1))
    return records


def with_teacher(study: Study, checkpoint: str) -> Study:
    """The study with another checkpoint as a teacher, if one is given.

    Raises:
        UnknownLevelError: the teacher does not have the accurate level.
    """
    teachers = {
        name: replace(teacher, checkpoint=teacher.checkpoint and (checkpoint or teacher.checkpoint))
        for name, teacher in study.teachers.items()
    }
    for teacher in teachers.values():
        if teacher.checkpoint:
            load_model(teacher.checkpoint).model.level(study.accurate)
    return replace(study, teachers=teachers)


def truths(store: Store, level: str, n_molecules: int, *, max_atoms: int = 0) -> list[Truth]:
    """Minima of a level of test molecules, of all sizes or up to `max_atoms`."""
    offsets = geometry_offsets(store)
    is_test = chosen_molecules(store, DataSet("", (level,), max_atoms=max_atoms), "test")
    geometries = np.flatnonzero((store.geometries.minimum_of == level) & is_test[store.geometries.molecule])
    chosen = np.random.default_rng(0).permutation(geometries)[:n_molecules]
    energies = store.labels[level].energy if level in store.labels else np.full(len(store.geometries), np.nan)
    return [
        Truth(
            graph=molecule_graph(store, int(store.geometries.molecule[index])),
            positions=store.geometries.positions[offsets[index] : offsets[index + 1]].astype(np.float64),
            energy=float(energies[index]),
        )
        for index in chosen.tolist()
    ]


def _make_data(path: Path, scale: Scale, engine: Engine) -> None:
    if path.exists():
        return
    store, failed = make_store(split_smiles(study_smiles(), scale.n_train, scale.n_test), engine)
    write_store(path, store)
    path.with_suffix(".failed.json").write_text(json.dumps(failed, indent=1))
    tqdm.write(f"{len(store.molecules)} molecules made, {len(failed)} failed ({path.stem}.failed.json)")


# ---- recipes


def teacher_recipe(study: Study, name: str, scale: Scale, seed: int) -> Recipe:
    """The recipe of a teacher that is to be trained."""
    teacher = study.teachers[name]
    used = {level for data in teacher.data for level in data.levels}
    levels = tuple(level for level in study.levels if level.name in used)
    return Recipe(
        name=f"teacher-{list(study.teachers).index(name)}-{seed}",
        levels=levels,
        data=tuple(replace(data, max_molecules=int(scale.n_train * teacher.share)) for data in teacher.data),
        optim=OptimRecipe(steps=scale.teacher_steps, atoms_per_batch=256),
        loss=teacher.loss,
        seed=seed,
    )


def first_recipe(study: Study, scale: Scale, seed: int) -> Recipe:
    """The structure network on cheap structures alone, at a constant learning rate."""
    cheap = study.cheap_structures
    return Recipe(
        name=f"first-{seed}",
        levels=tuple(level for level in study.levels if level.name in cheap.levels),
        data=(replace(cheap, max_molecules=scale.n_train),),
        optim=OptimRecipe(steps=scale.first_steps, decay=0.0),
        structure=StructureConfig(),
        loss=LossRecipe(energy=0.0, forces=0.0, structure=1.0),
        seed=seed,
    )


def row_recipe(
    study: Study, row: Row, scale: Scale, seed: int, *, first: Path, teacher: Path | str, taught: Path, name: str
) -> Recipe:
    """The second stage of a row.

    Args:
        study, row, scale, seed: what it is of.
        first: checkpoint of the first stage.
        teacher: that of the energy, which is frozen.
        taught: store of the teacher's minima.
        name: of the checkpoint.
    """
    begin, config = first_recipe(study, scale, seed), load_model(teacher).model.config
    known = {level.name: level for level in study.levels}
    loss = replace(
        begin.loss,
        structure=0.5 if row.refined else 1.0,
        refinement=float(row.refined),
        optimality=float(row.optimality is not None),
        score=float(row.score is not None),
    )
    shown = {
        "cheap": begin.data[0],
        "taught": DataSet(str(taught), (study.accurate,)),
        "true": replace(study.true_structures, max_molecules=scale.n_train),
    }
    return replace(
        begin,
        name=name,
        levels=tuple(known[level.name] for level in config.levels if level.name in known),
        data=(shown[row.shown],),
        encoder=config.encoder,
        structure=StructureConfig(guided=row.guided),
        optim=OptimRecipe(steps=scale.second_steps, decay=1.0, atoms_per_batch=256, train=("structure.",)),
        loss=loss,
        optimality=row.optimality,
        score=row.score,
        seed=seed + 1000,
        start_from=(str(teacher), f"{first}#structure"),
    )


# ---- running


@dataclass(frozen=True)
class _Runner:
    study: Study
    folder: Path
    stores: Path
    scale: Scale
    molecules: list[Truth]
    engine: Engine | None

    def row(self, name: str, seed: int, modes: Sequence[str]) -> list[dict]:
        """The records of a row, one per mode."""
        done = self.folder / f"{self._slug(name, seed)}.json"
        records = json.loads(done.read_text()) if done.exists() else []
        found = {mode: r for mode in modes for r in records if _kind(r) == (mode, self._n_samples(mode))}
        missing = [mode for mode in modes if mode not in found]
        for record in self._evaluated(name, seed, missing) if missing else ():
            found[record["mode"]] = record
            records.append(record)
            done.write_text(json.dumps(records))
        return [found[mode] for mode in modes]

    def energies(self, name: str, seed: int, n_molecules: int, kept: KeptEnergies) -> dict:
        """The record of the smallest molecules in `ENERGY_MODE`, with energies of another engine."""
        (record,) = self.row(name, seed, [ENERGY_MODE])
        electrons = [int(molecule.graph.atomic_numbers.sum()) for molecule in self.molecules]
        chosen = np.argsort(electrons, kind="stable")[:n_molecules].tolist()
        samples = self._predictions(self.study.rows[name], *self._models(name, seed)[1:], ENERGY_MODE)
        above = []
        for index in tqdm(chosen, unit="molecule", disable=None):
            graph, truth = self.molecules[index].graph, self.molecules[index].positions
            predicted = kept.energy(f"{self._slug(name, seed)}, molecule {index}", graph, samples[index][0])
            above.append(predicted - kept.energy(f"truth, molecule {index}", graph, truth))
        title = f"{ENERGY_MODE}, the smallest, {kept.engine.record.level} energies by {kept.engine.record.program}"
        columns = {f.name: [record[f.name][index] for index in chosen] for f in fields(Quality)}
        return {**record, **columns, "energy_above": above, "mode": title}

    def _evaluated(self, name: str, seed: int, modes: Sequence[str]) -> Iterator[dict]:
        tqdm.write(f"seed {seed}: {name}")
        row = self.study.rows[name]
        slug, model, taught = self._models(name, seed)
        origin = {
            "row": name,
            "seed": seed,
            "training": slug,
            "teacher": row.teacher,
            "teacher_force_mae": self._force_error(taught),
        }
        for mode in modes:
            samples = self._predictions(row, model, taught, mode)
            quality = asdict(structure_quality(samples, self.molecules, self.engine))
            columns = {column: array.tolist() for column, array in quality.items()}
            yield {**origin, "mode": mode, "n_samples": self._n_samples(mode), **columns}

    def _models(self, name: str, seed: int) -> tuple[str, PhysCon, PhysCon]:
        """Name of the training of a row, its model, and its teacher; trained if they are not there."""
        row = self.study.rows[name]
        teacher = self._teacher(row.teacher, seed)
        first = self._trained(first_recipe(self.study, self.scale, seed))
        # the Newton step only changes what is done with the predictions of the baseline
        weights = replace(row, newton_step=False)
        slug = self._slug(next(other for other, r in self.study.rows.items() if r == weights), seed)
        minima = self.folder / f"taught-{list(self.study.teachers).index(row.teacher)}-{seed}.h5"
        if row.shown == "taught" and not minima.exists():
            write_store(minima, self._taught(load_model(teacher)))
        recipe = row_recipe(
            self.study, weights, self.scale, seed, first=first, teacher=teacher, taught=minima.absolute(), name=slug
        )
        return slug, load_model(self._trained(recipe)).model, load_model(teacher).model

    def _n_samples(self, mode: str) -> int:
        return 1 if MODES[mode].from_truth else self.scale.n_samples

    def _predictions(self, row: Row, model: PhysCon, teacher: PhysCon, mode: str) -> list[np.ndarray]:
        samples = self._samples(model, mode)
        return self._moved(samples, teacher) if row.newton_step else samples

    def _slug(self, name: str, seed: int) -> str:
        return f"row{list(self.study.rows).index(name)}-{seed}"

    def _teacher(self, name: str, seed: int) -> Path | str:
        teacher = self.study.teachers[name]
        return teacher.checkpoint or self._trained(teacher_recipe(self.study, name, self.scale, seed))

    def _taught(self, teacher: LoadedModel) -> Store:
        """The teacher's minima of the molecules that the structure network is shown."""
        cheap = self.study.cheap_structures
        store = open_store(self.stores / cheap.store)
        used = DataSet("", cheap.levels, max_atoms=cheap.max_atoms, max_molecules=self.scale.n_train)
        chosen = chosen_molecules(store, used, "train")
        rows = np.flatnonzero((store.geometries.minimum_of == cheap.targets_of) & chosen[store.geometries.molecule])
        return taught_minima(store, rows.tolist(), teacher, self.study.accurate)

    def _trained(self, recipe: Recipe) -> Path:
        return trained(recipe, self.folder, self.stores)

    def _samples(self, model: PhysCon, mode: str) -> list[np.ndarray]:
        assert model.structure is not None
        denoiser, count = model.denoiser(self.study.accurate), self._n_samples(mode)
        return sample_structures(denoiser, model.structure.config, self.molecules, mode, count, seed=0)

    def _force_error(self, teacher: PhysCon) -> float:
        """Mean absolute error of the teacher's force components [eV/Å] on the test molecules."""
        shown = self.study.true_structures
        source = DataSet(
            str(self.stores / shown.store),
            (self.study.accurate,),
            labels=ENERGY_LABELS,
            max_atoms=self.study.max_atoms,
            max_molecules=500,
        )
        (errors,) = evaluate_energies(teacher, load_items([source], teacher.level_names, "test"))
        return errors.force_mae

    def _moved(self, samples: Sequence[np.ndarray], teacher: PhysCon) -> list[np.ndarray]:
        """Every sample moved by one Newton step of the teacher."""
        energy_fn, moved = teacher.energy_fn(self.study.accurate), []
        for molecule, drawn in zip(self.molecules, samples, strict=True):
            batch = make_batch([molecule.graph.atomic_numbers] * len(drawn), list(drawn))
            moved.append(np.stack(unpad(batch, batch.positions + teacher_steps(energy_fn, batch))))
        return moved


def _kind(record: dict) -> tuple[str, int]:
    """What can be said of a row and seed several times."""
    return record["mode"], record["n_samples"]
