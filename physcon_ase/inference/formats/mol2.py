"""Reader of MOL2 files."""

import re
from collections.abc import Iterator

from physcon_ase.chem.rdkit_molecules import known_from_mol2_block
from physcon_ase.inference.formats.bonded import row_of
from physcon_ase.inference.formats.rows import ReadOptions, Row


def read(text: str, options: ReadOptions) -> Iterator[Row]:
    """Records of a MOL2 file."""
    blocks = re.split(r"(?m)^(?=@<TRIPOS>MOLECULE)", text)[1:]
    for number, block in enumerate(blocks, start=1):
        name = "".join(block.split("\n")[1:2]).strip()
        if not name.strip("*"):  # "*****" is written for molecules without a name
            name = ""
        yield row_of(known_from_mol2_block, block, name, number)
