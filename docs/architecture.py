"""Picture of the imports between the parts of the package.

    python docs/architecture.py docs/architecture.png

Each box is a part with its number of modules and lines. An arrow is an import that no chain of other arrows contains.
The layers and the imports are those of tests/test_architecture.py.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.test_architecture import LAYERS, PACKAGE, imports, modules

ROWS = [layer.split() for layer in LAYERS.split(" < ")]
BOX = (1.8, 0.55)
"""Width and height of a box."""
STEP = (2.2, 1.2)
"""Distance of columns and rows."""


def imported_parts() -> dict[str, set[str]]:
    """Parts that each part imports, without itself."""
    found: dict[str, set[str]] = {part: set() for row in ROWS for part in row}
    for module in modules():
        part = module.split(".")[0]
        names = (name.split(".") for name in imports(module))
        found[part] |= {name[1] for name in names if name[0] == "physcon_ase" and len(name) > 1} - {part}
    return found


def reduced(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Imports that are not implied by others; the graph has no circle."""
    reached: dict[str, set[str]] = {}

    def below(part: str) -> set[str]:
        if part not in reached:
            reached[part] = graph[part].union(*(below(other) for other in graph[part]))
        return reached[part]

    return [
        (part, other)
        for part, others in graph.items()
        for other in sorted(others)
        if not any(other in below(between) for between in others - {other})
    ]


def sizes() -> dict[str, tuple[int, int]]:
    """Number of modules and lines of each part."""
    found = {}
    for part in (part for row in ROWS for part in row):
        path = PACKAGE / part
        files = list(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        found[part] = (len(files), sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files))
    return found


def draw(path: Path) -> None:
    """Writes the picture."""
    places = {
        part: (STEP[0] * (column - (len(row) - 1) / 2), STEP[1] * height)
        for height, row in enumerate(ROWS)
        for column, part in enumerate(row)
    }
    width, height = STEP[0] * max(map(len, ROWS)), STEP[1] * len(ROWS)
    figure, axes = plt.subplots(figsize=(width, height))
    for part, other in reduced(imported_parts()):
        (x, y), (to_x, to_y) = places[part], places[other]
        style = {"arrowstyle": "-|>", "color": "0.45", "connectionstyle": "arc3,rad=0.08", "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (to_x, to_y + BOX[1] / 2), (x, y - BOX[1] / 2), arrowprops=style, zorder=1)
    for part, (n_modules, n_lines) in sizes().items():
        x, y = places[part]
        axes.add_patch(
            plt.Rectangle((x - BOX[0] / 2, y - BOX[1] / 2), *BOX, facecolor="#eaf1f8", edgecolor="#35618e", zorder=2)
        )
        axes.text(x, y + 0.08, part, ha="center", va="center", weight="bold", zorder=3)
        text = f"{n_lines:,} lines" if n_modules == 1 else f"{n_modules} modules, {n_lines:,} lines"
        axes.text(x, y - 0.12, text, ha="center", va="center", size=7, zorder=3)
    axes.set(xlim=(-width / 2, width / 2), ylim=(-0.5, height - 0.5))
    axes.axis("off")
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
