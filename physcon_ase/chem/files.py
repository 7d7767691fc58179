"""SD file records."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from rdkit import Chem

from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import to_rdkit


def sdf_block(
    graph: MolGraph, positions: Float[np.ndarray, "atoms 3"], properties: Mapping[str, str], *, title: str = ""
) -> str:
    """One record of an SD file, V2000 (V3000 beyond 999 atoms), ending with ``$$$$``; records may be concatenated.

    Args:
        graph: the molecule.
        positions: positions [Å], written with four decimals.
        properties: data fields, each a single line of text; units belong in the name.
        title: first line of the record.

    Raises:
        ValueError: a text contains a line break, or a field name is empty or contains '<' or '>'.
    """
    for text in (title, *properties, *properties.values()):
        if set("\r\n") & set(text):
            raise ValueError(f"line break in {text!r}; the texts of an SD record must be single lines")
    for name in properties:
        if not name or set("<>") & set(name):
            raise ValueError(f"invalid SD field name {name!r}; it must not be empty or contain '<' or '>'")
    mol = to_rdkit(graph, positions)
    mol.SetProp("_Name", title)
    fields = "".join(f">  <{name}>\n{value}\n\n" for name, value in properties.items())
    return f"{Chem.MolToMolBlock(mol)}{fields}$$$$\n"
