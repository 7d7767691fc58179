"""Commands for training: ``train``, ``evaluate``, ``calibrate``."""

import argparse
from pathlib import Path

from physcon_ase.cli.command import add_command
from physcon_ase.errors import PhysConError


def add_train(commands: argparse._SubParsersAction) -> None:
    """Adds ``physcon train``."""
    text = "train a model with a recipe; continues an interrupted training in the same folder"
    command = add_command(commands, "train", _train, text)
    command.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="training recipe")
    command.add_argument("--folder", type=Path, required=True, help="output folder for state, log and checkpoint")
    command.add_argument(
        "--stores", type=Path, default=Path(), help="folder of the stores of the recipe (default: current folder)"
    )
    command.add_argument("--steps", type=int, help="number of steps (default: that of the recipe)")
    command.add_argument(
        "--add-level", metavar="CHECKPOINT", help="add the levels of the recipe to this checkpoint with frozen weights"
    )
    command.add_argument(
        "--unfreeze", action="store_true", help="with --add-level: train all weights; the data must include old levels"
    )
    command.add_argument("--scale", help="smaller variant defined by a recipe with stages, such as tiny")
    command.add_argument("--device", default="cpu", help="device of the model, e.g. cuda (default: cpu)")
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
        device=options.device,
        save_minutes=options.save_minutes,
        progress_bar=not options.quiet,
    )
    print(f"checkpoint written to {checkpoint}")
    return 0


def add_evaluate(commands: argparse._SubParsersAction) -> None:
    """Adds ``physcon evaluate``."""
    text = "print errors of energies and forces on labelled data, by level and kind of geometry"
    command = add_command(commands, "evaluate", _evaluate, text)
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="shipped name or folder")
    command.add_argument("stores", type=Path, nargs="+", metavar="STORE", help="stores with labels")
    command.add_argument(
        "--split",
        choices=("train", "validation", "test", "all"),
        default="test",
        help="split of the molecules; all for stores that were not used for training (default: test)",
    )
    command.add_argument("--device", default="cpu", help="torch device of the model (default: cpu)")


def _evaluate(options: argparse.Namespace) -> int:
    from physcon_ase.training.store_errors import error_table

    for line in error_table(options.checkpoint, options.stores, split=options.split, device=options.device):
        print(line)
    return 0


def add_calibrate(commands: argparse._SubParsersAction) -> None:
    """Adds ``physcon calibrate``."""
    text = "calibrate uncertainties of energies and forces on validation molecules; writes a copy of the checkpoint"
    command = add_command(commands, "calibrate", _calibrate, text)
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="shipped name or folder")
    command.add_argument(
        "stores",
        type=Path,
        nargs="*",
        metavar="STORE",
        help="stores used to train the checkpoint; none if only its structures were trained since --continues, whose "
        "uncertainties are then copied",
    )
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder of the calibrated checkpoint"
    )
    command.add_argument(
        "--continues",
        metavar="CHECKPOINT",
        help="calibrated checkpoint whose training was continued: the environments of its molecules are known as well",
    )
    command.add_argument(
        "--molecules",
        type=int,
        default=5000,
        metavar="N",
        help="maximum number of molecules per store, split and level (default: 5000)",
    )
    command.add_argument("--seed", type=int, default=0, help="random seed of their selection (default: 0)")
    command.add_argument("--device", default="cpu", help="torch device of the model (default: cpu)")


def _calibrate(options: argparse.Namespace) -> int:
    from physcon_ase.training.calibrate import calibrate, copy_calibration, format_calibrations

    if not options.stores:
        if options.continues is None:
            raise PhysConError("no STORE is given; give those used to train the checkpoint, or --continues CHECKPOINT")
        copy_calibration(options.checkpoint, options.continues, options.output)
        print(f"uncertainties of {options.continues}; checkpoint written to {options.output}")
        return 0
    found = calibrate(
        options.checkpoint,
        options.stores,
        options.output,
        continues=options.continues,
        n_molecules=options.molecules,
        seed=options.seed,
        device=options.device,
    )
    print(format_calibrations(found))
    print(f"checkpoint written to {options.output}")
    return 0
