import itertools
import json
import sys

import numpy as np
import pytest

from physcon_ase.inference.pages import notebook
from physcon_ase.inference.results import Result
from tests.inference.pages.conftest import Results


@pytest.fixture
def result(results: Results) -> Result:
    found = results.records[0].result
    assert found is not None
    return found


def test_plotly_is_embedded_in_the_first_view_of_a_process(
    results: Results, result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("plotly", reason="needs plotly: pip install 'physcon-ase[report]'")
    monkeypatch.setattr(notebook, "_views", itertools.count())
    views = [
        found._repr_html_()
        for found in (result, results.ensemble, results.scan, results.vibrations, results.interaction)
    ]
    assert ["plotly.js v" in view for view in views] == [True, False, False, False, False]
    assert len({view.partition('id="physcon-')[2][:12] for view in views}) == 5
    for view, part in zip(views, ("C2H6O, 9 atoms", "Weight at", "Barriers", "Modes", "Binding energy"), strict=True):
        assert part in view
        assert "<svg" in view
        assert "drawFigures" in view


def test_without_plotly_a_view_has_numbers_and_drawing(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    view = result._repr_html_()
    assert f"{result.energy:.6f}" in view
    assert "<svg" in view
    assert "<script" not in view
    assert 'class="structure"' not in view


def test_a_result_is_one_line_of_text_and_a_dictionary(result: Result) -> None:
    assert repr(result).startswith(f"Result('CCO', {result.energy:.4f} ± ")
    assert "\n" not in repr(result)
    assert len(repr(result)) < 200
    found = json.loads(json.dumps(result.to_dict()))
    assert found["energy_eV"] == result.energy
    assert found["energies_eV"] == result.energies.tolist()
    assert found["fmax_history_eV_per_A"] == result.fmax_history.tolist()
    np.testing.assert_array_equal(found["positions_A"], result.atoms.positions)
