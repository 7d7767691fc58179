from io import BytesIO

import numpy as np
import pytest
from rdkit import Chem

from physcon_ase.chem.conformers import embed
from physcon_ase.chem.files import sdf_block
from physcon_ase.chem.smiles import canonical_smiles, graph_from_rdkit, graph_from_smiles


def test_an_sd_record_reads_back() -> None:
    graph = graph_from_smiles("C[C@H](N)C(=O)[O-]")
    positions = embed(graph)[0]
    block = sdf_block(graph, positions, {"energy_ev": "-1.5", "level": "gfn2"}, title="alanine")
    supplier = Chem.SDMolSupplier()
    supplier.SetData(block + block, removeHs=False)
    first, second = supplier
    assert (first.GetProp("_Name"), first.GetProp("energy_ev"), second.GetProp("level")) == ("alanine", "-1.5", "gfn2")
    four_decimals = 5.1e-5  # of the V2000 format
    np.testing.assert_allclose(first.GetConformer().GetPositions(), positions, atol=four_decimals)
    assert canonical_smiles(graph_from_rdkit(first)) == canonical_smiles(graph)


@pytest.mark.parametrize("text", ["a\n\n> <b>", "a\r", "a\n"])
def test_text_that_would_break_the_record_is_refused(text: str) -> None:
    graph = graph_from_smiles("O")
    with pytest.raises(ValueError, match="line break"):
        sdf_block(graph, np.eye(3), {"a": text})
    with pytest.raises(ValueError, match="line break"):
        sdf_block(graph, np.eye(3), {}, title=text)


def test_brackets_in_field_names_are_written_as_words() -> None:
    text = sdf_block(graph_from_smiles("O"), np.eye(3), {"MW (<500)": "1", ">5": ">2"})
    (mol,) = Chem.ForwardSDMolSupplier(BytesIO(text.encode()))
    assert mol.GetPropsAsDict() == {"MW (lt 500)": 1, "gt 5": ">2"}
    with pytest.raises(ValueError, match="has no name"):
        sdf_block(graph_from_smiles("O"), np.eye(3), {"": "1"})
