"""Selection of rows of a study by name."""

from collections.abc import Sequence

from physcon_ase.errors import PhysConError


def check_rows(rows: Sequence[str], known: list[str]) -> None:
    """Refuses rows that the study does not have.

    Raises:
        PhysConError: there is one; the message lists those that there are.
    """
    unknown = sorted(set(rows) - set(known))
    if unknown:
        raise PhysConError(f"unknown rows {unknown}; the study has {known}")
