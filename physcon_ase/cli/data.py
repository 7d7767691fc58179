"""Commands for labelled data: ``data import``, ``data describe``, ``data anchor``, ``data transfer``,
``data separate``, ``data exclude``, ``label``.
"""

import argparse
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from physcon_ase.cli.command import SOME_FAILED, add_command
from physcon_ase.errors import PhysConError
from physcon_ase.inference.formats.table import READABLE, listed
from physcon_ase.plurals import counted

if TYPE_CHECKING:
    from physcon_ase.inference.formats.rows import Row
    from physcon_ase.labelling.derived import DerivedReport
    from physcon_ase.labelling.selection import CommitteeSelection


def add_data(commands: argparse._SubParsersAction) -> None:
    """Adds ``physcon data``."""
    data = commands.add_parser("data", help="labelled structures for training").add_subparsers(
        required=True, metavar="COMMAND"
    )
    command = add_command(data, "import", _data_import, "convert files with labels to stores")
    command.add_argument("files", type=Path, nargs="+", metavar="FILE", help="archive, extended XYZ or ASE database")
    command.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for the stores")
    command.add_argument("--level", help="level of theory of the labels, for extended XYZ files and ASE databases")
    command.add_argument("--energy-key", help="key of the energies in these files (default: results of the calculator)")
    command.add_argument("--forces-key", help="key of the forces in these files (default: results of the calculator)")
    text = "anchored labels: minima of an accurate level combined with the curvature of a cheaper one, the teacher"
    _add_derived(add_command(data, "anchor", _data_anchor, text))
    text = "labels of an accurate level: those of a model, with its residuals at a cheaper level, the teacher"
    command = add_command(data, "transfer", _data_transfer, text)
    _add_derived(command)
    command.add_argument("--model", required=True, metavar="CHECKPOINT", help="a model of both levels")
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    text = "labels of two molecules far apart, from the labels of each alone: an ion and another molecule"
    command = add_command(data, "separate", _data_separate, text)
    command.add_argument("stores", type=Path, nargs="+", metavar="STORE", help="labelled ions and other molecules")
    command.add_argument("-o", "--output", type=Path, required=True, help="output store (.h5)")
    command.add_argument("--level", required=True, help="level of theory of the labels")
    command.add_argument("-n", type=int, default=1000, help="number of pairs (default: 1000)")
    command.add_argument("--max-atoms", type=int, default=60, help="maximum number of atoms of a pair (default: 60)")
    command.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    text = "copy a store without the molecules that contain certain elements"
    command = add_command(data, "exclude", _data_exclude, text)
    command.add_argument("store", type=Path, metavar="STORE")
    command.add_argument("-o", "--output", type=Path, required=True, help="output store (.h5)")
    command.add_argument("--elements", nargs="+", required=True, metavar="SYMBOL", help="elements, e.g. I")
    command = add_command(data, "describe", _data_describe, "print the content of a store")
    command.add_argument("store", type=Path, metavar="STORE")


def _data_import(options: argparse.Namespace) -> int:
    from physcon_ase.data.importers.importing import import_files
    from physcon_ase.data.importers.report import format_import_report

    keys = {name: getattr(options, name) for name in ("energy_key", "forces_key") if getattr(options, name) is not None}
    for output, report in import_files(options.files, options.output, level=options.level, **keys):
        print(format_import_report(report))
        print(f"  written to {output}")
    return 0


def _data_describe(options: argparse.Namespace) -> int:
    from physcon_ase.data.describe import describe_store

    for line in describe_store(options.store):
        print(line)
    return 0


def _add_derived(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of labels that are derived from those of a teacher."""
    command.add_argument("store", type=Path, metavar="STORE", help="minima and displacements, with teacher labels")
    command.add_argument("-o", "--output", type=Path, required=True, help="output store (.h5)")
    command.add_argument("--level", required=True, help="level of theory of the minima")
    command.add_argument("--teacher", required=True, metavar="LEVEL", help="level of theory of the teacher labels")


def _data_anchor(options: argparse.Namespace) -> int:
    from physcon_ase.labelling.anchored import anchor_file

    return _derive(options, anchor_file)


def _data_transfer(options: argparse.Namespace) -> int:
    from physcon_ase.labelling.transferred import transfer_file

    return _derive(options, partial(transfer_file, checkpoint=options.model, progress_bar=not options.quiet))


def _derive(options: argparse.Namespace, derive_file: "Callable[..., DerivedReport]") -> int:
    """Derives the labels of a store from those of a teacher and prints the report."""
    from physcon_ase.inference.files import check_output
    from physcon_ase.labelling.derived import format_derived_report

    check_output(options.output, [options.store], kinds=(".h5",))
    report = derive_file(options.store, options.output, level=options.level, teacher=options.teacher)
    print(format_derived_report(report, options.store.name))
    print(f"  written to {options.output}")
    return 0


def _data_separate(options: argparse.Namespace) -> int:
    from physcon_ase.inference.files import check_output
    from physcon_ase.labelling.separated import separate_files

    check_output(options.output, options.stores, kinds=(".h5",))
    found = separate_files(
        options.stores, options.output, level=options.level, n=options.n, max_atoms=options.max_atoms, seed=options.seed
    )
    print(
        f"{counted(len(found.geometries), 'pair')} of molecules with labels of {options.level} written to "
        f"{options.output}"
    )
    return 0


def _data_exclude(options: argparse.Namespace) -> int:
    from physcon_ase.data.elements import exclude_elements
    from physcon_ase.inference.files import check_output

    check_output(options.output, [options.store], kinds=(".h5",))
    found = exclude_elements(options.store, options.output, options.elements)
    n_molecules = counted(len(found.molecules), "molecule")
    n_geometries = counted(len(found.geometries), "geometry", "geometries")
    print(f"{n_molecules}, {n_geometries} written to {options.output}")
    return 0


def add_label(commands: argparse._SubParsersAction) -> None:
    """Adds ``physcon label``."""
    text = "sample geometries of molecules, label them and write a store; continues an interrupted run"
    command = add_command(commands, "label", _label, text)
    command.add_argument(
        "molecules",
        nargs="+",
        metavar="SMILES|FILE",
        help=f"SMILES, files ({listed(READABLE)}) or stores (.h5)",
    )
    command.add_argument("-o", "--output", type=Path, required=True, help="output store (.h5)")
    command.add_argument(
        "--engine",
        default="gfn2",
        metavar="ENGINE",
        help="gfn2, gfn1 (tblite), pm6, pm7 (MOPAC), b3lyp, b3lyp-d3, wb97x-d3bj, r2scan, m062x (PySCF), aimnet2 "
        "(networks in turn), aimnet2-mean, or a checkpoint (name or folder) (default: gfn2)",
    )
    command.add_argument("--level", help="level of theory of a checkpoint (default: the first of the checkpoint)")
    command.add_argument(
        "--geometries",
        default="conformer:1,thermal:2",
        metavar="KIND:N,...",
        help="kinds and numbers of geometries: start (given, or relaxed with MMFF94), conformer, relaxing, thermal, "
        "torsion, twist, newton, path, md (default: %(default)s)",
    )
    command.add_argument(
        "--max-kelvin", type=float, default=700.0, help="maximum temperature [K] of thermal geometries (default: 700)"
    )
    command.add_argument(
        "--sampling-engine", metavar="ENGINE", help="engine for path and md (default: the labelling engine)"
    )
    command.add_argument(
        "--select", type=int, metavar="N", help="label only the N geometries with the largest committee disagreement"
    )
    command.add_argument(
        "--committee",
        nargs="+",
        default=[],
        metavar="ENGINE[:LEVEL]",
        help="with --select: two or more checkpoints (optionally with a level) or other engines",
    )
    command.add_argument(
        "--per-molecule", type=int, metavar="N", help="with --select: maximum number of geometries per molecule"
    )
    command.add_argument("--minima-of", metavar="LEVEL", help="use only minima of this level from input stores")
    command.add_argument(
        "--part",
        type=_part,
        default=_Parts(1, 1, 1),
        metavar="K/N",
        help="only part K of N equal parts of the input: every N-th molecule, or geometry of a store, from number K on;"
        " K-L/N: parts K to L",
    )
    command.add_argument("--jobs", type=int, metavar="N", help="number of worker processes (default: one per core)")
    command.add_argument("--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers are used instead")
    command.add_argument("--seed", type=int, default=0, help="random seed of all geometries (default: 0)")
    command.add_argument("--source", default="", help="name of the data set (default: name of the output)")
    command.add_argument("--licence", default="", help="licence of the data")
    command.add_argument("--quiet", action="store_true", help="no progress bar")


def _labelling_input(row: "Row") -> Any:
    """A molecule of a file as input of a labelling run."""
    from physcon_ase.chem.graph import MolGraph
    from physcon_ase.chem.smiles import canonical_smiles
    from physcon_ase.inference.files import named_atoms
    from physcon_ase.inference.formats.rows import Geometry
    from physcon_ase.labelling.inputs import NamedSmiles, known_geometry

    molecule = row.molecule
    named_atoms(row)
    if isinstance(molecule, Geometry):
        return known_geometry(molecule.graph, molecule.atoms.positions, row.name)
    if isinstance(molecule, MolGraph):
        molecule = canonical_smiles(molecule)
    return NamedSmiles(molecule, row.name) if isinstance(molecule, str) and row.name else molecule


def _label(options: argparse.Namespace) -> int:
    from physcon_ase.data.store import open_store
    from physcon_ase.inference.files import check_output, files_named, rows_named
    from physcon_ase.labelling.engines import engine_by_name
    from physcon_ase.labelling.inputs import known_geometries
    from physcon_ase.labelling.pipeline import format_labelling_report, label
    from physcon_ase.labelling.samplings import parse_samplings

    files = [path for molecule in options.molecules for path in files_named(molecule)]
    check_output(options.output, files, kinds=(".h5",))
    engine = engine_by_name(options.engine, level=options.level)
    driver = engine if options.sampling_engine is None else engine_by_name(options.sampling_engine)
    samplings = parse_samplings(options.geometries, engine=driver, max_kelvin=options.max_kelvin)
    selection = _selection(options)
    if options.minima_of is not None and not any(molecule.endswith(".h5") for molecule in options.molecules):
        raise PhysConError(f"--minima-of {options.minima_of} needs a store among the molecules: give one, or omit it")
    molecules = []
    for molecule in options.molecules:
        if molecule.endswith(".h5"):
            molecules += known_geometries(open_store(molecule), minima_of=options.minima_of)
        else:
            molecules += [_labelling_input(row) for row in rows_named(molecule)]
    report = label(
        options.part.of(molecules),
        engine,
        samplings,
        options.output,
        selection=selection,
        seed=options.seed,
        processes=options.jobs,
        scheduler=options.scheduler,
        source=options.source,
        licence=options.licence,
        progress_bar=not options.quiet,
    )
    print(format_labelling_report(report, engine))
    return SOME_FAILED if report.failures else 0


class _Parts(NamedTuple):
    """Parts `first` to `last` of `number` equal parts of a list; part k has every `number`-th item from item k on."""

    first: int
    last: int
    number: int

    def of(self, items: list[Any]) -> list[Any]:
        return [item for place, item in enumerate(items) if self.first <= place % self.number + 1 <= self.last]


def _part(text: str) -> _Parts:
    matched = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?/([0-9]+)", text)
    if matched:
        parts = _Parts(int(matched[1]), int(matched[2] or matched[1]), int(matched[3]))
        if 1 <= parts.first <= parts.last <= parts.number:
            return parts
    raise argparse.ArgumentTypeError(f"{text!r} is not K/N or K-L/N with K and L from 1 to N, such as 2/3 or 7-12/24")


def _selection(options: argparse.Namespace) -> "CommitteeSelection | None":
    from physcon_ase.labelling.engines import engine_by_name
    from physcon_ase.labelling.selection import CommitteeSelection

    if options.select is None:
        if options.committee or options.per_molecule is not None:
            raise PhysConError("--committee and --per-molecule require --select: give the number with --select")
        return None
    members = [member.partition(":") for member in options.committee]
    committee = tuple(engine_by_name(name, level=level or None) for name, _, level in members)
    return CommitteeSelection(options.select, committee, options.per_molecule)
