"""Physical consistency checks of a checkpoint: symmetries, conservative forces, energy drift, short range.

Non-conservative forces can pass common benchmarks but lead to energy drift in dynamics and relaxations that do not
converge: Bigi, Langer and Ceriotti, ICML 2025, doi 10.48550/arXiv.2412.11569.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import torch
from ase.data import atomic_masses
from ase.units import fs
from jaxtyping import Float
from torch import Tensor

from physcon_ase.batch import Batch, EnergyFn, make_batch, select, with_positions
from physcon_ase.chem.conformers import embed
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.errors import UnsupportedElementError
from physcon_ase.model.coverage import format_elements
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel, PhysCon, load_model
from physcon_ase.relax.driver import RelaxStatus, relax
from physcon_ase.relax.state import ForceFn
from physcon_ase.units import CHEMICAL_SYMBOLS, COVALENT_RADII, EV_PER_KELVIN, FALLBACK_RADIUS

SMILES: Final = ("O", "CCO", "CC(=O)NC", "c1ccccc1O", "CC(C)C[C@H](N)C(=O)O")
"""Test molecules; those with elements that a level does not cover are skipped."""

IONS: Final = ("CC(=O)[O-]", "C[NH3+]", "[NH4+]", "[O-]c1ccccc1")
"""Ions of the check of size consistency."""

_FAR: Final = 1e5
"""Distance [Å per coordinate] at which molecules no longer interact."""

_COPIES: Final = 32
"""Number of geometries of a molecule in a batch."""

_SCORE_SIGMA: Final = 0.1
"""Noise level [Å per coordinate] at which the denoiser is evaluated as a score."""

Field: TypeAlias = Callable[[Tensor], Tensor]
"""Differentiable vector field: positions [atoms, 3] -> vectors [atoms, 3]."""


@dataclass(frozen=True)
class Check:
    """Result of one check."""

    name: str
    """Name of the check."""
    value: float
    """Worst value."""
    tolerance: float | None
    """Largest value that passes; None for values that are only reported."""
    unit: str
    detail: str = ""
    """Molecule or pair with the worst value, or other details."""

    @property
    def passed(self) -> bool:
        """Whether the value is within the tolerance; False for NaN."""
        return self.tolerance is None or self.value <= self.tolerance


def check_checkpoint(
    checkpoint: Path | str = DEFAULT_CHECKPOINT, *, level: str | None = None, seed: int = 0
) -> Iterator[tuple[str, list[Check]]]:
    """Title and checks of one level or of all levels of a checkpoint, in float64.

    Args:
        checkpoint: a shipped name or a folder.
        level: level of theory; by default all.
        seed: see `check_model`.

    Raises:
        UnknownLevelError: there is no such level.
    """
    loaded = load_model(checkpoint, dtype="float64")
    for name in loaded.model.level_names if level is None else (level,):
        checks = check_model(loaded, name, seed=seed)
        yield f"{loaded.name} (revision {loaded.revision[:12]}), level {name}, float64, seed {seed}", checks


def check_model(
    loaded: LoadedModel, level: str, *, smiles: Sequence[str] = SMILES, md_steps: int = 500, seed: int = 0
) -> list[Check]:
    """All checks of a level; the tolerances are for models in float64.

    Args:
        loaded: the checkpoint.
        level: level of theory.
        smiles: test molecules; those with elements that the level does not cover are skipped.
        md_steps: number of molecular dynamics steps of 1 fs for the energy drift.
        seed: random seed of start geometries, displacements, rotations and velocities.

    Raises:
        UnknownLevelError: there is no such level.
        UnsupportedElementError: the level covers none of the test molecules.
    """
    model, covered = loaded.model, set(loaded.model.level(level).elements)
    graphs = [graph_from_smiles(text) for text in smiles]
    graphs = [graph for graph in graphs if set(graph.atomic_numbers.tolist()) <= covered]
    if not graphs:
        raise UnsupportedElementError(
            f"level {level!r} only covers {format_elements(covered)}, and so none of the test molecules "
            f"{', '.join(smiles)}; call check_model with SMILES of covered elements"
        )
    generator = np.random.default_rng(seed)
    molecules = []
    for graph in graphs:
        place = embed(graph, seed=seed)[0]
        molecules.append(_batch(model, graph, place + 0.02 * generator.normal(size=place.shape)))
    energy_fn = model.energy_fn(level)
    conservative = functools.partial(energies_and_forces, energy_fn)

    def worst(name: str, tolerance: float | None, unit: str, measure: Callable[[Batch], float]) -> Check:
        return _worst(name, tolerance, unit, molecules, [measure(batch) for batch in molecules])

    def forces(batch: Batch) -> Field:
        return forces_of(energy_fn, batch)

    checks = [
        worst("force = -dE/dx", 1e-6, "eV/Å", lambda b: gradient_error(energy_fn, b)),
        worst("rotation", 1e-8, "eV/Å", lambda b: rotation_error(energy_fn, b, generator)),
        worst("translation by 1000 Å", 1e-6, "eV", lambda b: translation_error(energy_fn, b)),
        worst("permutation", 1e-8, "eV", lambda b: permutation_error(energy_fn, b, generator)),
        worst("size consistency, two molecules far apart", 1e-6, "eV", lambda b: extensivity_error(energy_fn, b)),
        *ion_checks(model, level, seed),
        cutoff_check(model, level),
        short_range_check(model, level),
        worst("asymmetry λ of the force Jacobian", 1e-8, "", lambda b: asymmetry(forces(b), b)),
        worst("work around a closed loop", 1e-6, "eV", lambda b: loop_work(conservative, b, seed)),
        drift_check(conservative, molecules, seed, md_steps),
        optimiser_check(conservative, molecules, graphs),
    ]
    if len(model.direct_heads):
        direct_step = functools.partial(model.energies_and_direct_forces, level=level)

        def direct(batch: Batch) -> Field:
            return direct_forces_of(model, level, batch)

        checks += [
            worst("direct forces: asymmetry λ", None, "", lambda b: asymmetry(direct(b), b)),
            worst("direct forces: work around a loop", None, "eV", lambda b: loop_work(direct_step, b, seed)),
            replace(
                drift_check(direct_step, molecules, seed, md_steps), name="direct forces: NVE drift", tolerance=None
            ),
            replace(optimiser_check(direct_step, molecules, graphs), name="direct forces: relaxations", tolerance=None),
        ]
    if model.structure is not None:
        denoiser, sigma = model.denoiser(level), torch.tensor([_SCORE_SIGMA], dtype=torch.float64)

        def score(batch: Batch) -> Field:
            return lambda x: (denoiser(with_positions(batch, x[None]), sigma)[0] - x) / sigma**2

        checks.append(worst(f"denoiser at {_SCORE_SIGMA} Å: asymmetry λ", None, "", lambda b: asymmetry(score(b), b)))
    return checks


def format_checks(checks: Sequence[Check]) -> str:
    """Table of the checks for the terminal."""
    lines = [f"{'check':38s} {'worst':>10s} {'tolerance':>10s}  {'unit':9s} result"]
    for check in checks:
        tolerance = "-" if check.tolerance is None else f"{check.tolerance:.1e}"
        result = "info" if check.tolerance is None else "pass" if check.passed else "FAIL"
        lines.append(
            f"{check.name:38s} {check.value:10.1e} {tolerance:>10s}  {check.unit:9s} {result}  {check.detail}".rstrip()
        )
    return "\n".join(lines)


# ---- individual checks


def gradient_error(energy_fn: EnergyFn, batch: Batch, *, step: float = 1e-3) -> float:
    """Largest deviation [eV/Å] of a force component from a five-point finite difference of the energy."""
    _, forces = energies_and_forces(energy_fn, batch)
    n_atoms = batch.positions.shape[1]
    units = torch.eye(3 * n_atoms, dtype=torch.float64).view(-1, n_atoms, 3)

    def energies(displacement: float) -> Tensor:
        moved = batch.positions + displacement * units
        with torch.no_grad():
            return energy_fn(_repeated(batch, moved))

    slope = (8 * (energies(step) - energies(-step)) - (energies(2 * step) - energies(-2 * step))) / (12 * step)
    return (forces.flatten() + slope).abs().max().item()


def rotation_error(energy_fn: EnergyFn, batch: Batch, generator: np.random.Generator) -> float:
    """Largest deviation [eV, eV/Å] from rotational invariance of the energy and equivariance of the forces."""
    turn, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    matrix = torch.as_tensor(turn * np.sign(np.linalg.det(turn)))
    energies, forces = energies_and_forces(energy_fn, batch)
    turned, turned_forces = energies_and_forces(energy_fn, with_positions(batch, batch.positions @ matrix))
    return max((turned - energies).abs().max().item(), (turned_forces - forces @ matrix).abs().max().item())


def translation_error(energy_fn: EnergyFn, batch: Batch) -> float:
    """Energy change [eV] on translation by 1000 Å in each coordinate."""
    with torch.no_grad():
        return (energy_fn(with_positions(batch, batch.positions + 1000.0)) - energy_fn(batch)).abs().max().item()


def permutation_error(energy_fn: EnergyFn, batch: Batch, generator: np.random.Generator) -> float:
    """Energy change [eV] on permutation of the atoms."""
    order = torch.as_tensor(generator.permutation(batch.positions.shape[1]))
    numbers, positions = batch.atomic_numbers[0, order].numpy(), batch.positions[0, order].numpy()
    other = make_batch([numbers], [positions], charges=[int(batch.charge)], dtype=torch.float64)
    with torch.no_grad():
        return (energy_fn(other) - energy_fn(batch)).abs().item()


def extensivity_error(energy_fn: EnergyFn, batch: Batch) -> float:
    """Deviation [eV] of the energy of two copies `_FAR` apart from twice the energy of one."""
    numbers, positions = batch.atomic_numbers[0].numpy(), batch.positions[0].numpy()
    pair = make_batch([np.tile(numbers, 2)], [np.concatenate([positions, positions + _FAR])], dtype=torch.float64)
    with torch.no_grad():
        return (energy_fn(pair) - 2 * energy_fn(batch)).abs().item()


def ion_checks(model: PhysCon, level: str, seed: int) -> list[Check]:
    """Largest deviation of the energy of an ion and a water molecule `_FAR` apart from the sum of their energies.

    None for a level of neutral molecules.
    """
    water, levels = graph_from_smiles("O"), model.level(level)
    ions = [graph for graph in map(graph_from_smiles, IONS) if graph.charge in levels.charges]
    if not ions:
        return []
    energy_fn = model.energy_fn(level)
    errors = []
    for ion in ions:
        numbers = [ion.atomic_numbers, water.atomic_numbers]
        places = [embed(ion, seed=seed)[0], embed(water, seed=seed)[0] + _FAR]
        alone = make_batch(numbers, places, charges=[ion.charge, 0], dtype=torch.float64)
        numbers, places = [np.concatenate(numbers)], [np.concatenate(places)]
        together = make_batch(numbers, places, charges=[ion.charge], dtype=torch.float64)
        with torch.no_grad():
            errors.append(abs(float(energy_fn(together).sum() - energy_fn(alone).sum())))
    worst = int(np.argmax(errors))
    return [Check("ion and water far apart", 1000 * errors[worst], 5.0, "meV", IONS[worst])]


def cutoff_check(model: PhysCon, level: str, *, width: float = 3e-4) -> Check:
    """Discontinuity of the force [eV/Å] between two atoms at the cutoff; maximum over element pairs.

    Differences of the force over two widths tell a jump from the slope of the long-range terms.
    """
    pairs, cutoff = _pairs(model, level), model.config.encoder.cutoff
    distances = cutoff + width * np.array([-2.0, -1.0, 1.0, 2.0])
    _, forces = _diatomics(model, level, pairs, np.tile(distances, (len(pairs), 1)))
    jumps = np.abs(2 * (forces[:, 2] - forces[:, 1]) - (forces[:, 3] - forces[:, 0]))
    worst = int(jumps.argmax())
    return Check("force jump at the cutoff", float(jumps[worst]), 1e-5, "eV/Å", _named(pairs[worst]))


def short_range_check(model: PhysCon, level: str) -> Check:
    """Number of element pairs with an attractive force at distances below 0.7 times the sum of covalent radii."""
    pairs = _pairs(model, level)
    reaches = [0.7 * sum(COVALENT_RADII.get(number, FALLBACK_RADIUS) for number in pair) for pair in pairs]
    energies, _ = _diatomics(model, level, pairs, np.linspace(0.25, reaches, 25, axis=1))
    holes = [_named(pair) for pair, own in zip(pairs, energies, strict=True) if (np.diff(own) > 0).any()]
    return Check("holes at short range", float(len(holes)), 0.0, "pairs", " ".join(holes))


def asymmetry(field: Field, batch: Batch) -> float:
    """Asymmetry λ = ||J - Jᵀ|| / (2 ||J||) of the Jacobian of a vector field; 0 for conservative fields."""
    positions = batch.positions[0]
    jacobian: Tensor = torch.autograd.functional.jacobian(field, positions)  # pyright: ignore[reportAssignmentType]
    jacobian = jacobian.reshape(positions.numel(), -1)
    return ((jacobian - jacobian.T).norm() / (2 * jacobian.norm())).item()


def loop_work(force_fn: ForceFn, batch: Batch, seed: int, *, radius: float = 0.05, n_points: int = 256) -> float:
    """Work |∮ F·dx| [eV] along a circle of the given radius [Å per coordinate] in a random plane.

    The trapezoidal rule converges to rounding accuracy for smooth fields on a circle.
    """
    generator = torch.Generator().manual_seed(seed)
    positions = batch.positions[0]
    u, v = radius * torch.randn(2, *positions.shape, generator=generator, dtype=positions.dtype)
    angles = torch.arange(n_points, dtype=positions.dtype) * (2 * torch.pi / n_points)
    work = 0.0
    for some in angles[:, None, None].split(_COPIES):
        _, forces = force_fn(_repeated(batch, positions + some.cos() * u + some.sin() * v))
        work += (forces * (some.cos() * v - some.sin() * u)).sum().item() * (2 * torch.pi / n_points)
    return abs(work)


def drift_check(force_fn: ForceFn, molecules: Sequence[Batch], seed: int, n_steps: int) -> Check:
    """Largest absolute energy drift of NVE trajectories, see `nve_energies` and `drift_of`."""
    together = make_batch(
        [own.atomic_numbers[0] for own in molecules],
        [own.positions[0] for own in molecules],
        charges=[int(own.charge) for own in molecules],
        multiplicities=[int(own.multiplicity) for own in molecules],
        dtype=molecules[0].positions.dtype,
    )
    energies = nve_energies(force_fn, together, np.random.default_rng(seed), n_steps, time_step=fs)
    drifts = [abs(drift_of(own, n)) for own, n in zip(energies.T, together.n_atoms.tolist(), strict=True)]
    return _worst("NVE drift at 300 K", 1.0, "meV/atom", molecules, drifts)


def drift_of(energies: Sequence[float] | Float[np.ndarray, " frames"], n_atoms: int) -> float:
    """Drift of the total energy [meV/atom] from energies [eV]: mean of the last fifth minus mean of the first."""
    fifth = max(1, len(energies) // 5)
    return 1000 * float(np.mean(energies[-fifth:]) - np.mean(energies[:fifth])) / n_atoms


def nve_energies(
    force_fn: ForceFn, batch: Batch, generator: np.random.Generator, n_steps: int, *, time_step: float = 0.5 * fs
) -> Float[np.ndarray, "frames molecules"]:
    """Total energy [eV] of each molecule after each velocity Verlet step, started at 300 K; time step in ASE units."""
    mask = batch.atom_mask[..., None]
    masses = torch.where(mask, torch.as_tensor(atomic_masses[batch.atomic_numbers.numpy()])[..., None], 1.0)
    velocities = torch.as_tensor(generator.normal(size=batch.positions.shape)) * (300 * EV_PER_KELVIN / masses).sqrt()
    momenta, total = (masses * velocities * mask).sum(dim=1, keepdim=True), (masses * mask).sum(dim=1, keepdim=True)
    velocities = (velocities - momenta / total) * mask
    place, totals = batch.positions, []
    _, forces = force_fn(batch)
    for _ in range(n_steps):
        velocities = velocities + 0.5 * time_step * forces / masses
        place = place + time_step * velocities
        energies, forces = force_fn(with_positions(batch, place))
        velocities = velocities + 0.5 * time_step * forces / masses
        totals.append(energies + 0.5 * (masses * velocities.square()).sum(dim=(1, 2)))
    return torch.stack(totals).numpy()


def optimiser_check(force_fn: ForceFn, molecules: Sequence[Batch], graphs: Sequence[MolGraph]) -> Check:
    """Number of relaxations that do not converge."""
    failed = []
    for batch, graph in zip(molecules, graphs, strict=True):
        ended = relax(force_fn, batch, fmax=0.01, bonds=[graph.bonds])
        if ended.statuses[0] is not RelaxStatus.CONVERGED:
            failed.append(str(ended.statuses[0]))
    return Check("relaxations that fail", float(len(failed)), 0.0, "molecules", "; ".join(failed))


def forces_of(energy_fn: EnergyFn, batch: Batch) -> Field:
    """Conservative forces of a batch of one molecule as a differentiable field."""

    def field(positions: Tensor) -> Tensor:
        moved = positions if positions.requires_grad else positions.clone().requires_grad_()
        return energies_and_forces(energy_fn, with_positions(batch, moved[None]), create_graph=True)[1][0]

    return field


def direct_forces_of(model: PhysCon, level: str, batch: Batch) -> Field:
    """Forces of the direct head for a batch of one molecule as a differentiable field.

    Raises:
        MissingHeadError: the model has no direct heads.
    """

    def field(positions: Tensor) -> Tensor:
        return model.energies_and_direct_forces(with_positions(batch, positions[None]), level)[1][0]

    return field


def _worst(name: str, tolerance: float | None, unit: str, molecules: Sequence[Batch], values: Sequence[float]) -> Check:
    """Check of the largest value; NaN counts as the largest."""
    worst = int(np.nanargmax([np.inf if np.isnan(value) else value for value in values]))
    return Check(name, values[worst], tolerance, unit, _formula(molecules[worst]))


def _formula(batch: Batch) -> str:
    numbers = batch.atomic_numbers[0].tolist()
    symbols = sorted({CHEMICAL_SYMBOLS[number] for number in numbers})
    count = {symbol: sum(CHEMICAL_SYMBOLS[number] == symbol for number in numbers) for symbol in symbols}
    return "".join(symbol + (str(n) if n > 1 else "") for symbol, n in count.items())


def _batch(model: PhysCon, graph: MolGraph, positions: Float[np.ndarray, "atoms 3"]) -> Batch:
    dtype = next(model.parameters()).dtype
    return make_batch([graph.atomic_numbers], [positions - positions.mean(axis=0)], graphs=[graph], dtype=dtype)


def _repeated(batch: Batch, positions: Float[Tensor, "copies atoms 3"]) -> Batch:
    """Copies of a batch of one molecule at other positions."""
    return with_positions(select(batch, torch.zeros(len(positions), dtype=torch.int64)), positions)


def _pairs(model: PhysCon, level: str) -> list[tuple[int, int]]:
    return list(itertools.combinations_with_replacement(model.level(level).elements, 2))


def _diatomics(
    model: PhysCon, level: str, pairs: Sequence[tuple[int, int]], distances: Float[np.ndarray, "pairs points"]
) -> tuple[Float[np.ndarray, "pairs points"], Float[np.ndarray, "pairs points"]]:
    """Energies [eV] of diatomics, and the force [eV/Å] on the second atom along the bond."""
    positions = np.zeros((distances.size, 2, 3))
    positions[:, 1, 2] = distances.ravel()
    numbers, dtype = np.repeat(pairs, distances.shape[1], axis=0), next(model.parameters()).dtype
    batch = make_batch(list(numbers), list(positions), dtype=dtype)
    energies, forces = energies_and_forces(model.energy_fn(level), batch)
    return energies.view(distances.shape).numpy(), forces[:, 1, 2].view(distances.shape).numpy()


def _named(pair: tuple[int, int]) -> str:
    return "-".join(CHEMICAL_SYMBOLS[number] for number in pair)
