"""The page in a browser, if there is one: apt-get install chromium chromium-driver; pip install selenium."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from physcon_ase.inference.pages.page import write_report

pytest.importorskip("plotly", reason="needs plotly: pip install 'physcon-ase[report]'")
pytest.importorskip("selenium", reason="needs selenium")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs Chromium and chromedriver"),
]

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-unsafe-swiftshader --window-size=1280,900"
).split()

PATIENCE = 300.0
"""Time limit [s] for a drawing; without a GPU, one takes a second, and a minute on a busy machine."""


@pytest.fixture(scope="module")
def browser(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser with the page, opened from disk."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    home = tmp_path_factory.mktemp("browser")
    write_report([folder], home / "page.html")
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={home / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = Chrome(options=options, service=Service(str(DRIVER)))
    chrome.get((home / "page.html").as_uri())
    yield chrome
    chrome.quit()


def rows(browser: Any) -> list[str]:
    """First cells of the rows that are shown."""
    return browser.execute_script(
        "return [...document.querySelectorAll('#molecules tbody tr:not([hidden])')].map(row => row.cells[0].innerText)"
    )


def click_row(browser: Any, name: str, kind: str) -> None:
    browser.execute_script(
        "[...document.querySelectorAll('#molecules tbody tr')].find(row => "
        "row.cells[0].innerText.startsWith(arguments[0]) && row.cells[1].innerText === arguments[1]).click()",
        name,
        kind,
    )


def wait_for(browser: Any, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, PATIENCE).until(lambda chrome: chrome.execute_script(f"return {script}"))


def drawn_positions(browser: Any) -> list[float]:
    return browser.execute_script(
        "return ['x', 'y', 'z'].flatMap(axis => [...document.querySelector('#detail .structure').data[0][axis]])"
    )


def test_clicking_a_head_sorts_the_table(browser: Any) -> None:
    energy = browser.execute_script("return [...document.querySelectorAll('#molecules th')][4]")
    values = (
        "[...document.querySelectorAll('#molecules tbody tr')]"
        ".map(row => row.cells[4].dataset.value).filter(Boolean).map(Number)"
    )
    for sign, order in ((1, "ascending"), (-1, "descending")):
        energy.click()
        found = browser.execute_script(f"return {values}")
        assert len(found) == 7
        assert found == sorted(found, key=lambda value, sign=sign: sign * value)
        assert energy.get_attribute("aria-sort") == order
        assert sorted(rows(browser)[-2:]) == sorted(["not a ring\nC1=CC", "salt\n[Na+].[Cl-]"])  # without energy: last


def test_the_search_filters_the_table(browser: Any) -> None:
    search = browser.execute_script("return document.getElementById('search')")
    n_rows = len(rows(browser))
    search.send_keys("relaxation FAILED na")
    assert rows(browser) == ["salt\n[Na+].[Cl-]"]
    assert browser.execute_script("return document.getElementById('shown').textContent") == f"1 of {n_rows}"
    search.clear()
    search.send_keys(" ")
    assert len(rows(browser)) == n_rows


def test_clicking_a_row_draws_structure_and_plots(browser: Any) -> None:
    click_row(browser, "ethanol", "relaxation")
    wait_for(browser, "document.querySelector('#detail .structure canvas') !== null")
    wait_for(browser, "document.querySelector('#detail .plot .point') !== null")
    assert browser.execute_script("return document.querySelector('#detail .drawing svg') !== null")
    assert "9 atoms" in browser.execute_script("return document.getElementById('detail').innerText")


def test_a_conformer_can_be_chosen_from_the_table_and_the_list(browser: Any) -> None:
    click_row(browser, "CCO", "ensemble")
    first = drawn_positions(browser)
    browser.execute_script("document.querySelector('#detail [data-structure=\"1\"]').click()")
    wait_for(browser, "document.querySelector('#detail .choice').value === '1'")
    assert drawn_positions(browser) != first
    browser.execute_script(
        "const choice = document.querySelector('#detail .choice'); choice.value = '0';"
        "choice.dispatchEvent(new Event('change'))"
    )
    assert drawn_positions(browser) == first


def test_a_click_on_a_profile_shows_the_geometry_of_the_point(browser: Any) -> None:
    click_row(browser, "CO", "scan")
    wait_for(browser, "document.querySelector('#detail .plot .point') !== null")
    browser.execute_script("document.querySelector('#detail .plot').emit('plotly_click', {points: [{customdata: 3}]})")
    assert browser.execute_script("return document.querySelector('#detail .choice').value") == "3"


def test_a_malicious_name_is_a_text(browser: Any) -> None:
    click_row(browser, "</script>", "relaxation")
    assert "</script><b>bold</b>" in browser.execute_script("return document.querySelector('#detail h3').innerText")
    assert browser.execute_script("return document.querySelectorAll('#detail b, #molecules b').length") == 0


def test_nothing_is_loaded_and_no_error_is_logged(browser: Any) -> None:
    assert browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)") == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_narrow_window_does_not_scroll_sideways(browser: Any) -> None:
    metrics = {"width": 420, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    wait_for(browser, "document.documentElement.scrollWidth <= 420")  # the plots follow a little later
