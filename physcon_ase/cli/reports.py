"""Command for a page with the results of other commands: ``report``."""

import argparse
from pathlib import Path

from physcon_ase.cli.command import add_command
from physcon_ase.plurals import counted


def add_report(commands: argparse._SubParsersAction) -> None:
    """Adds ``physcon report``."""
    text = "write one HTML page with the results of other commands: table, structures, plots and failures"
    command = add_command(commands, "report", _report, text)
    command.add_argument(
        "inputs",
        nargs="+",
        type=Path,
        metavar="INPUT",
        help="result files, or folders with result files: .jsonl of optimize, ensemble, scan, strain and vibrations, "
        ".json of ensemble, scan, vibrations and interaction",
    )
    command.add_argument("-o", "--output", type=Path, required=True, metavar="PAGE", help="output file (.html)")
    command.add_argument("--title", default="physcon report", help="title of the page (default: %(default)s)")


def _report(options: argparse.Namespace) -> int:
    from physcon_ase.inference.pages.page import write_report

    entries = write_report(options.inputs, options.output, title=options.title)
    print(f"{counted(len(entries), 'molecule')} written to {options.output}")
    return 0
