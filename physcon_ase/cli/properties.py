"""Commands for properties of molecules: ``vibrations``, ``interaction``."""

import argparse
from pathlib import Path

from physcon_ase.cli.command import (
    SOME_FAILED,
    add_command,
    add_input,
    add_model_options,
    add_outputs,
    add_run_options,
    add_start_options,
    add_summary,
    check_distinct,
    check_outputs,
    finish_records,
    journal_of,
    many_wanted,
    one_row,
    read_input,
    record_files,
)
from physcon_ase.errors import PhysConError


def add_vibrations(commands: argparse._SubParsersAction) -> None:
    """Adds ``physcon vibrations``."""
    text = (
        "compute harmonic frequencies, infrared intensities and thermochemistry of a molecule, or of all molecules of "
        "a file, after relaxation; continues an interrupted run over a file"
    )
    command = add_command(commands, "vibrations", _vibrations, text)
    add_input(command)
    add_outputs(
        command,
        "The suffix determines the content: .csv (modes), .json (everything) or .png (spectrum) of one molecule; "
        ".jsonl (everything) of several",
    )
    add_summary(command)
    command.add_argument("--spectrum", type=Path, help="output file for the broadened infrared spectrum: .csv or .png")
    command.add_argument(
        "--width", type=float, default=15.0, help="width of the bands of --spectrum [1/cm] (default: 15)"
    )
    add_model_options(command)
    command.add_argument("--temperature", type=float, default=298.15, help="temperature [K] (default: 298.15)")
    command.add_argument("--pressure", type=float, default=101325.0, help="pressure [Pa] (default: 101325)")
    command.add_argument(
        "--symmetry-number", type=int, metavar="N", help="rotational symmetry number (default: that of the geometry)"
    )
    command.add_argument("--scale", type=float, default=1.0, help="factor of the frequencies (default: 1)")
    command.add_argument(
        "--cutoff", type=float, default=100.0, help="cutoff of the quasi-RRHO entropy [1/cm] (default: 100)"
    )
    command.add_argument("--no-relax", action="store_true", help="do not relax a geometry")
    command.add_argument(
        "--follow-imaginary", action="store_true", help="follow imaginary modes downhill until there are none"
    )
    add_start_options(command)
    add_run_options(command)


def _vibrations(options: argparse.Namespace) -> int:
    from physcon_ase.inference.files import files_named
    from physcon_ase.inference.vibrations.harmonic import vibrations
    from physcon_ase.inference.vibrations.many import (
        format_vibrations_record,
        vibrations_many,
        write_vibrations_table,
    )
    from physcon_ase.inference.vibrations.spectra import (
        OUTPUTS,
        SPECTRA,
        format_vibrations,
        write_spectrum,
        write_vibrations,
    )

    inputs = files_named(options.molecule)
    rows = read_input(options)
    settings = {
        "level": options.level,
        "checkpoint": options.checkpoint,
        "temperature": options.temperature,
        "pressure": options.pressure,
        "symmetry_number": options.symmetry_number,
        "scale": options.scale,
        "cutoff": options.cutoff,
        "relax": not options.no_relax,
        "follow_imaginary": options.follow_imaginary,
        "start": options.start,
        "seed": options.seed,
        "device": options.device,
    }
    if many_wanted(options, rows, inputs):
        if options.spectrum is not None:
            raise PhysConError(f"--spectrum {options.spectrum} is for one molecule: leave it out")
        records = vibrations_many(
            rows,
            n_processes=options.jobs,
            scheduler=options.scheduler,
            journal=journal_of(record_files(options)),
            progress_bar=not options.quiet,
            **settings,
        )
        return finish_records(options, records, inputs, format_vibrations_record, write_vibrations_table)
    check_outputs(options.output, inputs, kinds=OUTPUTS)
    if options.spectrum is not None:
        check_outputs([options.spectrum], inputs, kinds=SPECTRA)
        check_distinct([*options.output, options.spectrum])
    found = vibrations(rows[0].molecule, **settings)
    print(format_vibrations(found))
    for output in options.output:
        write_vibrations(found, output, width=options.width, inputs=inputs, origin=rows[0].origin)
        print(f"  written      {output}")
    if options.spectrum is not None:
        write_spectrum(found, options.spectrum, width=options.width, inputs=inputs)
        print(f"  spectrum     {options.spectrum}")
    return 0 if found.is_ok else SOME_FAILED


def add_interaction(commands: argparse._SubParsersAction) -> None:
    """Adds ``physcon interaction``."""
    text = "compute the interaction energy of two or more molecules, and its curve along their distance"
    command = add_command(commands, "interaction", _interaction, text)
    command.add_argument(
        "molecule", metavar="SMILES|FILE", help="SMILES with dots between the molecules, or a file with one complex"
    )
    add_outputs(
        command,
        "The suffix determines the content: .json (everything), .csv or .png (distance curve), .xyz (complex and "
        "molecules)",
    )
    add_model_options(command)
    command.add_argument("--relax", action="store_true", help="relax a complex that is given as a geometry")
    command.add_argument(
        "--along",
        choices=("contact", "centres"),
        default="contact",
        help="displace along the line between the closest atoms, or between the centres (default: contact)",
    )
    command.add_argument(
        "--distances",
        type=float,
        nargs="+",
        metavar="D",
        help="distances of the curve [Å] (default: from 0.4 Å less to 8 Å more than in the complex)",
    )
    add_start_options(command)


def _interaction(options: argparse.Namespace) -> int:
    from physcon_ase.inference.files import files_named
    from physcon_ase.inference.interactions.energies import interaction
    from physcon_ase.inference.interactions.report import OUTPUTS, check_curves, format_interaction, write_interaction

    inputs = files_named(options.molecule)
    check_outputs(options.output, inputs, kinds=OUTPUTS)
    row = one_row(options.molecule)
    check_curves(options.output, row.molecule)
    found = interaction(
        row.molecule,
        relax=options.relax or None,  # without the option only what has no geometry
        level=options.level,
        checkpoint=options.checkpoint,
        along=options.along,
        distances=options.distances,
        start=options.start,
        seed=options.seed,
        device=options.device,
    )
    print(format_interaction(found))
    for output in options.output:
        write_interaction(found, output, inputs=inputs, origin=row.origin)
        print(f"  written      {output}")
    return 0 if found.is_ok else SOME_FAILED
