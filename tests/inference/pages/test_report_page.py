import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from physcon_ase.errors import MissingPackageError, PhysConError, StoreError
from physcon_ase.inference.pages import page
from physcon_ase.inference.pages.detail import detail_of
from physcon_ase.inference.pages.entry import Entry
from physcon_ase.inference.pages.kinds import KINDS, entry_of
from physcon_ase.inference.pages.page import page_of, write_report
from physcon_ase.inference.pages.result_files import read_entries
from physcon_ase.inference.pages.structure import structures_of, view_of
from tests.inference.pages.conftest import MALICIOUS, Results

EMPTY = "window.Plotly = {};"
"""A script in place of that of plotly, so that only our own parts are tested."""


class Elements(HTMLParser):
    """Elements of a page, with the text of each script and the cells of the table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.text: dict[str, list[str]] = {"script": [], "td": [], "style": []}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.names.append(tag)
        if tag in self.text:
            self.text[tag].append("")

    def handle_data(self, data: str) -> None:
        inside = next((name for name in reversed(self.names) if name in self.text), None)
        if inside:
            self.text[inside][-1] += data


@pytest.fixture(scope="module")
def entries(folder: Path) -> list[Entry]:
    return read_entries([folder])


@pytest.fixture(scope="module")
def html(entries: list[Entry]) -> str:
    return page_of(entries, title="Results & <more>", plotly=EMPTY)


def of_kind(entries: list[Entry], kind: str) -> Entry:
    return next(entry for entry in entries if entry.kind == kind)


def test_every_molecule_is_an_entry_and_failures_have_reasons(entries: list[Entry], results: Results) -> None:
    assert [entry.kind for entry in entries] == [
        "ensemble", "interaction", "scan", *["relaxation"] * 4, "scan", "strain", "vibrations",
    ]  # fmt: skip
    told = [(entry.name, entry.status) for entry in entries if entry.kind == "relaxation"]
    assert told == [("ethanol", "ok"), ("not a ring", "failed"), (MALICIOUS, "ok"), ("salt", "failed")]
    failed = [entry for entry in entries if entry.status == "failed"]
    assert [entry.reason.partition(":")[0] for entry in failed] == ["InvalidSmilesError", "UnsupportedElementError"]
    assert failed[0].source == "list.smi, row 2"
    ethanol = of_kind(entries, "relaxation")
    assert results.records[0].result is not None
    assert ethanol.energy == results.records[0].result.energy
    assert ethanol.structures is not None
    assert len(ethanol.plots[0]["data"][0]["x"]) == results.records[0].result.steps + 1


def test_the_page_contains_each_molecule_and_escapes_texts(html: str, entries: list[Entry]) -> None:
    elements = Elements(html)
    assert "b" not in elements.names
    assert elements.names.count("script") == 5
    cells = elements.text["td"]
    for entry in entries:
        assert any(entry.name in cell for cell in cells), entry.name
    assert any("UnsupportedElementError: level 'b3lyp-d3' does not cover Na" in cell for cell in cells)
    assert "<title>Results &amp; &lt;more&gt;</title>" in html
    data = json.loads(elements.text["script"][0])
    assert len(data) == len(entries)
    assert "b" not in [name for own in data for name in Elements(own["html"]).names]
    assert "10 molecules" in html
    assert entries[0].revision in html


def test_the_page_loads_nothing(html: str) -> None:
    assert re.findall(r"https?://", html) == []
    assert re.findall(r"<(?:link|img|iframe)|\bsrc=|url\(|@import|\bfetch\(|XMLHttpRequest", html) == []


def test_the_page_is_reproducible_and_complete(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="needs plotly: pip install 'physcon-ase[report]'")
    entries = write_report([folder, folder / "scan.json"], tmp_path / "one.html")
    assert len(entries) == 10  # each file once
    write_report([folder], tmp_path / "other.html")
    content = (tmp_path / "one.html").read_bytes()
    assert content == (tmp_path / "other.html").read_bytes()
    assert b"plotly.js v" in content


def test_200_molecules_are_less_than_10_megabytes(entries: list[Entry]) -> None:
    plotly = 5_000_000
    large = [entry for entry in entries if entry.kind in ("relaxation", "ensemble")] * 40
    assert len(page_of(large, title="", plotly=EMPTY).encode()) < 10_000_000 - plotly


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "there is no file or folder"),
        ("minima.sdf", "", "is not a result file"),
        ("own.json", '{"answer": 42}', "is not a result of physcon"),
        ("own.jsonl", "[1, 2]", "own.jsonl, line 1 is not a result of physcon"),
        ("cut.jsonl", '\n{"kind": "relax', "cut.jsonl, line 2 is damaged"),
        ("part.json", '{"kind": "scan", "smiles": "C"}', r"part.json is incomplete or damaged \(KeyError: 'points'\)"),
        ("state.json", '{"kind": "scan", "status": "fine"}', "incomplete or damaged"),
        ("empty.jsonl", "\n", "contains no molecules"),
    ],
)
def test_other_files_are_named_errors(name: str, content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(StoreError, match=message):
        read_entries([tmp_path / name])


def test_a_folder_without_result_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "minima.sdf").write_text("")
    with pytest.raises(StoreError, match=r"has no result files \(.jsonl, .json\)"):
        read_entries([tmp_path])


def test_a_status_that_is_unknown_is_an_error(folder: Path, tmp_path: Path) -> None:
    line = json.loads((folder / "minima.jsonl").read_text().splitlines()[0]) | {"status": '"><script>'}
    (tmp_path / "own.jsonl").write_text(json.dumps(line))
    with pytest.raises(StoreError, match="unknown status"):
        read_entries([tmp_path])


def test_a_page_is_not_written_over_its_input_or_without_plotly(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PhysConError, match=r"cannot write .*page.pdf; the name must end in .html"):
        write_report([folder], tmp_path / "page.pdf")
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(MissingPackageError, match=r"reports require plotly; install it: pip .*'physcon-ase\[report\]'"):
        write_report([folder], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_conformers_can_be_chosen_and_have_weights(entries: list[Entry], results: Results) -> None:
    entry = of_kind(entries, "ensemble")
    assert entry.structures is not None
    assert len(entry.structures.positions) == len(results.ensemble) == len(entry.strains)
    assert [row[2] for row in entry.tables[0].rows] == [f"{weight:.4f}" for weight in results.ensemble.weights]
    detail = detail_of(entry)
    assert detail.count("<option") == detail.count("data-structure=") == len(results.ensemble)


def test_a_profile_is_closed_and_leads_to_its_geometries(entries: list[Entry], results: Results) -> None:
    one, other = (entry for entry in entries if entry.kind == "scan")
    profile, chart = (one, other) if one.source == "scan.json" else (other, one)
    (trace,) = profile.plots[0]["data"]
    assert trace["x"] == [-180, -120, -60, 0, 60, 120, 180]
    assert trace["y"][-1] == trace["y"][0]
    assert trace["customdata"] == [0, 1, 2, 3, 4, 5, 0]
    assert profile.structures is not None
    assert profile.structures.shown == results.scan.minima[0][0]
    contour, _, grid = chart.plots[0]["data"]
    assert contour["z"][1][2] == float(f"{results.map.relative_energies[2, 1]:.4g}")  # rows of z are along y
    assert (grid["x"][1], grid["y"][1]) == (-180, -60)


def test_failed_grid_points_have_no_geometry_and_make_a_scan_uncertain(results: Results) -> None:
    geometries = {point: atoms for point, atoms in results.scan.geometries.items() if point != (1,)}
    energies = results.scan.energies.copy()
    energies[1] = np.nan
    lost = replace(results.scan, geometries=geometries, energies=energies, failures={(1,): "no <way>"})
    entry = entry_of(json.loads(json.dumps(lost.to_dict())))
    assert (entry.status, entry.reason) == ("uncertain", "1 of 6 grid points failed")
    assert entry.plots[0]["data"][0]["customdata"] == [0, None, 1, 2, 3, 4, 0]
    assert "no &lt;way&gt;" in detail_of(entry)


def test_vibrations_have_a_spectrum_and_a_table_of_modes(entries: list[Entry], results: Results) -> None:
    entry = of_kind(entries, "vibrations")
    stick = entry.plots[0]["data"][0]
    assert stick["x"] == [float(f"{place:.5g}") for place in results.vibrations.frequencies]
    assert len(entry.tables[0].rows) == 3
    assert dict(entry.numbers)["Zero-point energy"].startswith(
        f"{results.vibrations.thermochemistry.zero_point_energy:.4f} eV ("
    )


def test_doubts_about_a_given_stationary_point_are_its_status(results: Results) -> None:
    relaxation = replace(results.vibrations.relaxation, converged=False)  # relax=False
    given = replace(results.vibrations, status="uncertain: few molecules", relaxation=relaxation)
    assert entry_of(given.to_dict()).status == "uncertain"


def test_imaginary_modes_are_no_minimum(results: Results) -> None:
    modes = replace(results.vibrations.modes, frequencies=np.array([-100.0, 1500.0, 3700.0]))
    saddle = replace(results.vibrations, modes=modes, status="1 imaginary mode", scale=0.97)
    entry = entry_of(saddle.to_dict())
    assert (entry.status, entry.reason) == ("not a minimum", "1 imaginary mode")
    assert entry.tables[0].rows[0][:3] == ("1", "100.0i", "97.0i")


def test_interactions_have_their_curve(entries: list[Entry], results: Results) -> None:
    entry = of_kind(entries, "interaction")
    assert entry.name == "O + O"
    assert entry.plots[0]["data"][0]["x"] == [2.0, 3.0, 5.0]
    assert "Binding energy" in dict(entry.numbers)


def test_structures_keep_distances_and_handedness() -> None:
    generator = np.random.default_rng(0)
    positions = generator.normal(size=(5, 3))
    numbers = [6, 1, 9, 17, 35]
    view = view_of(structures_of(numbers, [positions, positions + 1.0], ["a", "b"]))
    first, other = (np.array(flat).reshape(-1, 3) for flat in view["positions"])
    assert np.abs(first - other).max() < 0.002
    assert np.sign(np.linalg.det(first[1:4] - first[0])) == np.sign(np.linalg.det(positions[1:4] - positions[0]))
    assert np.ptp(first, axis=0).argmax() == 0
    assert set(view["elements"]) == {"H", "C", "F", "Cl", "Br"}


def test_a_single_atom_has_a_structure() -> None:
    assert view_of(structures_of([17], [[[1.0, 2.0, 3.0]]], [""]))["positions"] == [[0.0, 0.0, 0.0]]


def test_texts_in_json_cannot_end_a_script() -> None:
    text = page.as_json({"name": MALICIOUS, "line": "\u2028"})
    assert "<" not in text
    assert "\u2028" not in text
    assert json.loads(text)["name"] == MALICIOUS


def test_every_kind_is_written_by_a_command(folder: Path) -> None:
    kinds = {json.loads(path.read_text())["kind"] for path in folder.glob("*.json")}
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    kinds |= {json.loads(line)["kind"] for line in lines}
    assert kinds == set(KINDS)
