"""Commands for molecules and structures: ``optimize``, ``predict``, ``energy``."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from physcon_ase.cli.command import (
    SOME_FAILED,
    add_command,
    add_input,
    add_model_options,
    add_outputs,
    add_run_options,
    add_start_options,
    add_stereoisomers,
    check_failure_tables,
    check_outputs,
    failure_tables,
    journal_of,
    read_input,
    write_failures,
)
from physcon_ase.errors import PhysConError
from physcon_ase.inference.formats.table import STRUCTURES, WRITABLE, listed
from physcon_ase.plurals import counted

if TYPE_CHECKING:
    from physcon_ase.inference.formats.rows import Row
    from physcon_ase.inference.results import Record


def add_optimize(commands: argparse._SubParsersAction) -> None:
    """Adds ``physcon optimize``."""
    text = "relax a molecule, or all molecules of a file in batches; continues an interrupted run"
    command = add_command(commands, "optimize", _optimize, text)
    add_input(command)
    add_stereoisomers(command)
    add_outputs(command, f"The suffix determines the format: {listed(WRITABLE)}")
    add_model_options(command)
    command.add_argument(
        "--optimizer",
        choices=("lbfgs", "bfgs", "fire"),
        default="lbfgs",
        help="optimiser, bfgs only for a SMILES on the command line (default: lbfgs)",
    )
    command.add_argument(
        "--fmax", type=float, default=0.01, help="convergence threshold for the largest force [eV/Å] (default: 0.01)"
    )
    command.add_argument("--max-steps", type=int, default=500, help="maximum number of steps (default: 500)")
    command.add_argument(
        "--fragments",
        choices=("all", "largest"),
        default="all",
        help="of several molecules, such as a SMILES with dots: relax all fragments together, or keep the largest "
        "(default: all)",
    )
    add_start_options(command)
    command.add_argument("--plot", type=Path, help="output file for a plot of the convergence and the molecule (.png)")
    add_run_options(command)


def _optimize(options: argparse.Namespace) -> int:
    from physcon_ase.inference.files import check_output, files_named
    from physcon_ase.inference.one import optimize
    from physcon_ase.inference.report import format_result
    from physcon_ase.inference.results import record_of

    inputs = files_named(options.molecule)
    check_outputs(options.output, inputs)
    check_failure_tables(options.output, inputs)
    if options.plot is not None:
        check_output(options.plot, inputs, kinds=(".png",))
    rows = read_input(options)
    if rows[0].source or len(rows) > 1:  # more than a SMILES
        return _optimize_many(options, rows)
    (row,) = rows
    result = optimize(
        row,
        level=options.level,
        checkpoint=options.checkpoint,
        optimizer=options.optimizer,
        fmax=options.fmax,
        max_steps=options.max_steps,
        start=options.start,
        fragments=options.fragments,
        seed=options.seed,
        device=options.device,
    )
    record = record_of(result, smiles=row.smiles)
    lines = [*_written([record], options.output, inputs), *_plotted(record, options.plot)]
    print("\n".join([format_result(result), *lines]))
    return 0 if result.is_ok else SOME_FAILED


def _optimize_many(options: argparse.Namespace, rows: "list[Row]") -> int:
    from physcon_ase.inference.files import files_named
    from physcon_ase.inference.many import optimize_many
    from physcon_ase.inference.report import format_record, format_summary
    from physcon_ase.relax.driver import METHODS

    if options.plot is not None and len(rows) > 1:
        raise PhysConError(f"--plot draws one molecule, but {options.molecule} has {len(rows)}: omit it")
    if options.optimizer not in METHODS:
        raise PhysConError(
            f"--optimizer {options.optimizer} is for a SMILES on the command line; for a file choose "
            f"{' or '.join(METHODS)}"
        )
    journal = journal_of(options.output)
    records = optimize_many(
        rows,
        level=options.level,
        checkpoint=options.checkpoint,
        method=options.optimizer,
        fmax=options.fmax,
        max_steps=options.max_steps,
        start=options.start,
        fragments=options.fragments,
        seed=options.seed,
        n_processes=options.jobs,
        scheduler=options.scheduler,
        journal=journal,
        progress_bar=not options.quiet,
        device=options.device,
    )
    lines = _written(records, options.output, files_named(options.molecule))
    lines += _plotted(records[0], options.plot)
    if journal is not None:  # deleted last: an interruption before leads to the same files
        journal.unlink(missing_ok=True)
    print("\n".join([*map(format_record, records), *lines, format_summary(records)]))
    return 0 if all(record.status == "ok" for record in records) else SOME_FAILED


def _written(records: "Sequence[Record]", outputs: Sequence[Path], inputs: Sequence[Path]) -> list[str]:
    """Writes records to all outputs, and those that an output cannot contain to a table; returns what was written."""
    from physcon_ase.inference.files import failures_path, write_records

    lines = []
    tables: dict[Path, dict[int, Record]] = {path: {} for path in failure_tables(outputs)}
    for output in outputs:
        left_out = write_records(records, output, inputs=inputs)
        lines.append(f"{len(records) - len(left_out)} of {counted(len(records), 'molecule')} written to {output}")
        if left_out:
            tables[failures_path(output)] |= {record.index: record for record in left_out}
    for path, left_out in tables.items():
        lines += write_failures(list(left_out.values()), path, inputs)
    return lines


def _plotted(record: "Record", path: Path | None) -> list[str]:
    """Draws a record; one without a geometry has no plot, not even that of an earlier run. Returns what was drawn."""
    from physcon_ase.inference.report import plot_result

    if path is None:
        return []
    if record.result is None:
        path.unlink(missing_ok=True)
        return []
    plot_result(record.result, path)
    return [f"  plot       {path}"]


def add_predict(commands: argparse._SubParsersAction) -> None:
    """Adds ``physcon predict``."""
    command = add_command(commands, "predict", _predict, "compute energy and forces of all structures of a file")
    command.add_argument("file", metavar="FILE", help=f"structures, or - for standard input: {listed(STRUCTURES)}")
    command.add_argument(
        "-o", "--output", type=Path, required=True, help="output file for structures with energy and forces (.xyz)"
    )
    add_model_options(command)


def _predict(options: argparse.Namespace) -> int:
    from physcon_ase.inference.files import XYZ_SUFFIXES, check_output, files_named, read_rows, write_structures

    check_output(options.output, files_named(options.file), kinds=XYZ_SUFFIXES)
    rows = read_rows(options.file)
    outcomes = _predictions(rows, options)
    done = []
    for row, outcome in zip(rows, outcomes, strict=True):
        if not isinstance(outcome, PhysConError):
            outcome.info |= {"row": row.number, "source": row.source}
            done.append(outcome)
    write_structures(done, options.output)
    failed, uncertain = _print_errors(outcomes), sum("doubts" in atoms.info for atoms in done)
    print(
        f"{counted(len(outcomes), 'structure')}: {len(done)} with energy and forces written to {options.output}, "
        f"{failed} failed, {uncertain} uncertain"
    )
    return SOME_FAILED if failed or uncertain else 0


def add_energy(commands: argparse._SubParsersAction) -> None:
    """Adds ``physcon energy``."""
    text = "print the energy of the structures of a file without relaxation, or of a SMILES after relaxation"
    command = add_command(commands, "energy", _energy, text)
    command.add_argument(
        "molecule", metavar="SMILES|FILE", help=f"SMILES, or structures, or - for standard input: {listed(STRUCTURES)}"
    )
    add_model_options(command)


def _energy(options: argparse.Namespace) -> int:
    from physcon_ase.inference.files import rows_named
    from physcon_ase.inference.one import optimize
    from physcon_ase.inference.report import format_energy, format_result

    rows = rows_named(options.molecule)
    if not rows[0].source:  # a SMILES
        result = optimize(rows[0], level=options.level, checkpoint=options.checkpoint, device=options.device)
        print(format_result(result))
        return 0 if result.is_ok else SOME_FAILED
    outcomes, is_ok = _predictions(rows, options), True
    for index, atoms in enumerate(outcomes):
        if not isinstance(atoms, PhysConError):
            print(format_energy(index, atoms))
            is_ok &= "doubts" not in atoms.info
    return SOME_FAILED if _print_errors(outcomes) or not is_ok else 0


def _predictions(rows: "list[Row]", options: argparse.Namespace) -> list:
    """Structures with energy and forces, and those about which the model has doubts with `info["doubts"]`."""
    from physcon_ase.inference.files import geometries_of
    from physcon_ase.inference.predictions import predict_structures

    return predict_structures(
        geometries_of(rows), level=options.level, checkpoint=options.checkpoint, device=options.device
    )


def _print_errors(outcomes: Sequence) -> int:
    """Prints one line for each error and returns the number of errors."""
    from physcon_ase.inference.report import format_errors

    lines = format_errors(outcomes)
    for line in lines:
        print(line)
    return len(lines)
