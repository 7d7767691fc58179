"""Output of results as text, files and plots."""

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from physcon_ase.chem.draw import depict
from physcon_ase.errors import BondPerceptionError, PhysConError
from physcon_ase.inference.figures import new_figure
from physcon_ase.inference.files import check_output, write_records
from physcon_ase.inference.formats.text import replaced
from physcon_ase.inference.results import STATUSES, Record, Result, record_of
from physcon_ase.plurals import counted
from physcon_ase.units import EV_PER_KCAL_PER_MOL

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def format_result(result: Result) -> str:
    """Result as text for the terminal."""
    formula = result.atoms.get_chemical_formula("reduce" if result.graph is None else "hill")
    lines = [
        f"{result.smiles or formula}  ({formula}, {counted(len(result.atoms), 'atom')})",
        f"  model      {result.model} (revision {result.revision[:12]}), level {result.level}",
        f"  start      {result.start}, seed {result.seed}",
        f"  energy     {result.energy:.6f}{_spread(result)} eV ({result.energy - result.energies[0]:+.4f} eV from the "
        "start)",
        f"  fmax       {result.fmax:.4f} eV/Å, {counted(result.steps, 'step')} of {result.optimizer}, "
        f"{result.seconds:.2f} s",
        f"  bonds      {_yes_or_no(result.bonds_intact)}, stereo {_yes_or_no(result.stereo_intact)}",
        f"  status     {result.status}",
    ]
    lines += [f"  undefined  {line}: decided by the seed" for line in result.undefined_stereo]
    return "\n".join(lines)


def _spread(result: Result) -> str:
    return "" if result.energy_uncertainty is None else f" ± {result.energy_uncertainty:.3f}"


def format_record(record: Record) -> str:
    """Record as one line for the terminal."""
    if record.result is None:
        return f"{record.index:5d}  {record.status:13s}  {record.name}  {record.error}: {record.reason}"
    result = record.result
    numbers = f"{result.energy:.6f} eV, fmax {result.fmax:.4f} eV/Å, {counted(result.steps, 'step')}"
    reason = f", {record.reason}" if record.reason else ""
    return f"{record.index:5d}  {record.status:13s}  {record.name}  {numbers}{reason}"


def format_summary(records: Sequence[Record]) -> str:
    """Number of records by status, as one line."""
    counts = {status: sum(record.status == status for record in records) for status in STATUSES}
    shown = ", ".join(f"{count} {status}" for status, count in counts.items() if count or status == "ok")
    return f"{counted(len(records), 'molecule')}: {shown}; {sum(record.seconds for record in records):.2f} s"


def in_two_units(energy: float, *, decimals: int = 6) -> str:
    """Energy difference [eV] as text in eV, with `decimals` decimals, and in kcal/mol."""
    return f"{energy:.{decimals}f} eV ({energy / EV_PER_KCAL_PER_MOL:.2f} kcal/mol)"


def format_energy(index: int, atoms: Atoms) -> str:
    """Energy of a structure with an attached prediction, its origin and the doubts, as one line for the terminal."""
    where = f"level {atoms.info['level']} of {atoms.info['model']}"
    origin = f", {atoms.info['origin']}" if "origin" in atoms.info else ""
    doubts = f", uncertain: {atoms.info['doubts']}" if "doubts" in atoms.info else ""
    charge = f", charge {atoms.info['charge']:+d}" if atoms.info.get("charge") else ""
    name = f"  {atoms.info['name']}" if atoms.info.get("name") else ""
    energy = f"{atoms.get_potential_energy():.6f} eV"
    return f"{index:5d}  {atoms.get_chemical_formula()}{charge}{name}  {energy}  {where}{origin}{doubts}"


def format_errors(outcomes: Sequence[object]) -> list[str]:
    """One line for each error among the outcomes."""
    errors = [(index, outcome) for index, outcome in enumerate(outcomes) if isinstance(outcome, PhysConError)]
    return [f"{index:5d}  failed  {type(error).__name__}: {error}" for index, error in errors]


def save_figure(figure: "Figure", path: Path) -> None:
    """Writes a figure to a PNG file, which is never half-written."""
    with replaced(path) as part:
        figure.savefig(part, format="png", dpi=150)


def write_results(results: Result | Iterable[Result], path: str | Path, *, inputs: Iterable[str | Path] = ()) -> int:
    """Writes results to a file whose suffix determines the format, with energy, level, model and status.

    Args:
        results: one or several results.
        path: output file, see `files.write_records`.
        inputs: input files, which must not be overwritten.

    Returns:
        The number of structures written.

    Raises:
        PhysConError: see `files.check_output`.
        BondPerceptionError: an SD file of a molecule without bonds.
    """
    results = [results] if isinstance(results, Result) else list(results)
    left_out = write_records([record_of(result, index) for index, result in enumerate(results)], path, inputs=inputs)
    if left_out:
        formula = results[left_out[0].index].atoms.get_chemical_formula()
        raise BondPerceptionError(f"{formula}: {left_out[0].reason}")
    return len(results)


def plot_result(result: Result, path: str | Path) -> None:
    """Plots the convergence and the structural formula to a PNG file.

    Raises:
        PhysConError: matplotlib is not installed, or see `check_output`.
    """
    path = check_output(path, kinds=(".png",))
    figure = new_figure(9.0, 4.0)
    from matplotlib.image import imread

    curve, formula = figure.subplots(1, 2, width_ratios=(5, 4))
    _draw_convergence(curve, result)
    formula.axis("off")
    if result.graph is not None:
        formula.imshow(imread(BytesIO(depict(result.graph, size=(800, 700)))))
    name = result.smiles or result.atoms.get_chemical_formula()
    origin = f"{result.model}, level {result.level}"
    figure.suptitle(f"{name}: {result.energy:.4f} eV, largest force {result.fmax:.4f} eV/Å ({origin})", fontsize=10)
    save_figure(figure, path)


def _draw_convergence(curve: Any, result: Result) -> None:
    steps = np.arange(len(result.energies))
    above = result.energies - result.energies.min()
    above[above == 0] = np.nan  # omit the lowest point on the logarithmic scale
    curve.semilogy(steps, result.fmax_history, color="tab:blue", marker=".", label="largest force [eV/Å]")
    curve.semilogy(steps, above, color="tab:orange", marker=".", label="energy above the lowest [eV]")
    curve.locator_params(axis="x", integer=True)
    curve.set_xlabel(f"step of {result.optimizer}")
    curve.legend(frameon=False)


def _yes_or_no(intact: bool | None) -> str:
    return {True: "intact", False: "CHANGED", None: "not known"}[intact]
