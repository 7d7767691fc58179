"""Renews the tables of a model card: runs each command in it and replaces the output below.

    python benchmarks/card.py CARD --stores STORES --archives DATA --aimnet2 WHEEL [--only errors.py peers.py]
        [--skip criteria.py]

In the commands of a card, S stands for the folder of the stores, D for that of the archives, U for the list of SMILES
there, W for the wheel of AIMNet2 and N for the checkpoint trained without consistency (--without). A command that fails
keeps its old output and is named at the end. Commands run `--jobs` at a time, those that measure times alone.
"""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
COMMAND: Final = "    python benchmarks/"
"""Beginning of the line of a command; its output ends at the next one or at a heading of the second level."""

SMILES: Final = "smiles_union.tsv.xz"

TIMED: Final = ("rates", "many.py")
"""Words of commands that measure times."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("card", type=Path, help="the model card")
    parser.add_argument("--stores", type=Path, required=True, help="folder of the stores (S)")
    parser.add_argument("--archives", type=Path, required=True, help="folder of the archives (D)")
    parser.add_argument("--aimnet2", type=Path, required=True, help="wheel of AIMNet2 (W)")
    parser.add_argument("--without", type=Path, default=Path("without"), help="checkpoint without consistency (N)")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="only commands with one of these words")
    parser.add_argument("--skip", nargs="+", metavar="WORD", default=[], help="no commands with one of these words")
    parser.add_argument("--jobs", type=int, default=1, help="commands at a time (default: 1)")
    arguments = parser.parse_args(argv)
    archives, stores = arguments.archives, arguments.stores
    places = {"S": stores, "D": archives, "U": archives / SMILES, "W": arguments.aimnet2, "N": arguments.without}
    environment = {**os.environ, "PHYSCON_AIMNET2": str(arguments.aimnet2.resolve()), "OMP_NUM_THREADS": "1"}

    def output_of(command: str) -> str | None:
        words = [str(places[word].resolve()) if word in places else word for word in shlex.split(command)[1:]]
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        print(f"{command}: {'done' if done.returncode == 0 else done.stderr.strip().splitlines()[-1:]}", flush=True)
        return done.stdout if done.returncode == 0 else None

    commands = [
        command
        for command in commands_of(arguments.card.read_text(encoding="utf-8"))
        if (arguments.only is None or has_one(command, arguments.only)) and not has_one(command, arguments.skip)
    ]
    timed = [command for command in commands if has_one(command, TIMED)]
    failed: list[str] = []
    for group, jobs in (([own for own in commands if own not in timed], arguments.jobs), (timed, 1)):
        failed += _renew(arguments.card, group, output_of, jobs)
    for command in failed:
        print(f"failed, output kept: {command}", file=sys.stderr)
    return 1 if failed else 0


def _renew(card: Path, commands: Sequence[str], output_of: Callable[[str], str | None], jobs: int) -> list[str]:
    """Runs commands and writes the output of each into the card; returns those that failed."""
    failed = []
    with ThreadPoolExecutor(jobs) as pool:
        for command, output in zip(commands, pool.map(output_of, commands), strict=True):
            if output is None:
                failed.append(command)
            else:
                card.write_text(with_output(card.read_text(encoding="utf-8"), command, output), encoding="utf-8")
    return failed


def has_one(command: str, words: Sequence[str]) -> bool:
    """Whether a command contains one of the words."""
    return any(word in command for word in words)


def commands_of(text: str) -> list[str]:
    """Commands of a card, in their order."""
    return [line.strip() for line in text.splitlines() if line.startswith(COMMAND)]


def with_output(text: str, command: str, output: str) -> str:
    """The card with another output below a command."""
    lines = text.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.strip() == command) + 1
    rest = range(begin, len(lines))
    end = next((number for number in rest if lines[number].startswith((COMMAND, "## "))), len(lines))
    return "\n".join([*lines[:begin], "", output.strip(), "", *lines[end:]]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
