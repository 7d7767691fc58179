import struct

import pytest

from physcon_ase.chem.draw import depict
from physcon_ase.chem.smiles import graph_from_smiles


@pytest.mark.parametrize("smiles", ["CC(=O)Nc1ccc(O)cc1", "[H][H]", "[H]"])
def test_the_formula_is_a_png_of_the_size_asked_for(smiles: str, capfd) -> None:
    png = depict(graph_from_smiles(smiles), (320, 200))
    assert png.startswith(b"\x89PNG")
    assert struct.unpack(">II", png[16:24]) == (320, 200)
    assert capfd.readouterr().err == ""


def test_different_molecules_look_different() -> None:
    assert depict(graph_from_smiles("C[C@H](N)O")) != depict(graph_from_smiles("C[C@@H](N)O"))
