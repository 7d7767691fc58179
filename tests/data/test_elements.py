from pathlib import Path

import numpy as np
import pytest

from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.cli import main
from physcon_ase.data.elements import without_elements
from physcon_ase.data.rows import GeometryRow, Label, molecule_row, store_from_rows
from physcon_ase.data.store import Store, open_store, write_store
from physcon_ase.errors import StoreError


def halides() -> Store:
    graphs = [graph_from_smiles(smiles) for smiles in ("CF", "CI", "CBr", "ClI")]
    rows = [
        GeometryRow(molecule, np.zeros((graph.n_atoms, 3)) + molecule, "start", labels={"low": Label(float(molecule))})
        for molecule, graph in enumerate(graphs)
    ]
    return store_from_rows([molecule_row(graph, "") for graph in graphs], rows, source="halides", provenance="made up")


def test_molecules_with_an_element_are_left_out_with_their_labels(tmp_path: Path) -> None:
    found = without_elements(halides(), ["I"])
    assert found.molecules.smiles.tolist() == ["CF", "CBr"]
    assert found.labels["low"].energy.tolist() == [0.0, 2.0]
    assert found.provenance == "without I; made up"
    write_store(tmp_path / "all.h5", halides())
    command = ["data", "exclude", str(tmp_path / "all.h5"), "--elements", "I", "Br", "-o"]
    assert main([*command, str(tmp_path / "some.h5")]) == 0
    assert open_store(tmp_path / "some.h5").molecules.smiles.tolist() == ["CF"]
    assert main([*command, str(tmp_path / "all.h5")]) == 2


@pytest.mark.parametrize(
    ("symbols", "message"), [(["Xx"], "unknown element 'Xx'"), (["F", "I", "Br"], "no geometry is left")]
)
def test_nonsense_is_refused(symbols: list[str], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        without_elements(halides(), symbols)
