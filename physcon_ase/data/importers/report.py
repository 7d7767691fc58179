"""What an import read, kept and left out."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ImportReport:
    """Counts of one import; nothing is left out without a line here."""

    source: str
    """Name of the data set."""
    n_rows: int
    """Rows (molecules of an archive, frames of a trajectory) in the file."""
    n_molecules: int
    """Molecules in the store."""
    n_geometries: int
    """Geometries in the store."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Number of things left out, by reason; reasons that met nothing are listed too."""
    notes: tuple[str, ...] = ()
    """Anything else worth knowing."""


def format_import_report(report: ImportReport) -> str:
    """The report as text for the terminal."""
    lines = [
        f"{report.source}: {report.n_rows} rows -> {report.n_molecules} molecules, {report.n_geometries} geometries"
    ]
    lines += [f"  left out: {count} {reason}" for reason, count in report.left_out.items()]
    return "\n".join([*lines, *(f"  {note}" for note in report.notes)])
