"""What the commands share."""

import argparse
from collections.abc import Callable
from typing import Final

DEFAULT_CHECKPOINT: Final = "physcon-1"
"""The checkpoint that ships with the package; equal to `model.physcon.DEFAULT_CHECKPOINT`."""

SOME_FAILED: Final = 1
"""Exit code of a command that was done for a part of its molecules, or whose checks found something."""


def add_command(commands: argparse._SubParsersAction, name: str, run: Callable, text: str) -> argparse.ArgumentParser:
    """Adds a command that runs this function of the options; its own options are added to what is returned."""
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=run)
    return command


def add_model_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of a command that loads a model."""
    command.add_argument("--level", help="level of theory (default: the first of the checkpoint)")
    command.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, help="name or folder (default: %(default)s)")
    command.add_argument("--device", default="cpu", help="where the model computes (default: cpu)")
