"""Options and exit codes shared by the commands."""

import argparse
from collections.abc import Callable
from typing import Final

DEFAULT_CHECKPOINT: Final = "physcon-2-preview"
"""Checkpoint shipped with the package; equal to `model.physcon.DEFAULT_CHECKPOINT`."""

SOME_FAILED: Final = 1
"""Exit code if some molecules or checks failed."""


def add_command(commands: argparse._SubParsersAction, name: str, run: Callable, text: str) -> argparse.ArgumentParser:
    """Adds a command that calls `run` with the parsed options; returns its parser."""
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=run)
    return command


def add_model_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of commands that load a model."""
    command.add_argument("--level", help="level of theory (default: the first of the checkpoint)")
    command.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, help="name or folder (default: %(default)s)")
    command.add_argument("--device", default="cpu", help="torch device of the model (default: cpu)")
