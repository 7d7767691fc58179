"""The study of physical consistency: makes its data, trains all of its rows, prints its tables.

    python studies/consistency/run.py --scale tiny --teacher CHECKPOINT   # minutes; small: hours; full: a night
    python studies/consistency/run.py --data dft8k --stores stores --teacher CHECKPOINT

Self-made data are MMFF94 minima with GFN2-xTB labels (needs tblite). Results of an earlier run in the folder are
reused, and an interrupted run continues. Records, tables and trainings are written to the folder.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the clone: studies are no part of the package

from physcon_ase.cli import DEFAULT_CHECKPOINT, exit_code
from physcon_ase.errors import PhysConError
from studies.consistency.structures import MODES
from studies.consistency.study import ALL, SCALES, STUDIES, run_study
from studies.consistency.tables import format_tables, plot_gain, plot_learning
from studies.shared.rows import check_rows


def reproduce(
    data: str,
    folder: Path,
    *,
    scale: str = "small",
    stores: Path | None = None,
    teacher: str = "",
    seeds: Sequence[int] = (0, 1, 2),
    rows: Sequence[str] = (),
    modes: Sequence[str] = (),
    samples: int = 0,
    dft_energies: int = 0,
    plot: bool = False,
) -> str:
    """The tables of the study, also written to tables.md in the folder.

    Args:
        data: key of `STUDIES`.
        folder: where checkpoints and results go.
        scale: key of `SCALES`.
        stores: folder of the stores that the data need; the working directory unless given.
        teacher: checkpoint that takes the place of the shipped one.
        seeds: of weights, order of the data and noise.
        rows: rows of the study; all if empty.
        modes: ways to predict a structure; all if empty.
        samples: samples of each molecule; those of the scale if 0.
        dft_energies: smallest molecules whose structures also get energies by PySCF.
        plot: whether to draw teachers.png and learning.png in the folder.

    Raises:
        PhysConError: an unknown row or mode, a number below 0, or see `run_study`.
    """
    check_rows(rows, list(STUDIES[data]().rows))
    unknown = sorted(set(modes) - set(MODES))
    if unknown:
        raise PhysConError(f"unknown modes {unknown}; choose from {list(MODES)}")
    for name, value in (("samples", samples), ("dft-energies", dft_energies)):
        if value < 0:
            raise PhysConError(f"--{name} is {value}; 1 or more is needed")
    records = run_study(
        data,
        folder,
        replace(SCALES[scale], n_samples=samples or SCALES[scale].n_samples),
        stores=stores,
        seeds=seeds,
        rows=rows,
        modes=modes,
        teacher=teacher,
        n_energies=dft_energies,
    )
    if plot:
        plot_gain(records, ALL, folder / "teachers.png")
        plot_learning(folder, records, folder / "learning.png")
    tables = format_tables(records)
    (folder / "tables.md").write_text(tables + "\n")
    return tables


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the study and returns the exit code of `physcon_ase.cli`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("runs", "consistency"),
        help="where checkpoints and results go (default: %(default)s)",
    )
    parser.add_argument(
        "--data", choices=tuple(STUDIES), default="selfmade", help="molecules and levels (default: selfmade)"
    )
    parser.add_argument("--stores", type=Path, help="folder of the stores that the other data need (default: here)")
    parser.add_argument(
        "--teacher",
        default="",
        metavar="CHECKPOINT",
        help=f"a name or a folder, instead of {DEFAULT_CHECKPOINT}; it has to have the accurate level of the data: "
        "gfn2 (selfmade), b3lyp (qm9) or m062x (dft8k)",
    )
    parser.add_argument(
        "--scale", choices=tuple(SCALES), default="small", help="minutes, hours, or a night (default: small)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="rows of the study, instead of all")
    parser.add_argument(
        "--modes", nargs="+", default=[], metavar="MODE", help="ways to predict a structure, instead of all"
    )
    parser.add_argument(
        "--samples", type=int, default=0, metavar="K", help="samples of each molecule (default: that of the scale)"
    )
    parser.add_argument(
        "--dft-energies",
        type=int,
        default=0,
        metavar="N",
        help="also compute the energies of the N smallest molecules' structures with PySCF; minutes for each",
    )
    parser.add_argument(
        "--plot",
        action="store_true",
        help="draw teachers.png (gain against quality of the teacher) and learning.png into the folder",
    )
    options = vars(parser.parse_args(arguments))

    def run() -> int:
        print(reproduce(options.pop("data"), options.pop("folder"), **options))
        return 0

    return exit_code("run.py", run)


if __name__ == "__main__":
    sys.exit(main())
