"""Report of an import."""

from dataclasses import dataclass, field

from physcon_ase.plurals import counted


@dataclass(frozen=True)
class ImportReport:
    """Counts of one import, including everything that was left out."""

    source: str
    """Name of the data set."""
    n_rows: int
    """Number of rows (molecules of an archive, frames of a trajectory) in the file."""
    n_molecules: int
    """Number of molecules in the store."""
    n_geometries: int
    """Number of geometries in the store."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Number of rows or geometries left out, by reason; includes reasons with a count of zero."""
    notes: tuple[str, ...] = ()
    """Additional remarks."""


def format_import_report(report: ImportReport) -> str:
    """The report as text for the terminal."""
    lines = [
        f"{report.source}: {counted(report.n_rows, 'row')} -> {counted(report.n_molecules, 'molecule')}, "
        f"{counted(report.n_geometries, 'geometry', 'geometries')}"
    ]
    lines += [f"  left out: {count} {reason}" for reason, count in report.left_out.items()]
    return "\n".join([*lines, *(f"  {note}" for note in report.notes)])
