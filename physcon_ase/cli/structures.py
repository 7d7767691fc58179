"""Commands for molecules and structures: ``optimize``, ``predict``, ``energy``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from physcon_ase.cli.command import SOME_FAILED, add_command, add_model_options
from physcon_ase.errors import PhysConError


def add_optimize(commands: argparse._SubParsersAction) -> None:
    """Adds ``physcon optimize``."""
    command = add_command(commands, "optimize", _optimize, "relax a molecule, or all molecules of a file in batches")
    command.add_argument("molecule", metavar="SMILES|FILE", help="SMILES, SMILES list (.smi) or geometries (.xyz)")
    command.add_argument("-o", "--output", type=Path, help="output file: .xyz (extended XYZ) or .sdf")
    add_model_options(command)
    command.add_argument("--optimizer", choices=("bfgs", "lbfgs", "fire"), default="bfgs", help="default: bfgs")
    command.add_argument(
        "--fmax", type=float, default=0.01, help="convergence threshold for the largest force [eV/Å] (default: 0.01)"
    )
    command.add_argument("--max-steps", type=int, default=500, help="maximum number of steps (default: 500)")
    command.add_argument(
        "--start", choices=("guess", "etkdg", "mmff94"), help="start geometry for a SMILES (default: guess)"
    )
    command.add_argument(
        "--fragments",
        choices=("all", "largest"),
        default="all",
        help="of a SMILES with dots: relax all fragments beside each other, or keep the largest (default: all)",
    )
    command.add_argument("--seed", type=int, default=0, help="random seed of the start geometry (default: 0)")
    command.add_argument("--plot", type=Path, help="output file for a plot of the convergence and the molecule (.png)")


def _optimize(options: argparse.Namespace) -> int:
    from physcon_ase.inference.files import check_output, files_named, molecules_named
    from physcon_ase.inference.one import optimize
    from physcon_ase.inference.report import format_result, plot_result, write_results

    inputs = files_named(options.molecule)
    if options.output is not None:
        check_output(options.output, inputs)
    if options.plot is not None:
        check_output(options.plot, inputs, kinds=(".png",))
    molecules = molecules_named(options.molecule)
    if len(molecules) != 1:
        return _optimize_many(options, molecules)
    result = optimize(
        molecules[0],
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
    print(format_result(result))
    if options.output is not None:
        write_results(result, options.output, inputs=inputs)
        print(f"  written    {options.output}")
    if options.plot is not None:
        plot_result(result, options.plot)
        print(f"  plot       {options.plot}")
    return 0 if result.is_ok else SOME_FAILED


def _optimize_many(options: argparse.Namespace, molecules: list) -> int:
    from physcon_ase.inference.files import files_named
    from physcon_ase.inference.many import optimize_many
    from physcon_ase.inference.report import format_record, format_summary, write_results

    if options.plot is not None:
        raise PhysConError(f"--plot draws one molecule, but {options.molecule} has {len(molecules)}: omit it")
    records = optimize_many(
        molecules,
        level=options.level,
        checkpoint=options.checkpoint,
        method=None if options.optimizer == "bfgs" else options.optimizer,
        fmax=options.fmax,
        max_steps=options.max_steps,
        start=options.start,
        fragments=options.fragments,
        seed=options.seed,
        device=options.device,
    )
    for record in records:
        print(format_record(record))
    if options.output is not None:
        results = [record.result for record in records if record.result is not None]
        count = write_results(results, options.output, inputs=files_named(options.molecule))
        print(f"{count} structures written to {options.output}")
    print(format_summary(records))
    return 0 if all(record.status == "ok" for record in records) else SOME_FAILED


def add_predict(commands: argparse._SubParsersAction) -> None:
    """Adds ``physcon predict``."""
    command = add_command(commands, "predict", _predict, "compute energy and forces of all structures of a file")
    command.add_argument("file", type=Path, metavar="FILE.xyz", help="structures as extended XYZ")
    command.add_argument(
        "-o", "--output", type=Path, required=True, help="output file for structures with energy and forces (.xyz)"
    )
    add_model_options(command)


def _predict(options: argparse.Namespace) -> int:
    from physcon_ase.inference.calculator import predict_structures
    from physcon_ase.inference.files import XYZ_SUFFIXES, check_output, read_structures, write_structures

    check_output(options.output, [options.file], kinds=XYZ_SUFFIXES)
    outcomes = predict_structures(
        read_structures(options.file), level=options.level, checkpoint=options.checkpoint, device=options.device
    )
    failed = _print_errors(outcomes)
    done = [outcome for outcome in outcomes if not isinstance(outcome, PhysConError)]
    write_structures(done, options.output)
    print(
        f"{len(outcomes)} structures: {len(done)} with energy and forces written to {options.output}, {failed} failed"
    )
    return SOME_FAILED if failed else 0


def add_energy(commands: argparse._SubParsersAction) -> None:
    """Adds ``physcon energy``."""
    text = "print the energy of the structures of a file without relaxation, or of a SMILES after relaxation"
    command = add_command(commands, "energy", _energy, text)
    command.add_argument("molecule", metavar="SMILES|FILE.xyz", help="SMILES, or structures as extended XYZ")
    add_model_options(command)


def _energy(options: argparse.Namespace) -> int:
    from physcon_ase.inference.calculator import predict_structures
    from physcon_ase.inference.files import files_named, read_structures
    from physcon_ase.inference.one import optimize
    from physcon_ase.inference.report import format_energy, format_result

    if not files_named(options.molecule):
        result = optimize(options.molecule, level=options.level, checkpoint=options.checkpoint, device=options.device)
        print(format_result(result))
        return 0 if result.is_ok else SOME_FAILED
    outcomes = predict_structures(
        read_structures(options.molecule), level=options.level, checkpoint=options.checkpoint, device=options.device
    )
    for index, atoms in enumerate(outcomes):
        if not isinstance(atoms, PhysConError):
            print(format_energy(index, atoms))
    return SOME_FAILED if _print_errors(outcomes) else 0


def _print_errors(outcomes: Sequence) -> int:
    """Prints one line for each error and returns the number of errors."""
    from physcon_ase.inference.report import format_errors

    lines = format_errors(outcomes)
    for line in lines:
        print(line)
    return len(lines)
