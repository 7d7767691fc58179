"""Reader of Gaussian inputs."""

import re
from collections.abc import Iterator
from io import StringIO
from typing import Final

from ase.io import ParseError
from ase.io.gaussian import read_gaussian_in

from physcon_ase.errors import StoreError
from physcon_ase.inference.formats.rows import ReadOptions, Row

_LINK: Final = re.compile(r"(?im)^--link1--.*\n")


def read(text: str, options: ReadOptions) -> Iterator[Row]:
    """Geometries of a Gaussian input, one for each link, with charge and multiplicity."""
    for number, section in enumerate(_LINK.split(text), start=1):
        try:
            atoms = read_gaussian_in(StringIO(section), attach_calculator=True)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, ParseError) as error:
            reason = " ".join(str(error).split())
            yield Row(StoreError(f"ASE cannot read the Gaussian input ({reason}); give an XYZ file"), number=number)
            continue
        parameters = atoms.calc.parameters
        atoms.calc = None
        atoms.info["charge"], atoms.info["spin"] = int(parameters["charge"]), int(parameters["mult"])
        yield Row(atoms, number=number)
