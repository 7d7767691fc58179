"""Commands for conformers: ``ensemble``, ``scan``, ``strain``."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physcon_ase.cli.command import (
    SOME_FAILED,
    add_command,
    add_input,
    add_model_options,
    add_outputs,
    add_run_options,
    add_stereoisomers,
    add_summary,
    check_failure_tables,
    check_outputs,
    check_summary,
    failure_tables,
    finish_records,
    journal_of,
    many_wanted,
    read_input,
    record_files,
    write_failures,
)
from physcon_ase.errors import PhysConError
from physcon_ase.plurals import counted

if TYPE_CHECKING:
    from physcon_ase.inference.ensembles.ensemble import Ensemble
    from physcon_ase.inference.run_records import RunRecord


def add_ensemble(commands: argparse._SubParsersAction) -> None:
    """Adds ``physcon ensemble``."""
    text = "search the conformers of a molecule, or of all molecules of a file; continues an interrupted run"
    command = add_command(commands, "ensemble", _ensemble, text)
    add_input(command)
    add_stereoisomers(command)
    add_outputs(command, "The suffix determines the format of the conformers: .xyz, .sdf, .json or .jsonl")
    add_summary(command)
    add_model_options(command)
    command.add_argument(
        "--window", type=float, default=6.0, help="maximum energy above the lowest conformer [kcal/mol] (default: 6)"
    )
    command.add_argument(
        "--temperature", type=float, default=298.15, help="temperature of the Boltzmann weights [K] (default: 298.15)"
    )
    command.add_argument("--no-prerelax", action="store_true", help="skip the relaxation with MMFF94")
    _add_search_options(command)
    add_run_options(command)


def _ensemble(options: argparse.Namespace) -> int:
    from physcon_ase.inference.ensembles.report import (
        ENSEMBLE_SUFFIXES,
        ONE_SUFFIX,
        format_ensemble,
        format_ensemble_record,
        write_ensemble,
        write_ensemble_table,
    )
    from physcon_ase.inference.ensembles.search import ensemble, ensemble_many
    from physcon_ase.inference.files import files_named
    from physcon_ase.inference.formats.table import suffix_of

    inputs = files_named(options.molecule)
    check_outputs(options.output, inputs, kinds=ENSEMBLE_SUFFIXES)
    check_failure_tables(options.output, inputs)
    check_summary(options, inputs)
    rows = read_input(options)
    settings = {
        "n": options.n,
        "window": options.window,
        "level": options.level,
        "checkpoint": options.checkpoint,
        "temperature": options.temperature,
        "seed": options.seed,
        "prerelax": not options.no_prerelax,
        "fmax": options.fmax,
        "max_steps": options.max_steps,
        "device": options.device,
    }
    if not rows[0].source and len(rows) == 1 and options.summary is None:  # a SMILES
        found = ensemble(rows[0].molecule, **settings)
        for output in options.output:
            write_ensemble(found, output)
        print(format_ensemble(found))
        return SOME_FAILED if found.doubts else 0
    for output in options.output if len(rows) > 1 else ():
        if suffix_of(output) == ONE_SUFFIX:
            raise PhysConError(
                f"{output} can contain one molecule, but {options.molecule} has {len(rows)}: write .jsonl"
            )
    records = ensemble_many(
        rows,
        n_processes=options.jobs,
        scheduler=options.scheduler,
        journal=journal_of(record_files(options)),
        progress_bar=not options.quiet,
        **settings,
    )
    return finish_records(
        options,
        records,
        inputs,
        format_ensemble_record,
        write_ensemble_table,
        write_outputs=lambda: _written(records, options.output, inputs, options.seed),
        details=[format_ensemble(record.result) for record in records[:1] if len(rows) == 1 and record.result],
    )


def _written(
    records: "Sequence[RunRecord[Ensemble]]", outputs: Sequence[Path], inputs: Sequence[Path], seed: int
) -> list[str]:
    """Writes conformers, and failures that an output cannot contain to a table; returns what was written."""
    from physcon_ase.inference.ensembles.report import write_ensemble_records
    from physcon_ase.inference.files import failures_path
    from physcon_ase.inference.results import Record

    n_written = sum(len(record.result) for record in records if record.result is not None)
    fields = ("index", "name", "status", "reason", "error", "seconds", "smiles", "row", "source", "fields")
    lines: list[str] = []
    tables: dict[Path, dict[int, Record]] = {path: {} for path in failure_tables(outputs)}
    for output in outputs:
        left_out = write_ensemble_records(records, output, inputs=inputs)
        if len(left_out) < len(records):
            lines.append(f"{counted(n_written, 'conformer')} written to {output}")
        for record in left_out:
            told: dict[str, Any] = {name: getattr(record, name) for name in fields}
            tables[failures_path(output)][record.index] = Record(**told, seed=seed, attempts=1, result=None)
    for path, failures in tables.items():
        lines += write_failures(list(failures.values()), path, inputs)
    return lines


def add_scan(commands: argparse._SubParsersAction) -> None:
    """Adds ``physcon scan``."""
    text = (
        "relaxed energy of a molecule, or of all molecules of a file, as a function of one or two dihedral angles; "
        "continues an interrupted run over a file"
    )
    command = add_command(commands, "scan", _scan, text)
    add_input(command)
    command.add_argument(
        "--dihedral",
        type=int,
        nargs=4,
        action="append",
        default=[],
        metavar=("I", "J", "K", "L"),
        help="atoms of the dihedral angle, counted from 0 in the order of the input; give it twice for a map",
    )
    command.add_argument(
        "--smarts",
        action="append",
        default=[],
        metavar="PATTERN",
        help="SMARTS pattern of the four atoms instead, which matches one bond; of more atoms, those marked :1 to :4",
    )
    add_outputs(
        command,
        "The suffix determines the content: .xyz or .sdf (geometries), .csv (energies), .json (everything), .png "
        "(picture) of one molecule; .jsonl (everything) of several",
        several_at_once=True,
    )
    add_summary(command)
    add_model_options(command)
    command.add_argument("--step", type=float, default=15.0, help="spacing of the grid points [degrees] (default: 15)")
    command.add_argument(
        "-n", type=int, default=10, help="number of ETKDG geometries from which the scan starts (default: 10)"
    )
    command.add_argument("--seed", type=int, default=0, help="random seed of the ETKDG geometries (default: 0)")
    command.add_argument(
        "--fmax", type=float, default=0.02, help="convergence threshold for the largest force [eV/Å] (default: 0.02)"
    )
    command.add_argument("--max-steps", type=int, default=300, help="maximum number of steps (default: 300)")
    add_run_options(command)


def _scan(options: argparse.Namespace) -> int:
    from physcon_ase.inference.files import files_named
    from physcon_ase.inference.scans.many import format_scan_record, scan_many, write_scan_table
    from physcon_ase.inference.scans.report import SCAN_SUFFIXES, format_scan, write_scan
    from physcon_ase.inference.scans.search import scan

    inputs = files_named(options.molecule)
    rows = read_input(options)
    dihedrals = [*options.dihedral, *options.smarts]
    if not dihedrals:
        raise PhysConError("which dihedral angle? give four atoms with --dihedral, or a pattern with --smarts")
    settings = {
        "step": options.step,
        "level": options.level,
        "checkpoint": options.checkpoint,
        "n_conformers": options.n,
        "seed": options.seed,
        "fmax": options.fmax,
        "max_steps": options.max_steps,
        "device": options.device,
    }
    if many_wanted(options, rows, inputs):
        records = scan_many(
            rows,
            dihedrals,
            n_processes=options.jobs,
            scheduler=options.scheduler,
            journal=journal_of(record_files(options)),
            progress_bar=not options.quiet,
            **settings,
        )
        return finish_records(options, records, inputs, format_scan_record, write_scan_table)
    check_outputs(options.output, inputs, kinds=SCAN_SUFFIXES)
    found = scan(rows[0].molecule, dihedrals, progress_bar=not options.quiet, **settings)
    for path in options.output:
        write_scan(found, path, origin=rows[0].origin)
    print(format_scan(found))
    for path in options.output:
        print(f"  written    {path}")
    return SOME_FAILED if found.failures or found.doubts else 0


def add_strain(commands: argparse._SubParsersAction) -> None:
    """Adds ``physcon strain``."""
    text = (
        "energy of a pose, for instance of a docked ligand, or of all poses of a file, above the nearest minimum and "
        "above the lowest conformer; continues an interrupted run over a file"
    )
    command = add_command(commands, "strain", _strain, text)
    add_input(command)
    add_outputs(command, "Lines of JSON (.jsonl) with everything, failures included")
    add_summary(command)
    add_model_options(command)
    _add_search_options(command)
    add_run_options(command)


def _strain(options: argparse.Namespace) -> int:
    from physcon_ase.inference.files import files_named
    from physcon_ase.inference.run_records import LINES
    from physcon_ase.inference.strains.report import format_strain, format_strain_record, write_strain_table
    from physcon_ase.inference.strains.search import strain, strain_many

    inputs = files_named(options.molecule)
    rows = read_input(options)
    settings = {
        "n": options.n,
        "level": options.level,
        "checkpoint": options.checkpoint,
        "seed": options.seed,
        "fmax": options.fmax,
        "max_steps": options.max_steps,
        "device": options.device,
    }
    if many_wanted(options, rows, inputs):
        records = strain_many(
            rows,
            n_processes=options.jobs,
            scheduler=options.scheduler,
            journal=journal_of(record_files(options)),
            progress_bar=not options.quiet,
            **settings,
        )
        return finish_records(options, records, inputs, format_strain_record, write_strain_table)
    check_outputs(options.output, inputs, kinds=(LINES,))
    found = strain(rows[0].molecule, **settings)
    print(format_strain(found))
    return 0 if found.judged()[0] == "ok" else SOME_FAILED


def _add_search_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of a conformer search."""
    command.add_argument(
        "-n", type=_number_or_auto, default="auto", help="number of ETKDG geometries (default: auto, 50 to 300)"
    )
    command.add_argument("--seed", type=int, default=0, help="random seed of the ETKDG geometries (default: 0)")
    command.add_argument(
        "--fmax", type=float, default=0.01, help="convergence threshold for the largest force [eV/Å] (default: 0.01)"
    )
    command.add_argument("--max-steps", type=int, default=500, help="maximum number of steps (default: 500)")


def _number_or_auto(text: str) -> int | str:
    return text if text == "auto" else int(text)
