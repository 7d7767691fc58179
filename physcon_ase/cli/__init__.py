"""Command ``physcon``: each subcommand parses its options and calls one function of the package.

Exit codes: 0 success, 1 some molecules failed or are uncertain, or checks failed, 2 invalid input (with a one-line
message), 130 interrupted.

structures    optimize, predict, energy
properties    vibrations, interaction
conformers    ensemble, scan, strain
reports       report
training      train, evaluate, calibrate
data          data import, data describe, data anchor, data transfer, data separate, data exclude, label
models        models list, info, verify, download; check
"""

# Heavy modules are imported inside the commands, so that `physcon --help` is fast.

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

from physcon_ase.cli.command import DEFAULT_CHECKPOINT, SOME_FAILED
from physcon_ase.cli.conformers import add_ensemble, add_scan, add_strain
from physcon_ase.cli.data import add_data, add_label
from physcon_ase.cli.models import add_check, add_models
from physcon_ase.cli.properties import add_interaction, add_vibrations
from physcon_ase.cli.reports import add_report
from physcon_ase.cli.structures import add_energy, add_optimize, add_predict
from physcon_ase.cli.training import add_calibrate, add_evaluate, add_train
from physcon_ase.errors import PhysConError

__all__ = ["DEFAULT_CHECKPOINT", "INTERRUPTED", "REFUSED", "SOME_FAILED", "exit_code", "main"]

REFUSED, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        arguments: command line arguments after ``physcon``; by default those of the process.
    """
    _print_what_the_console_can()
    options = _parser().parse_args(arguments)
    return exit_code("physcon", lambda: options.run(options))


def exit_code(program: str, command: Callable[[], int]) -> int:
    """Runs a command and returns its exit code; errors are printed to standard error on one line."""
    try:
        return command()
    except PhysConError as error:
        print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return REFUSED
    except OSError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return INTERRUPTED


def _print_what_the_console_can() -> None:
    """Replaces characters that a console cannot print, such as Å in ASCII, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


class _Version(argparse.Action):
    """Looks up the version only on request, since a source checkout that is not installed has none."""

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
    add_vibrations(commands)
    add_interaction(commands)
    add_ensemble(commands)
    add_scan(commands)
    add_strain(commands)
    add_report(commands)
    add_train(commands)
    add_check(commands)
    add_evaluate(commands)
    add_calibrate(commands)
    add_data(commands)
    add_label(commands)
    add_models(commands)
    return parser
