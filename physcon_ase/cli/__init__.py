"""The command ``physcon``: parses and calls one function; each option is an argument of that function.

Exit codes: 0 done, 1 some molecules of a batch failed, 2 the input was refused (one line says why), 130 interrupted.

structures    optimize, predict, energy
training      train, evaluate, calibrate
data          data import, data describe, data anchor, label
models        models list, info, verify, download; check
"""

# Everything heavy is imported inside the commands, so that `physcon --help` answers at once.

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

from physcon_ase.cli.command import DEFAULT_CHECKPOINT, SOME_FAILED
from physcon_ase.cli.data import add_data, add_label
from physcon_ase.cli.models import add_check, add_models
from physcon_ase.cli.structures import add_energy, add_optimize, add_predict
from physcon_ase.cli.training import add_calibrate, add_evaluate, add_train
from physcon_ase.errors import PhysConError

__all__ = ["DEFAULT_CHECKPOINT", "INTERRUPTED", "REFUSED", "SOME_FAILED", "exit_code", "main"]

REFUSED, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        arguments: words after ``physcon``; those of the command line unless given.
    """
    options = _parser().parse_args(arguments)
    return exit_code("physcon", lambda: options.run(options))


def exit_code(program: str, command: Callable[[], int]) -> int:
    """The exit code of a command; what it refuses is one line on standard error, begun with the name of the program."""
    try:
        return command()
    except PhysConError as error:
        print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return REFUSED
    except OSError as error:  # a disk that is full, a file that may not be read or written
        print(f"{program}: error: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return INTERRUPTED


class _Version(argparse.Action):
    """Looks the version up only when asked: a source checkout that is not installed has none."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"physcon-ase {version('physcon-ase')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="physcon", description="SMILES to relaxed structure with energy and forces.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_optimize(commands)
    add_predict(commands)
    add_energy(commands)
    add_train(commands)
    add_check(commands)
    add_evaluate(commands)
    add_calibrate(commands)
    add_data(commands)
    add_label(commands)
    add_models(commands)
    return parser
