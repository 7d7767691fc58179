"""Study of the number of accurate labels: generates its data, trains all rows, prints the learning curves.

    python studies/levels/run.py --scale tiny                       # minutes; small: hours; full: a night
    python studies/levels/run.py --data b3lyp --stores stores

Self-made data are GFN1-xTB and GFN2-xTB labels (needs tblite). Results of an earlier run in the folder are reused, and
an interrupted run continues. Records, tables and trainings are written to the folder.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the clone: studies are no part of the package

from physcon_ase.cli import exit_code
from studies.levels.curves import format_curves, plot_curves
from studies.levels.study import ROWS, SCALES, STUDIES, run_levels
from studies.shared.rows import check_rows


def reproduce(
    data: str,
    folder: Path,
    *,
    scale: str = "small",
    stores: Path | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    rows: Sequence[str] = (),
    plot: bool = False,
) -> str:
    """The learning curves as tables, also written to tables.md in the folder.

    Args:
        data: key of `STUDIES`.
        folder: where checkpoints and results go.
        scale: key of `SCALES`.
        stores: folder of the stores that the data need; the working directory unless given.
        seeds: of the choice of labels, the weights and the order of the data.
        rows: rows of the study; all if empty.
        plot: whether to draw levels.png in the folder.

    Raises:
        PhysConError: an unknown row, or see `run_levels`.
    """
    check_rows(rows, list(ROWS))
    records = run_levels(data, folder, SCALES[scale], stores=stores, seeds=seeds, rows=rows)
    if plot:
        plot_curves(records, folder / "levels.png")
    tables = format_curves(records)
    (folder / "tables.md").write_text(tables + "\n")
    return tables


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the study and returns the exit code of `physcon_ase.cli`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("runs", "levels"),
        help="where checkpoints and results go (default: %(default)s)",
    )
    parser.add_argument("--data", choices=tuple(STUDIES), default="selfmade", help="the two levels (default: selfmade)")
    parser.add_argument("--stores", type=Path, help="folder of the stores that the other data need (default: here)")
    parser.add_argument(
        "--scale", choices=tuple(SCALES), default="small", help="minutes, hours, or a night (default: small)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="rows of the study, instead of all")
    parser.add_argument("--plot", action="store_true", help="draw levels.png into the folder")
    options = vars(parser.parse_args(arguments))

    def run() -> int:
        print(reproduce(options.pop("data"), options.pop("folder"), **options))
        return 0

    return exit_code("run.py", run)


if __name__ == "__main__":
    sys.exit(main())
