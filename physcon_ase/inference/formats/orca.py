"""Reader of ORCA inputs."""

import re
from collections.abc import Iterator
from typing import Final

from physcon_ase.errors import PhysConError, StoreError
from physcon_ase.inference.formats.rows import ReadOptions, Row
from physcon_ase.inference.formats.xyz import atoms_of_lines

_BLOCK: Final = re.compile(
    r"^\s*\*\s*xyz\s+([+-]?\d+)\s+(\d+)\s*\n(.*?)^\s*\*", re.MULTILINE | re.IGNORECASE | re.DOTALL
)


def read(text: str, options: ReadOptions) -> Iterator[Row]:
    """Geometry of an ORCA input with a block `* xyz CHARGE MULTIPLICITY`.

    ASE's reader of these blocks leaves out charge and multiplicity.
    """
    found = _BLOCK.search(text)
    if found is None:
        reason = "the ORCA input has no block '* xyz CHARGE MULTIPLICITY'; give the coordinates there, or as XYZ"
        yield Row(StoreError(reason), number=1)
        return
    lines = [line.partition("#")[0] for line in found[3].split("\n")]
    try:
        atoms = atoms_of_lines([line for line in lines if line.strip()])
    except PhysConError as error:
        yield Row(error, number=1)
        return
    except ValueError as error:
        yield Row(StoreError(f"the coordinates of the ORCA input cannot be read ({error}); correct them"), number=1)
        return
    atoms.info["charge"], atoms.info["spin"] = int(found[1]), int(found[2])
    yield Row(atoms, number=1)
