"""The constraints of `make lowest` are the lower bounds of pyproject.toml."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_lowest_versions_are_the_lower_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = [
        re.fullmatch(r"([\w-]+)>=([\d.]+)(,<.*)?", requirement)
        for requirement in (*project["dependencies"], *project["optional-dependencies"]["test"])
    ]
    assert None not in bounds
    expected = {bound[1]: bound[2] for bound in bounds if bound is not None and bound[1] != "torch"}
    lines = [line for line in Path(__file__).with_name("lowest.txt").read_text().splitlines() if line[0] != "#"]
    assert dict(line.split("==") for line in lines) == expected
