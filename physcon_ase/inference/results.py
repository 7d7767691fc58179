"""What comes out, as records, text, files and a plot."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from jaxtyping import Float

from physcon_ase.chem.draw import depict
from physcon_ase.chem.files import sdf_block
from physcon_ase.chem.graph import MolGraph
from physcon_ase.errors import BondPerceptionError, PhysConError
from physcon_ase.inference.calculator import UNITS, PhysConCalculator, Prediction
from physcon_ase.inference.files import check_output, write_structures
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel

STATUSES: Final = ("ok", "not converged", "changed", "failed")
"""What `Record.status` can be, the most useful first."""


@dataclass(frozen=True)
class Result:
    """A relaxed molecule; energies and forces are those of the very geometry."""

    atoms: Atoms
    """The final geometry, with energy and forces attached and the fields below in `info`."""
    graph: MolGraph | None
    """The molecular graph; None if it was given as a geometry whose bonds could not be found."""
    smiles: str
    """Canonical SMILES of the graph, empty without one."""
    energy: float
    """Total energy [eV] of the final geometry."""
    fmax: float
    """Largest force [eV/Å] on any atom there."""
    converged: bool
    """Whether the largest force fell below the threshold."""
    steps: int
    """Steps of the optimiser."""
    seconds: float
    """Wall time from input to result without loading the model; in a batch, this molecule's share."""
    energies: Float[np.ndarray, " frames"]
    """Energy [eV] of the start and after each step."""
    fmax_history: Float[np.ndarray, " frames"]
    """Largest force [eV/Å] of the same geometries."""
    bonds_intact: bool | None
    """Whether the final geometry has the bonds of the graph; None without a graph."""
    stereo_intact: bool | None
    """Whether it has the configuration of the graph; None without a graph."""
    undefined_stereo: tuple[str, ...]
    """Stereocentres and double bonds that the input left open and the seed decided."""
    start: str
    """Where the relaxation started, with the reason if that is not what was asked for."""
    optimizer: str
    """Name of the optimiser."""
    model: str
    """Name of the checkpoint."""
    revision: str
    """sha256 of its weights."""
    level: str
    """Level of theory."""
    seed: int
    """Seed of the start geometry."""
    status: str
    """"converged", or what to do."""
    energy_uncertainty: float | None = None
    """Standard deviation [eV] of the error of `energy`; None if the model cannot tell."""
    units: str = UNITS
    """Units of the numbers above."""

    @property
    def is_ok(self) -> bool:
        """Converged, and still the molecule that was asked for as far as that can be told."""
        return self.converged and self.bonds_intact is not False and self.stereo_intact is not False


@dataclass(frozen=True)
class Record:
    """What became of one molecule of a batch."""

    index: int
    """Place in the input."""
    name: str
    """The SMILES as given, or the formula."""
    status: Literal["ok", "not converged", "changed", "failed"]
    """"changed": converged, but with other bonds or another configuration; "failed": there is no geometry."""
    reason: str
    """What went wrong and what to do; empty if nothing did."""
    error: str
    """Class name of the error of a failed molecule, empty otherwise."""
    seconds: float
    """This molecule's share of the wall time."""
    seed: int
    """Seed of the start geometry."""
    attempts: int
    """Start geometries tried."""
    result: Result | None
    """The relaxed molecule; None if it failed."""


def predict_structures(
    structures: Sequence[Atoms],
    *,
    level: str | None = None,
    checkpoint: str | Path | LoadedModel = DEFAULT_CHECKPOINT,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
) -> list[Atoms | PhysConError]:
    """Copies of the structures with energy and forces attached, ready to be written; or why one was refused."""
    calculator = PhysConCalculator(checkpoint, level=level, device=device, dtype=dtype)
    return [
        _with_prediction(atoms, prediction)
        for atoms, prediction in zip(structures, calculator.predict(structures), strict=True)
    ]


def _with_prediction(atoms: Atoms, prediction: Prediction) -> Atoms | PhysConError:
    if prediction.error is not None:
        return prediction.error
    labelled = atoms.copy()
    labelled.info |= asdict(prediction.provenance)
    if prediction.energy_uncertainty is not None:
        labelled.info["energy_uncertainty"] = prediction.energy_uncertainty
    labelled.calc = SinglePointCalculator(labelled, energy=prediction.energy, forces=prediction.forces)
    return labelled


def write_results(results: Result | Iterable[Result], path: str | Path, *, inputs: Iterable[str | Path] = ()) -> int:
    """Writes structures with energy, level and model as extended XYZ (.xyz, .extxyz) or SD file (.sdf).

    Args:
        results: one or several.
        path: the file; its suffix decides the format.
        inputs: files that must not be written over.

    Returns:
        The number of structures written.

    Raises:
        PhysConError: see `check_output`.
        BondPerceptionError: an SD file of a molecule without bonds.
    """
    path = check_output(path, inputs)
    results = [results] if isinstance(results, Result) else list(results)
    if path.suffix == ".sdf":
        path.write_text("".join(_sdf_record(result) for result in results), encoding="utf-8")
    else:
        write_structures([result.atoms for result in results], path)
    return len(results)


def format_result(result: Result) -> str:
    """The result as text for the terminal."""
    formula = result.atoms.get_chemical_formula("reduce" if result.graph is None else "hill")
    lines = [
        f"{result.smiles or formula}  ({formula}, {len(result.atoms)} atoms)",
        f"  model      {result.model} (revision {result.revision[:12]}), level {result.level}",
        f"  start      {result.start}, seed {result.seed}",
        f"  energy     {result.energy:.6f}{_spread(result)} eV ({result.energy - result.energies[0]:+.4f} eV from the "
        "start)",
        f"  fmax       {result.fmax:.4f} eV/Å, {result.steps} steps of {result.optimizer}, {result.seconds:.2f} s",
        f"  bonds      {_yes_or_no(result.bonds_intact)}, stereo {_yes_or_no(result.stereo_intact)}",
        f"  status     {result.status}",
    ]
    lines += [f"  undefined  {line}: decided by the seed" for line in result.undefined_stereo]
    return "\n".join(lines)


def _spread(result: Result) -> str:
    return "" if result.energy_uncertainty is None else f" ± {result.energy_uncertainty:.3f}"


def format_record(record: Record) -> str:
    """The record as one line for the terminal."""
    if record.result is None:
        return f"{record.index:5d}  {record.status:13s}  {record.name}  {record.error}: {record.reason}"
    result = record.result
    numbers = f"{result.energy:.6f} eV, fmax {result.fmax:.4f} eV/Å, {result.steps} steps"
    reason = f", {record.reason}" if record.reason else ""
    return f"{record.index:5d}  {record.status:13s}  {record.name}  {numbers}{reason}"


def format_summary(records: Sequence[Record]) -> str:
    """One line that counts the records by status."""
    counts = {status: sum(record.status == status for record in records) for status in STATUSES}
    shown = ", ".join(f"{count} {status}" for status, count in counts.items() if count or status == "ok")
    return f"{len(records)} molecules: {shown}; {sum(record.seconds for record in records):.2f} s"


def plot_result(result: Result, path: str | Path) -> None:
    """Draws the convergence, and beside it the structural formula, as a PNG file.

    Raises:
        PhysConError: matplotlib is not installed, or see `check_output`.
    """
    path = check_output(path, kinds=(".png",))
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.image import imread
    except ImportError as error:
        raise PhysConError("a plot needs matplotlib; install it with pip install 'physcon-ase[plot]'") from error
    # Without pyplot: it would choose a back-end for the whole process.
    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    curve, formula = figure.subplots(1, 2, width_ratios=(5, 4))
    _draw_convergence(curve, result)
    formula.axis("off")
    if result.graph is not None:
        formula.imshow(imread(BytesIO(depict(result.graph, size=(800, 700)))))
    name = result.smiles or result.atoms.get_chemical_formula()
    origin = f"{result.model}, level {result.level}"
    figure.suptitle(f"{name}: {result.energy:.4f} eV, largest force {result.fmax:.4f} eV/Å ({origin})", fontsize=10)
    figure.savefig(path, dpi=150)


def _draw_convergence(curve: Any, result: Result) -> None:
    steps = np.arange(len(result.energies))
    above = result.energies - result.energies.min()
    above[above == 0] = np.nan  # a logarithm has no zero: the lowest point is left out
    curve.semilogy(steps, result.fmax_history, color="tab:blue", marker=".", label="largest force [eV/Å]")
    curve.semilogy(steps, above, color="tab:orange", marker=".", label="energy above the lowest [eV]")
    curve.locator_params(axis="x", integer=True)
    curve.set_xlabel(f"step of {result.optimizer}")
    curve.legend(frameon=False)


def _sdf_record(result: Result) -> str:
    if result.graph is None:
        raise BondPerceptionError(
            f"no bonds were found for {result.atoms.get_chemical_formula()}, and an SD file needs them: write .xyz"
        )
    properties = {"energy_eV": f"{result.energy:.8f}", "fmax_eV_per_A": f"{result.fmax:.6f}"}
    origin = ("level", "model", "revision", "smiles", "converged", "seed")
    properties |= {name: str(getattr(result, name)) for name in origin}
    return sdf_block(result.graph, result.atoms.positions, properties, title=result.smiles)


def _yes_or_no(intact: bool | None) -> str:
    return {True: "intact", False: "CHANGED", None: "not known"}[intact]
