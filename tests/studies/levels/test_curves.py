import math
from pathlib import Path

import pytest

from studies.levels.curves import format_curves, labels_needed, plot_curves
from studies.levels.study import SCRATCH

COUNTS = (50, 150, 500)


def record(row: str, labels: int, seed: int, error: float, cheap: float | None = None) -> dict:
    return {
        "row": row,
        "labels": labels,
        "seed": seed,
        "n_labelled": COUNTS[-1],
        "accurate": {"level": "b3lyp", "force_mae": error / 1000, "n_forces": 300},
        "cheap": None if cheap is None else {"level": "gfn2", "force_mae": cheap / 1000, "n_forces": 600},
    }


def curves() -> list[dict]:
    """From scratch 8000/N meV/Å give or take the seed; fine-tuned a quarter of it; zero force needs no label."""
    records = []
    for seed in (0, 1):
        records += [record(SCRATCH, n, seed, 8000 / n + 4 * seed - 2) for n in COUNTS]
        records += [record("fine-tuned", n, seed, 2000 / n, 40 + n / 10) for n in COUNTS]
        records.append(record("two heads, zero force at minima", 0, seed, 90.0, 35.0))
    return records


@pytest.mark.parametrize(
    ("error", "labels"), [(80.0, 100), (2.0, 4000), (160.0, 50), (1000.0, 50), (1.0, math.inf), (8000 / 3000, 3000)]
)
def test_the_labels_that_a_power_law_needs(error: float, labels: float) -> None:
    curve = {n: 8000 / n for n in (4000, 50, 400)}
    assert labels_needed(curve, error) == pytest.approx(labels)


def test_the_first_crossing_counts() -> None:
    assert labels_needed({50: 100.0, 100: 60.0, 200: 80.0, 400: 50.0}, 70.0) < 100


def test_tables_have_both_levels_the_range_of_seeds_and_the_worth_of_the_best_row() -> None:
    text = format_curves(curves())
    accurate, cheap, worth = text.split("\n\n|")[0], text, text.rsplit("\n\n", 1)[1]
    assert "level **b3lyp**, 300 components" in accurate
    assert "| row | 0 | 50 | 150 | 500 (all) |" in text
    assert f"| {SCRATCH} | - | 160 (158-162) | 53 (51-55) | 16 (14-18) |" in text
    assert "| fine-tuned | - | 40 (40-40) | 13 (13-13) | 4 (4-4) |" in text
    assert "level **gfn2**, 600 components" in cheap
    assert "| fine-tuned | - | 45 (45-45) | 55 (55-55) | 90 (90-90) |" in text
    assert text.count(f"| {SCRATCH} |") == 1  # it does not know the cheap level
    assert worth == f'With 150 labels "fine-tuned" reaches 13 meV/Å; "{SCRATCH}" needs more than all 500.'
    longer = [*curves(), record(SCRATCH, 1000, 0, 8.0)]
    assert format_curves(longer).endswith(f'"{SCRATCH}" needs about 600.')


def test_a_single_row_is_a_table_too() -> None:
    text = format_curves([r for r in curves() if r["row"] == SCRATCH])
    assert text.count("| row |") == 1
    assert "reaches" not in text


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    plot_curves(curves(), tmp_path / "levels.png")
    assert (tmp_path / "levels.png").read_bytes().startswith(b"\x89PNG")
