"""Options and exit codes shared by the commands."""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from physcon_ase.errors import PhysConError
from physcon_ase.inference.formats.table import READABLE, format_named, listed
from physcon_ase.plurals import counted

if TYPE_CHECKING:
    from physcon_ase.inference.formats.rows import Row
    from physcon_ase.inference.results import Record
    from physcon_ase.inference.run_records import RunRecord

DEFAULT_CHECKPOINT: Final = "physcon-2"
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
    command.add_argument(
        "--level",
        default="auto",
        help="level of theory (default: auto, the first that covers the molecule)",
    )
    command.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, help="name or folder (default: %(default)s)")
    command.add_argument("--device", default="cpu", help="torch device of the model (default: cpu)")


def add_start_options(command: argparse.ArgumentParser) -> None:
    """Adds the options for the start geometry of a SMILES."""
    command.add_argument(
        "--start",
        choices=("mmff94", "etkdg", "guess"),
        help="start geometry for a SMILES: lowest MMFF94 minimum of four ETKDG geometries, a single ETKDG geometry, or "
        "the guess of the structure network (default: mmff94)",
    )
    command.add_argument("--seed", type=int, default=0, help="random seed of the start geometry (default: 0)")


def add_input(command: argparse.ArgumentParser) -> None:
    """Adds the input molecules and the options for tables; see `read_input`."""
    command.add_argument(
        "molecule",
        metavar="SMILES|FILE",
        help=f"SMILES, file, or - for standard input: {listed(READABLE)}; any of them may end in .gz",
    )
    command.add_argument("--smiles-column", metavar="NAME", help="column of a table with the SMILES (default: by name)")
    command.add_argument("--name-column", metavar="NAME", help="column of a table with the names (default: by name)")
    command.set_defaults(stereoisomers=False)


def add_stereoisomers(command: argparse.ArgumentParser) -> None:
    """Adds the enumeration of stereoisomers to the options of `add_input`."""
    command.add_argument(
        "--stereoisomers",
        action="store_true",
        help="every stereoisomer of a SMILES whose configuration is not defined (default: one, decided by the seed)",
    )


def read_input(options: argparse.Namespace) -> "list[Row]":
    """Molecules of the options of `add_input`. Raises the errors of `files.read_rows`."""
    from physcon_ase.inference.files import rows_named
    from physcon_ase.inference.formats.rows import stereoisomer_rows

    rows = rows_named(options.molecule, smiles_column=options.smiles_column, name_column=options.name_column)
    return [isomer for row in rows for isomer in stereoisomer_rows(row)] if options.stereoisomers else rows


def add_outputs(command: argparse.ArgumentParser, text: str, *, several_at_once: bool = False) -> None:
    """Adds the output files, whose option may be repeated; `text` names the formats."""
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        action="extend" if several_at_once else "append",
        nargs="+" if several_at_once else None,
        default=[],
        metavar="FILE",
        help=f"output file; may be repeated. {text}",
    )


def check_outputs(outputs: Sequence[Path], inputs: Sequence[Path], *, kinds: Sequence[str] | None = None) -> None:
    """Checks the outputs of a command. Raises the errors of `files.check_output` and `check_distinct`."""
    from physcon_ase.inference.files import check_output

    for output in outputs:
        check_output(output, inputs, kinds=kinds)
    check_distinct(outputs)


def check_distinct(outputs: Sequence[Path]) -> None:
    """Checks that no output of a command replaces another.

    Raises:
        PhysConError: a file is given twice.
    """
    for number, output in enumerate(outputs):
        if output.resolve() in [other.resolve() for other in outputs[:number]]:
            raise PhysConError(f"{output} is given twice as output: choose different names")


def check_failure_tables(outputs: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Checks the tables of failures beside the outputs."""
    from physcon_ase.inference.files import check_output, failures_path

    for path in failure_tables(outputs):
        check_output(path, inputs)
    tables = {failures_path(output).resolve(): output for output in outputs if needs_failure_table(output)}
    for output in outputs:
        if output.resolve() in tables:
            raise PhysConError(
                f"cannot write {output}, which is the table of the failures of {tables[output.resolve()]}: choose "
                "another name"
            )


def failure_tables(outputs: Sequence[Path]) -> list[Path]:
    """Tables of the failures of all outputs that cannot contain them."""
    from physcon_ase.inference.files import failures_path

    return list(dict.fromkeys(failures_path(output) for output in outputs if needs_failure_table(output)))


def needs_failure_table(output: Path) -> bool:
    """Whether an output contains structures only, so that failures are written to a table beside it."""
    kind = format_named(output)
    return kind is not None and not kind.keeps_failures


def one_row(argument: str) -> "Row":
    """The molecule of an argument that is a SMILES, "-" or the name of a file with one molecule.

    Raises:
        PhysConError: the file has several molecules; also see `files.read_molecules`.
    """
    from physcon_ase.inference.files import readable, rows_named

    rows = readable(rows_named(argument), argument)
    if len(rows) != 1:
        raise PhysConError(f"{argument} has {counted(len(rows), 'molecule')}, but one is needed: give a file with one")
    return rows[0]


def add_run_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of runs over many molecules."""
    command.add_argument("--jobs", type=int, default=1, metavar="N", help="number of processes (default: 1)")
    command.add_argument("--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers are used instead")
    command.add_argument("--quiet", action="store_true", help="no progress bar")


def add_summary(command: argparse.ArgumentParser) -> None:
    """Adds the table of a run over many molecules, see `check_summary`."""
    command.add_argument(
        "--summary", type=Path, metavar="FILE", help="table (.csv, .tsv) with one row per molecule, failures included"
    )


def check_summary(options: argparse.Namespace, inputs: Sequence[Path]) -> None:
    """Checks the table of `add_summary`, if there is one. Raises the errors of `check_outputs`."""
    from physcon_ase.inference.run_records import TABLES

    if options.summary is not None:
        check_outputs([options.summary], inputs, kinds=TABLES)
        check_distinct([*options.output, options.summary])


def many_wanted(options: argparse.Namespace, rows: "Sequence[Row]", inputs: Sequence[Path]) -> bool:
    """Whether the outputs of a command with `add_summary` are records of several molecules.

    Raises:
        PhysConError: an output for one molecule, but there are several; also see `check_outputs`.
    """
    from physcon_ase.inference.formats.table import suffix_of
    from physcon_ase.inference.run_records import LINES

    of_records = [output for output in options.output if suffix_of(output) == LINES]
    if len(rows) == 1 and options.summary is None and not of_records:
        return False
    check_summary(options, inputs)
    for output in options.output:
        if output not in of_records:
            raise PhysConError(
                f"{output} can contain one molecule, but {options.molecule} has {len(rows)}: write {LINES}, and a "
                "table with --summary"
                if len(rows) > 1
                else f"{output} cannot be written together with {LINES} or --summary: leave one of them out"
            )
    check_outputs(options.output, inputs, kinds=(LINES,))
    return True


def finish_records(
    options: argparse.Namespace,
    records: "Sequence[RunRecord[Any]]",
    inputs: Sequence[Path],
    format_record: "Callable[[RunRecord[Any]], str]",
    write_summary: Callable[..., None],
    *,
    write_outputs: Callable[[], list[str]] | None = None,
    details: Sequence[str] = (),
) -> int:
    """Writes and prints the records of a command with `add_summary`, and removes the journal; returns the exit code.

    Args:
        options: options of the command.
        records: the records.
        inputs: input files, which must not be overwritten.
        format_record: function record -> line for the terminal.
        write_summary: function (records, path, inputs) that writes the table of the run.
        write_outputs: writes the outputs and returns what was written; lines of JSON by default.
        details: further lines for the terminal, after those of the records.
    """
    from physcon_ase.inference.run_records import write_lines

    lines = [*map(format_record, records), *details]
    if write_outputs is not None:
        lines += write_outputs()
    else:
        for output in options.output:
            write_lines(records, output, inputs=inputs)
            lines.append(f"{counted(len(records), 'molecule')} written to {output}")
    if options.summary is not None:
        write_summary(records, options.summary, inputs=inputs)
        lines.append(f"{counted(len(records), 'molecule')} written to {options.summary}")
    journal = journal_of(record_files(options))
    if journal is not None:  # deleted last: an interruption before leads to the same files
        journal.unlink(missing_ok=True)
    counts = Counter(record.status for record in records)
    numbers = ", ".join(f"{number} {status}" for status, number in counts.most_common())
    print("\n".join([*lines, f"{counted(len(records), 'molecule')}: {numbers}"]))
    return 0 if counts["ok"] == len(records) else SOME_FAILED


def record_files(options: argparse.Namespace) -> list[Path]:
    """Outputs of a command with `add_summary`, the first of which names its journal."""
    return [*options.output, *([] if options.summary is None else [options.summary])]


def journal_of(outputs: Sequence[Path]) -> Path | None:
    """Journal of a run next to its first output, "<output>.journal"; None without an output."""
    return outputs[0].with_name(f"{outputs[0].name}.journal") if outputs else None


def write_failures(records: "Sequence[Record]", path: Path, inputs: Sequence[Path]) -> list[str]:
    """Writes records without a structure to a table that replaces that of an earlier run; returns what was written."""
    from physcon_ase.inference.files import write_records

    if not records:
        path.unlink(missing_ok=True)
        return []
    write_records(records, path, inputs=inputs)
    return [f"{len(records)} without a structure, with the reasons in {path}"]
