"""Commands on trainings: ``train``, ``evaluate``, ``calibrate``."""

import argparse
from pathlib import Path

from physcon_ase.cli.command import add_command


def add_train(commands: argparse._SubParsersAction) -> None:
    """Adds ``physcon train``."""
    text = "train a model by a recipe; goes on where an interrupted training in the same folder stopped"
    command = add_command(commands, "train", _train, text)
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
    command.add_argument("--scale", help="a smaller version that a recipe with stages names, such as tiny")
    command.add_argument("--save-minutes", type=float, default=3.0, help="minutes between saved states (default: 3)")
    command.add_argument("--quiet", action="store_true", help="no progress bar")


def _train(options: argparse.Namespace) -> int:
    from physcon_ase.memory import keep_freed_memory
    from physcon_ase.training.from_file import train_from_file

    keep_freed_memory()
    checkpoint = train_from_file(
        options.recipe,
        options.folder,
        stores=options.stores,
        steps=options.steps,
        add_level=options.add_level,
        unfreeze=options.unfreeze,
        scale=options.scale,
        save_minutes=options.save_minutes,
        progress_bar=not options.quiet,
    )
    print(f"checkpoint written to {checkpoint}")
    return 0


def add_evaluate(commands: argparse._SubParsersAction) -> None:
    """Adds ``physcon evaluate``."""
    text = "errors of energies and forces on labelled data, for each level and kind of geometry"
    command = add_command(commands, "evaluate", _evaluate, text)
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="a shipped name or a folder")
    command.add_argument("stores", type=Path, nargs="+", metavar="STORE", help="stores made by `physcon data import`")
    command.add_argument(
        "--split",
        choices=("train", "validation", "test", "all"),
        default="test",
        help="which molecules; all for a store whose geometries were all kept from the training (default: test)",
    )
    command.add_argument("--device", default="cpu", help="default: cpu")


def _evaluate(options: argparse.Namespace) -> int:
    from physcon_ase.training.store_errors import error_table

    for line in error_table(options.checkpoint, options.stores, split=options.split, device=options.device):
        print(line)
    return 0


def add_calibrate(commands: argparse._SubParsersAction) -> None:
    """Adds ``physcon calibrate``."""
    text = "give a checkpoint uncertainties of energies and forces: a copy with tables, fitted to validation molecules"
    command = add_command(commands, "calibrate", _calibrate, text)
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
