"""The command ``physcon``: parses and calls one function; each option is an argument of that function.

Exit codes: 0 done, 1 some molecules of a batch failed, 2 the input was refused (one line says why), 130 interrupted.
"""

# Everything heavy is imported inside the commands, so that `physcon --help` answers at once.

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from physcon_ase.errors import PhysConError, StoreError

if TYPE_CHECKING:
    from physcon_ase.labelling.selection import Selection
    from physcon_ase.model.physcon import PhysCon
    from physcon_ase.training.config import Recipe
    from physcon_ase.training.evaluate import LevelErrors

DEFAULT_CHECKPOINT: Final = "physcon-1"
"""The checkpoint that ships with the package; equal to `model.physcon.DEFAULT_CHECKPOINT`."""

SOME_FAILED, REFUSED, INTERRUPTED = 1, 2, 130

_DATA_OF_STUDIES: Final = {"consistency": ("selfmade", "qm9", "dft8k"), "levels": ("selfmade", "b3lyp")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        arguments: words after ``physcon``; those of the command line unless given.
    """
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except PhysConError as error:
        print(f"physcon: error: {' '.join(str(error).split())}", file=sys.stderr)
        return REFUSED
    except OSError as error:  # a disk that is full, a file that may not be read or written
        print(f"physcon: error: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("physcon: interrupted", file=sys.stderr)
        return INTERRUPTED


# ---- structures and energies


def _optimize(options: argparse.Namespace) -> int:
    from physcon_ase.inference.files import check_output, read_molecules
    from physcon_ase.inference.one import optimize
    from physcon_ase.inference.report import format_result, plot_result, write_results

    inputs = _inputs(options.molecule)
    if options.output is not None:
        check_output(options.output, inputs)
    if options.plot is not None:
        check_output(options.plot, inputs, kinds=(".png",))
    molecules = read_molecules(options.molecule) if inputs else [options.molecule]
    if len(molecules) != 1:
        return _optimize_many(options, molecules)
    result = optimize(
        molecules[0],
        level=options.level,
        checkpoint=options.checkpoint,
        optimizer=options.optimizer,
        fmax=options.fmax,
        max_steps=options.max_steps,
        start=options.start,
        seed=options.seed,
        device=options.device,
    )
    print(format_result(result))
    if options.output is not None:
        write_results(result, options.output, inputs=inputs)
        print(f"  written    {options.output}")
    if options.plot is not None:
        plot_result(result, options.plot)
        print(f"  plot       {options.plot}")
    return 0 if result.is_ok else SOME_FAILED


def _optimize_many(options: argparse.Namespace, molecules: list) -> int:
    from physcon_ase.inference.many import optimize_many
    from physcon_ase.inference.report import format_record, format_summary, write_results

    if options.plot is not None:
        raise PhysConError(f"--plot draws one molecule, {options.molecule} has {len(molecules)}: leave it out")
    records = optimize_many(
        molecules,
        level=options.level,
        checkpoint=options.checkpoint,
        method=None if options.optimizer == "bfgs" else options.optimizer,
        fmax=options.fmax,
        max_steps=options.max_steps,
        start=options.start,
        seed=options.seed,
        device=options.device,
    )
    for record in records:
        print(format_record(record))
    if options.output is not None:
        results = [record.result for record in records if record.result is not None]
        count = write_results(results, options.output, inputs=_inputs(options.molecule))
        print(f"{count} structures written to {options.output}")
    print(format_summary(records))
    return 0 if all(record.status == "ok" for record in records) else SOME_FAILED


def _predict(options: argparse.Namespace) -> int:
    from physcon_ase.inference.calculator import predict_structures
    from physcon_ase.inference.files import XYZ_SUFFIXES, check_output, read_structures, write_structures

    check_output(options.output, [options.file], kinds=XYZ_SUFFIXES)
    outcomes = predict_structures(
        read_structures(options.file), level=options.level, checkpoint=options.checkpoint, device=options.device
    )
    failed = _print_errors(outcomes)
    done = [outcome for outcome in outcomes if not isinstance(outcome, PhysConError)]
    write_structures(done, options.output)
    print(
        f"{len(outcomes)} structures: {len(done)} with energy and forces written to {options.output}, {failed} failed"
    )
    return SOME_FAILED if failed else 0


def _energy(options: argparse.Namespace) -> int:
    from physcon_ase.inference.calculator import predict_structures
    from physcon_ase.inference.files import read_structures
    from physcon_ase.inference.one import optimize
    from physcon_ase.inference.report import format_result

    if not _inputs(options.molecule):
        result = optimize(options.molecule, level=options.level, checkpoint=options.checkpoint, device=options.device)
        print(format_result(result))
        return 0 if result.is_ok else SOME_FAILED
    outcomes = predict_structures(
        read_structures(options.molecule), level=options.level, checkpoint=options.checkpoint, device=options.device
    )
    for index, atoms in enumerate(outcomes):
        if not isinstance(atoms, PhysConError):
            where = f"level {atoms.info['level']} of {atoms.info['model']}"
            print(f"{index:5d}  {atoms.get_chemical_formula()}  {atoms.get_potential_energy():.6f} eV  {where}")
    return SOME_FAILED if _print_errors(outcomes) else 0


def _print_errors(outcomes: Sequence) -> int:
    """Prints one line for each error and returns their number."""
    errors = [(index, outcome) for index, outcome in enumerate(outcomes) if isinstance(outcome, PhysConError)]
    for index, error in errors:
        print(f"{index:5d}  failed  {type(error).__name__}: {error}")
    return len(errors)


def _inputs(molecule: str) -> list[Path]:
    """The file that an argument names, none if it is a SMILES.

    No SMILES ends in one of these suffixes, and a file that is missing is not mistaken for one.
    """
    from physcon_ase.inference.files import SMILES_SUFFIXES, XYZ_SUFFIXES

    path = Path(molecule)
    return [path] if path.suffix in (*XYZ_SUFFIXES, *SMILES_SUFFIXES) or _is_file(path) else []


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a long SMILES is no valid file name
        return False


# ---- training


def _train(options: argparse.Namespace) -> int:
    from physcon_ase.training.config import with_steps
    from physcon_ase.training.trainer import RunOptions, train

    recipe = _recipe(options)
    if options.steps is not None:
        recipe = with_steps(recipe, options.steps)
    run_options = RunOptions(save_minutes=options.save_minutes, progress_bar=not options.quiet)
    checkpoint = train(recipe, options.folder, store_root=options.stores, options=run_options)
    print(f"checkpoint written to {checkpoint}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from physcon_ase.checks import check_model, format_checks
    from physcon_ase.model.physcon import load_model

    loaded = load_model(options.checkpoint, dtype="float64")
    levels = loaded.model.level_names if options.level is None else (options.level,)
    passed = True
    for level in levels:
        checks = check_model(loaded, level, seed=options.seed)
        print(f"{loaded.name} (revision {loaded.revision[:12]}), level {level}, float64, seed {options.seed}")
        print(format_checks(checks))
        passed = passed and all(check.passed for check in checks)
    return 0 if passed else SOME_FAILED


def _recipe(options: argparse.Namespace) -> "Recipe":
    from physcon_ase.model.checkpoint import read_checkpoint
    from physcon_ase.model.config import config_from_dict
    from physcon_ase.training.config import added_to, read_recipe

    if options.add_level is None:
        if options.unfreeze:
            raise PhysConError(
                "--unfreeze says how to add a level; give the checkpoint with --add-level, or leave it out"
            )
        return read_recipe(options.recipe)
    config = config_from_dict(read_checkpoint(options.add_level).config)
    recipe = read_recipe(options.recipe, known_levels=[level.name for level in config.levels])
    return added_to(recipe, options.add_level, config, frozen=not options.unfreeze)


def _reproduce(options: argparse.Namespace) -> int:
    allowed = _DATA_OF_STUDIES[options.study]
    if options.data not in allowed:
        raise PhysConError(f"study {options.study} has no --data {options.data}; choose one of {', '.join(allowed)}")
    tables = _reproduce_levels(options) if options.study == "levels" else _reproduce_consistency(options)
    (options.folder / "tables.md").write_text(tables + "\n")
    print(tables)
    return 0


def _reproduce_consistency(options: argparse.Namespace) -> str:
    from physcon_ase.studies.consistency import ALL, SCALES, STUDIES, run_study
    from physcon_ase.studies.structures import MODES
    from physcon_ase.studies.tables import format_tables, plot_gain, plot_learning

    _check_rows(options.rows, list(STUDIES[options.data]().rows))
    unknown = sorted(set(options.modes) - set(MODES))
    if unknown:
        raise PhysConError(f"unknown modes {unknown}; choose from {list(MODES)}")
    for name in ("samples", "dft_energies"):
        if getattr(options, name) < 0:
            raise PhysConError(f"--{name.replace('_', '-')} is {getattr(options, name)}; 1 or more is needed")
    scale = SCALES[options.scale]
    records = run_study(
        options.data,
        options.folder,
        replace(scale, n_samples=options.samples or scale.n_samples),
        stores=options.stores,
        seeds=options.seeds,
        rows=options.rows,
        modes=options.modes,
        teacher=options.teacher,
        n_energies=options.dft_energies,
    )
    if options.plot:
        plot_gain(records, ALL, options.folder / "teachers.png")
        plot_learning(options.folder, records, options.folder / "learning.png")
    return format_tables(records)


def _reproduce_levels(options: argparse.Namespace) -> str:
    from physcon_ase.studies.curves import format_curves, plot_curves
    from physcon_ase.studies.levels import ROWS, SCALES, run_levels

    _check_rows(options.rows, list(ROWS))
    scale = SCALES[options.scale]
    records = run_levels(
        options.data, options.folder, scale, stores=options.stores, seeds=options.seeds, rows=options.rows
    )
    if options.plot:
        plot_curves(records, options.folder / "levels.png")
    return format_curves(records)


def _check_rows(rows: Sequence[str], known: list[str]) -> None:
    unknown = sorted(set(rows) - set(known))
    if unknown:
        raise PhysConError(f"unknown rows {unknown}; the study has {known}")


def _evaluate(options: argparse.Namespace) -> int:
    from physcon_ase.model.physcon import load_model

    loaded = load_model(options.checkpoint, device=options.device)
    print(f"{loaded.name} (revision {loaded.revision[:12]}), split {options.split}")
    line = "{:20s} {:10s} {:12s} {:>10s} {:>18s} {:>12s} {:>14s}"
    print(line.format("store", "level", "kind", "energies", "energy MAE [meV]", "components", "F MAE [meV/Å]"))
    for store in options.stores:
        for kind, errors in _errors_by_kind(loaded.model, store, options.split):
            energy, force = f"{1000 * errors.energy_mae:.1f}", f"{1000 * errors.force_mae:.1f}"
            print(
                line.format(store.stem, errors.level, kind, str(errors.n_energies), energy, str(errors.n_forces), force)
            )
    return 0


def _errors_by_kind(model: "PhysCon", path: Path, split: str) -> "Iterator[tuple[str, LevelErrors]]":
    """Errors of a model on one store, for each level that both have and each kind of geometry."""
    from physcon_ase.data.loader import DataSource, load_items
    from physcon_ase.data.store import open_store
    from physcon_ase.training.evaluate import check_coverage, evaluate_energies

    store = open_store(path)
    split, assign_to = ("test", "test") if split == "all" else (split, None)
    levels = tuple(name for name in model.level_names if name in {*store.labels, *store.geometries.minimum_of.tolist()})
    if not levels:
        raise StoreError(
            f"{path} has labels of {', '.join(store.labels) or 'no level'}, the model has the levels "
            f"{', '.join(model.level_names)}: nothing to compare"
        )
    for kind in dict.fromkeys(store.geometries.kind.tolist()):
        source = DataSource(path, levels, kinds=(kind,), structure=False, assign_to=assign_to)
        items = load_items([source], model.level_names, split)
        for level in levels:
            check_coverage(model, items, level)
        for errors in evaluate_energies(model, items):
            yield kind, errors


def _calibrate(options: argparse.Namespace) -> int:
    from physcon_ase.training.calibrate import calibrate, format_calibrations

    found = calibrate(
        options.checkpoint,
        options.stores,
        options.output,
        n_molecules=options.molecules,
        seed=options.seed,
        device=options.device,
    )
    print(format_calibrations(found))
    print(f"checkpoint written to {options.output}")
    return 0


# ---- data


def _data_import(options: argparse.Namespace) -> int:
    from physcon_ase.data.importers.importing import import_file
    from physcon_ase.data.importers.report import format_import_report

    stems = [path.stem for path in options.files]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise StoreError(f"several files would be written to {twice[0]}.h5: import them into different folders")
    keys = {name: getattr(options, name) for name in ("energy_key", "forces_key") if getattr(options, name) is not None}
    options.output.mkdir(parents=True, exist_ok=True)
    for path in options.files:
        output = options.output / f"{path.stem}.h5"
        report = import_file(path, output, level=options.level, **keys)
        print(format_import_report(report))
        print(f"  written to {output}")
    return 0


def _data_describe(options: argparse.Namespace) -> int:
    from physcon_ase.data.labels import format_label_report, label_report
    from physcon_ase.data.loader import DataSource, load_items
    from physcon_ase.data.store import open_store

    store = open_store(options.store)
    print(f"{store.source}: {len(store.molecules)} molecules, {len(store.geometries)} geometries")
    for name in ("licence", "doi", "provenance"):
        if getattr(store, name):
            print(f"  {name:10s} {getattr(store, name)}")
    kinds = store.geometries.kind.tolist()
    print("  kinds      " + ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)))
    levels = tuple(dict.fromkeys([*store.labels, *filter(None, store.geometries.minimum_of.tolist())]))
    everything = DataSource(options.store, levels, assign_to="train")
    print(format_label_report(label_report(load_items([everything], levels, "train"))))
    return 0


def _data_anchor(options: argparse.Namespace) -> int:
    from physcon_ase.data.store import open_store, write_store
    from physcon_ase.inference.files import check_output
    from physcon_ase.labelling.anchored import anchor, format_anchor_report

    check_output(options.output, [options.store], kinds=(".h5",))
    store = open_store(options.store)
    anchored, report = anchor(store, options.level, options.teacher)
    write_store(options.output, anchored)
    print(format_anchor_report(report, store.source))
    print(f"  written to {options.output}")
    return 0


def _label(options: argparse.Namespace) -> int:
    from physcon_ase.data.store import open_store
    from physcon_ase.inference.files import check_output, read_molecules
    from physcon_ase.labelling.engines import engine_by_name
    from physcon_ase.labelling.geometries import parse_samplings
    from physcon_ase.labelling.inputs import known_geometries
    from physcon_ase.labelling.pipeline import format_label_report, label

    files = [path for molecule in options.molecules for path in _inputs(molecule)]
    check_output(options.output, files, kinds=(".h5",))
    engine = engine_by_name(options.engine, level=options.level)
    driver = engine if options.sampling_engine is None else engine_by_name(options.sampling_engine)
    samplings = parse_samplings(options.geometries, engine=driver, max_kelvin=options.max_kelvin)
    selection = _selection(options)
    molecules = []
    for molecule in options.molecules:
        if molecule.endswith(".h5"):
            molecules += known_geometries(open_store(molecule), minima_of=options.minima_of)
        else:
            molecules += read_molecules(molecule) if _inputs(molecule) else [molecule]
    report = label(
        molecules,
        engine,
        samplings,
        options.output,
        selection=selection,
        seed=options.seed,
        processes=options.jobs,
        scheduler=options.scheduler,
        source=options.source,
        licence=options.licence,
        progress_bar=not options.quiet,
    )
    print(format_label_report(report, engine))
    return SOME_FAILED if report.failures else 0


def _selection(options: argparse.Namespace) -> "Selection | None":
    from physcon_ase.labelling.engines import engine_by_name
    from physcon_ase.labelling.selection import Selection

    if options.select is None:
        if options.committee or options.per_molecule is not None:
            raise PhysConError("--committee and --per-molecule say how to select: give the number with --select")
        return None
    members = [member.partition(":") for member in options.committee]
    committee = tuple(engine_by_name(name, level=level or None) for name, _, level in members)
    return Selection(options.select, committee, options.per_molecule)


# ---- models


def _models_list(_: argparse.Namespace) -> int:
    from physcon_ase.model.checkpoint import read_checkpoint, shipped_names

    for name in shipped_names():
        stored = read_checkpoint(name)
        levels = ", ".join(level["name"] for level in stored.config["levels"])
        print(f"{name}  levels {levels}  {_heads(stored.config)}  revision {stored.revision[:12]}")
    if not shipped_names():
        print("no checkpoint came with this package")
    return 0


def _models_info(options: argparse.Namespace) -> int:
    from physcon_ase.model.checkpoint import read_checkpoint
    from physcon_ase.model.coverage import format_charges
    from physcon_ase.units import CHEMICAL_SYMBOLS

    stored = read_checkpoint(options.name)
    size = sum(tensor.numel() for tensor in stored.tensors.values())
    print(f"{stored.name}\n  revision   {stored.revision}\n  parameters {size}, {_heads(stored.config)}")
    for level in stored.config["levels"]:
        base = f", a correction to {level['base']}" if level["base"] else ""
        layers = _own_layers(level["own_layers"], stored.config["encoder"]["n_layers"])
        elements = " ".join(CHEMICAL_SYMBOLS[z] for z in level["elements"])
        charges = format_charges(level.get("charges", [0]))
        print(f"  level      {level['name']}: {level['description']}{base}{layers}; {elements}; charge {charges}")
    return 0


def _own_layers(n_own: int, n_layers: int) -> str:
    if n_own in (0, n_layers):
        return " with its own encoder" if n_own else ""
    return " with its own last layer" if n_own == 1 else f" with its own last {n_own} layers"


def _models_verify(options: argparse.Namespace) -> int:
    from physcon_ase.hub import verify

    print(f"{options.name} is intact, revision {verify(options.name)}")
    return 0


def _models_download(options: argparse.Namespace) -> int:
    from physcon_ase.hub import download

    folder = download(options.repo_id, revision=options.revision, sha256=options.sha256, cache_dir=options.cache_dir)
    print(f"{options.repo_id} is verified and in {folder}")
    return 0


def _heads(config: dict) -> str:
    return "energies only" if config["structure"] is None else "energies and structures"


# ---- options


class _Version(argparse.Action):
    """Looks the version up only when asked: a source checkout that is not installed has none."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"physcon-ase {version('physcon-ase')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="physcon", description="SMILES to relaxed structure with energy and forces.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_optimize(commands)
    _add_predict(commands)
    _add_energy(commands)
    _add_train(commands)
    _add_reproduce(commands)
    _add_check(commands)
    _add_evaluate(commands)
    _add_calibrate(commands)
    _add_data(commands)
    _add_label(commands)
    _add_models(commands)
    return parser


def _command(commands: argparse._SubParsersAction, name: str, run: Callable, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=run)
    return command


def _add_optimize(commands: argparse._SubParsersAction) -> None:
    command = _command(commands, "optimize", _optimize, "relax a molecule, or all molecules of a file in batches")
    command.add_argument("molecule", metavar="SMILES|FILE", help="a SMILES, a list of them (.smi) or geometries (.xyz)")
    command.add_argument("-o", "--output", type=Path, help="where to write the structures: .xyz (extended XYZ) or .sdf")
    _add_model_options(command)
    command.add_argument("--optimizer", choices=("bfgs", "lbfgs", "fire"), default="bfgs", help="default: bfgs")
    command.add_argument("--fmax", type=float, default=0.01, help="largest force at the end [eV/Å] (default: .01)")
    command.add_argument("--max-steps", type=int, default=500, help="steps at most (default: 500)")
    command.add_argument(
        "--start", choices=("guess", "etkdg", "mmff94"), help="start geometry of a SMILES (default: guess)"
    )
    command.add_argument("--seed", type=int, default=0, help="of the start geometry (default: 0)")
    command.add_argument("--plot", type=Path, help="where to draw the convergence and the molecule: .png")


def _add_predict(commands: argparse._SubParsersAction) -> None:
    command = _command(commands, "predict", _predict, "energy and forces of all structures of a file, in one batch")
    command.add_argument("file", type=Path, metavar="FILE.xyz", help="structures as extended XYZ")
    command.add_argument(
        "-o", "--output", type=Path, required=True, help="where to write them with energy and forces: .xyz"
    )
    _add_model_options(command)


def _add_energy(commands: argparse._SubParsersAction) -> None:
    text = "print the energy of the structures of a file as they are, or of a SMILES once relaxed"
    command = _command(commands, "energy", _energy, text)
    command.add_argument("molecule", metavar="SMILES|FILE.xyz", help="a SMILES, or structures as extended XYZ")
    _add_model_options(command)


def _add_train(commands: argparse._SubParsersAction) -> None:
    text = "train a model by a recipe; goes on where an interrupted training in the same folder stopped"
    command = _command(commands, "train", _train, text)
    command.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="what to train on what")
    command.add_argument("--folder", type=Path, required=True, help="where state, log and checkpoint go")
    command.add_argument(
        "--stores", type=Path, default=Path(), help="folder of the stores that the recipe names (default: here)"
    )
    command.add_argument("--steps", type=int, help="number of steps, instead of that of the recipe")
    command.add_argument(
        "--add-level", metavar="CHECKPOINT", help="add the levels of the recipe to this checkpoint, whose weights stay"
    )
    command.add_argument(
        "--unfreeze", action="store_true", help="with --add-level: train its weights too; keep old levels in the data"
    )
    command.add_argument("--save-minutes", type=float, default=3.0, help="minutes between saved states (default: 3)")
    command.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_reproduce(commands: argparse._SubParsersAction) -> None:
    text = "make the data of a study, train all of its rows and print its tables; goes on where it was interrupted"
    command = _command(commands, "reproduce", _reproduce, text)
    command.add_argument(
        "study",
        choices=tuple(_DATA_OF_STUDIES),
        help="consistency: what energies teach predicted structures; levels: how far few accurate labels reach",
    )
    command.add_argument("--folder", type=Path, required=True, help="where checkpoints and results go")
    command.add_argument(
        "--data",
        choices=("selfmade", "qm9", "dft8k", "b3lyp"),
        default="selfmade",
        help="molecules and levels: selfmade, or qm9 and dft8k (consistency), b3lyp (levels) (default: selfmade)",
    )
    command.add_argument("--stores", type=Path, help="folder of the stores that the other data need (default: here)")
    command.add_argument(
        "--teacher",
        default="",
        metavar="CHECKPOINT",
        help=f"a name or a folder, instead of {DEFAULT_CHECKPOINT}; --data dft8k needs one with the level m062x",
    )
    command.add_argument(
        "--scale",
        choices=("tiny", "small", "full"),
        default="small",
        help="minutes, hours, or a night (default: small)",
    )
    command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    command.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="rows of the study, instead of all")
    command.add_argument(
        "--modes", nargs="+", default=[], metavar="MODE", help="ways to predict a structure, instead of all"
    )
    command.add_argument(
        "--samples", type=int, default=0, metavar="K", help="samples of each molecule (default: that of the scale)"
    )
    command.add_argument(
        "--dft-energies",
        type=int,
        default=0,
        metavar="N",
        help="also compute the energies of the N smallest molecules' structures with PySCF; minutes for each",
    )
    command.add_argument(
        "--plot",
        action="store_true",
        help="draw teachers.png (gain against quality of the teacher) and learning.png, or levels.png",
    )


def _add_check(commands: argparse._SubParsersAction) -> None:
    text = "does a checkpoint obey physics: one table of worst values and tolerances; exit code 1 if any is exceeded"
    command = _command(commands, "check", _check, text)
    command.add_argument(
        "checkpoint", nargs="?", default=DEFAULT_CHECKPOINT, metavar="CHECKPOINT", help="a shipped name or a folder"
    )
    command.add_argument("--level", help="level of theory (default: all)")
    command.add_argument("--seed", type=int, default=0, help="of geometries, rotations and velocities (default: 0)")


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    text = "errors of energies and forces on labelled data, for each level and kind of geometry"
    command = _command(commands, "evaluate", _evaluate, text)
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="a shipped name or a folder")
    command.add_argument("stores", type=Path, nargs="+", metavar="STORE", help="stores made by `physcon data import`")
    command.add_argument(
        "--split",
        choices=("train", "validation", "test", "all"),
        default="test",
        help="which molecules; all for a store whose geometries were all kept from the training (default: test)",
    )
    command.add_argument("--device", default="cpu", help="default: cpu")


def _add_calibrate(commands: argparse._SubParsersAction) -> None:
    text = "give a checkpoint uncertainties of energies and forces: a copy with tables, fitted to validation molecules"
    command = _command(commands, "calibrate", _calibrate, text)
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="a shipped name or a folder")
    command.add_argument("stores", type=Path, nargs="+", metavar="STORE", help="the stores that it was trained on")
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FOLDER", help="where the checkpoint with the tables goes"
    )
    command.add_argument(
        "--molecules", type=int, default=5000, metavar="N", help="of each store, split and level (default: 5000)"
    )
    command.add_argument("--seed", type=int, default=0, help="chooses them (default: 0)")
    command.add_argument("--device", default="cpu", help="default: cpu")


def _add_data(commands: argparse._SubParsersAction) -> None:
    data = commands.add_parser("data", help="labelled structures for training").add_subparsers(
        required=True, metavar="COMMAND"
    )
    command = _command(data, "import", _data_import, "turn files with labels into stores")
    command.add_argument("files", type=Path, nargs="+", metavar="FILE", help="archive, extended XYZ or ASE database")
    command.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for the stores")
    command.add_argument("--level", help="level of theory of the labels, for extended XYZ and ASE databases")
    command.add_argument("--energy-key", help="name of the energies in such files, if not that of ASE's calculators")
    command.add_argument("--forces-key", help="name of the forces in such files, if not that of ASE's calculators")
    text = "labels of an accurate level around its minima, with the curvature of a teacher"
    command = _command(data, "anchor", _data_anchor, text)
    command.add_argument("store", type=Path, metavar="STORE", help="minima, displacements, labels of the teacher")
    command.add_argument("-o", "--output", type=Path, required=True, help="the store: .h5")
    command.add_argument("--level", required=True, help="level of theory of the minima")
    command.add_argument("--teacher", required=True, metavar="LEVEL", help="level that knows the curvature")
    command = _command(data, "describe", _data_describe, "what a store holds")
    command.add_argument("store", type=Path, metavar="STORE")


def _add_label(commands: argparse._SubParsersAction) -> None:
    text = "sample geometries of molecules and label them: a store; goes on where an interrupted run stopped"
    command = _command(commands, "label", _label, text)
    command.add_argument(
        "molecules",
        nargs="+",
        metavar="SMILES|FILE",
        help="SMILES, lists of them (.smi), geometries (.xyz) or stores (.h5)",
    )
    command.add_argument("-o", "--output", type=Path, required=True, help="the store: .h5")
    command.add_argument(
        "--engine",
        default="gfn2",
        metavar="ENGINE",
        help="gfn2, gfn1 (tblite), pm6, pm7 (MOPAC), b3lyp, b3lyp-d3, wb97x-d3bj, r2scan, m062x (PySCF), aimnet2 "
        "(networks in turn), aimnet2-mean, or a checkpoint, by name or folder (default: gfn2)",
    )
    command.add_argument("--level", help="level of theory of a checkpoint (default: its first)")
    command.add_argument(
        "--geometries",
        default="conformer:1,thermal:2",
        metavar="KIND:N,...",
        help="start (as given, or relaxed with MMFF94), conformer, relaxing, thermal, torsion, twist, path, md "
        "(default: %(default)s)",
    )
    command.add_argument("--max-kelvin", type=float, default=700.0, help="of thermal geometries (default: 700)")
    command.add_argument(
        "--sampling-engine", metavar="ENGINE", help="what drives path and md (default: the engine that labels)"
    )
    command.add_argument("--select", type=int, metavar="N", help="label the N geometries that are most disputed only")
    command.add_argument(
        "--committee",
        nargs="+",
        default=[],
        metavar="ENGINE[:LEVEL]",
        help="with --select: who disagrees, checkpoints with or without a level, or other engines; at least two",
    )
    command.add_argument("--per-molecule", type=int, metavar="N", help="with --select: at most so many of a molecule")
    command.add_argument("--minima-of", metavar="LEVEL", help="of stores: their minima of this level only")
    command.add_argument("--jobs", type=int, metavar="N", help="worker processes (default: one per core)")
    command.add_argument("--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers are used instead")
    command.add_argument("--seed", type=int, default=0, help="of all geometries (default: 0)")
    command.add_argument("--source", default="", help="name of the data set (default: that of the store)")
    command.add_argument("--licence", default="", help="licence of the data")
    command.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_models(commands: argparse._SubParsersAction) -> None:
    models = commands.add_parser("models", help="checkpoints").add_subparsers(required=True, metavar="COMMAND")
    _command(models, "list", _models_list, "the checkpoints that came with the package")
    command = _command(models, "info", _models_info, "levels, elements, size and revision of a checkpoint")
    command.add_argument("name", help="a shipped name or a folder")
    command = _command(models, "verify", _models_verify, "check that a checkpoint is complete and unchanged")
    command.add_argument("name", help="a shipped name or a folder")
    command = _command(models, "download", _models_download, "fetch a checkpoint from the Hub and verify it")
    command.add_argument("repo_id", metavar="OWNER/NAME", help="the repository")
    command.add_argument("--revision", required=True, help="commit, 40 hexadecimal digits")
    command.add_argument("--sha256", help="sha256 that the weights must have")
    command.add_argument("--cache-dir", type=Path, help="cache folder, that of huggingface_hub unless given")


def _add_model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--level", help="level of theory (default: the first of the checkpoint)")
    command.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, help="name or folder (default: %(default)s)")
    command.add_argument("--device", default="cpu", help="where the model computes (default: cpu)")


if __name__ == "__main__":
    sys.exit(main())
