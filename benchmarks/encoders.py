"""Encoder variants at equal training time, from the logs of their trainings.

    python encoders.py RUNS [--level LEVEL] [--minutes 10 20]

RUNS is a folder with one folder per training (`physcon train` on the recipes of recipes/encoders/, with frequent
validations). Errors are those of the validation split at one level, by default the first of the recipe, interpolated
linearly in processor time between two validations.
Latency and training rate are measured by this script, with random weights of the size of the variant.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from heldout import model_forces
from rates import MOLECULES, latency, training_rate
from reporting import Clock, Row, Table, finish, make_parser
from safetensors import safe_open

from physcon_ase.model.config import LevelConfig, ModelConfig
from physcon_ase.model.physcon import PhysCon
from physcon_ase.training.recipe import Recipe
from physcon_ase.training.recipe_files import parse_recipe
from physcon_ase.training.state import STATE_FILE
from physcon_ase.training.trainer import LOG_FILE


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, checkpoint=False)
    parser.add_argument("runs", type=Path, help="folder of the trainings")
    parser.add_argument("--level", help="(default: the first of each recipe)")
    parser.add_argument("--minutes", type=float, nargs="+", default=[10, 20], help="of processor time (default: 10 20)")
    arguments = parser.parse_args(argv)
    clock = Clock.now()
    folders = sorted(path.parent for path in arguments.runs.glob(f"*/{LOG_FILE}"))
    rows = [_row(folder, arguments) for folder in folders if len(validations(folder, arguments.level))]
    rows.sort(key=_last_force_error)
    note = (
        "Errors: mean absolute errors of total energies and Cartesian force components on all kinds of geometry of "
        "the validation molecules; '-': not trained that long. Latency: energy and forces of aspirin, one molecule. "
        "Training: steps with forces on molecules of 19 atoms. Both in processor time, one thread, float32."
    )
    finish("encoders", arguments, clock, [Table("Encoder variants at equal processor time", rows, note)])


def validations(folder: Path, level: str | None = None) -> np.ndarray:
    """Rows (processor seconds, energy MAE [eV], force MAE [eV/Å]) of the validations of a training.

    Args:
        folder: of the training.
        level: whose errors; by default the first that is validated.
    """
    lines = (folder / LOG_FILE).read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    entries = [entry for entry in entries if "validation" in entry]
    level = entries[0]["validation"] if level is None and entries else level
    found = [
        (entry["cpu_seconds"], entry["energy_mae"], entry["force_mae"])
        for entry in entries
        if entry["validation"] == level
    ]
    return np.array(found).reshape(-1, 3)


def at_time(found: np.ndarray, seconds: float) -> tuple[float, float]:
    """Energy and force MAE at a processor time between the first and the last validation, NaN elsewhere."""
    if not len(found) or not found[0, 0] <= seconds <= found[-1, 0]:
        return float("nan"), float("nan")
    energy, force = (float(np.interp(seconds, found[:, 0], found[:, column])) for column in (1, 2))
    return energy, force


def _row(folder: Path, arguments) -> Row:
    recipe = _recipe(folder)
    model, level = _random_model(recipe), arguments.level or recipe.levels[0].name
    found = validations(folder, level)
    errors = {}
    for number in arguments.minutes:
        energy, force = at_time(found, 60 * number)
        errors[f"force MAE, {number:g} min [meV/Å]"] = 1000 * force
        errors[f"energy MAE, {number:g} min [meV]"] = 1000 * energy
    return {
        "variant": folder.name,
        "parameters": sum(p.numel() for p in model.parameters()),
        **errors,
        "trained [min]": found[-1, 0] / 60,
        "last force MAE [meV/Å]": 1000 * found[-1, 2],
        "aspirin E + F [ms]": 1000 * latency(model_forces(model, level), MOLECULES["aspirin"]),
        "training [molecules/s]": training_rate(model.config),
    }


def _recipe(folder: Path) -> Recipe:
    with safe_open(folder / STATE_FILE, framework="pt") as file:
        return parse_recipe(file.metadata()["recipe"], str(folder))


def _random_model(recipe: Recipe) -> PhysCon:
    levels = tuple(LevelConfig(own.name, own.description, (1, 6, 7, 8), (0.0,) * 4) for own in recipe.levels)
    model = PhysCon(ModelConfig(levels=levels, encoder=recipe.encoder))
    return model.eval().requires_grad_(False)


def _last_force_error(row: Row) -> float:
    columns = [value for name, value in row.items() if name.startswith("force MAE")]
    return next((value for value in reversed(columns) if not np.isnan(value)), float("inf"))


if __name__ == "__main__":
    main()
