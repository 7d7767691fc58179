"""Prediction of equilibrium structures from molecular graphs with the structure network.

refine    repeated denoising of the lowest MMFF94 minimum of several ETKDG geometries (`model.structure.refined`)
ddim      reverse diffusion process from pure noise (`model.structure.ddim`), and repeated denoising of its result

Equivalent hydrogens of guesses are in the order of `chem.hydrogens`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float
from torch import Tensor

from physcon_ase.batch import Batch, in_chunks, make_batch, threads_for, unpad, with_positions
from physcon_ase.chem.canonical import Reordered, canonical_order
from physcon_ase.chem.compare import bonds_intact, stereo_intact
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.hydrogens import hydrogen_order
from physcon_ase.chem.isotopes import isotope_masses
from physcon_ase.chem.smiles import canonical_smiles
from physcon_ase.errors import MissingHeadError, PhysConError
from physcon_ase.inference.embedding import MAX_SECONDS, embed_many, embedded
from physcon_ase.inference.formats.rows import as_list
from physcon_ase.inference.intake import (
    as_graph,
    at_least_one,
    check_seconds,
    checked_graph,
    checked_seed,
    or_error,
    unless_error,
)
from physcon_ase.inference.results import Guess
from physcon_ase.model.checkpoint import read_checkpoint, shipped_names
from physcon_ase.model.config import StructureConfig
from physcon_ase.model.coverage import AUTO, checked_level, level_for
from physcon_ase.model.noise import gaussian_noise, sigma_schedule
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel, load_model
from physcon_ase.model.structure import ddim, refined

N_REFINED: Final = 8
"""Number of evaluations at `REFINE_SIGMA` at the end of each guess."""

N_STEPS: Final[dict[str, int]] = {"refine": N_REFINED, "ddim": 60}
"""Number of structure network evaluations per guess, by mode; without the refinement in mode "ddim"."""

CHURN: Final = 0.8
"""Relative increase of the noise level before each step of mode "ddim" (`model.structure.ddim`)."""

REFINE_SIGMA: Final = 0.02
"""Noise level [Å per coordinate] of "refine"."""

_RETRY_SIGMA: Final = 0.2
"""Noise [Å per coordinate] added to the start geometry in further attempts of "refine"."""
_RETRY_STEPS: Final = 3
"""Number of evaluations over which this noise decreases to `REFINE_SIGMA`."""

N_CONFORMERS: Final = 4
"""Number of ETKDG geometries of which "refine" uses the lowest; wrong conformers dominate the error of guesses."""

N_ATTEMPTS: Final = 4
"""Number of guesses with different noise before the fallback geometry is used."""


ATOMS_PER_BATCH: Final = 1024
"""Number of slots per batch; suitable for one CPU core, whereas GPUs benefit from larger batches."""


_SEED_STRIDE: Final = 1_000_003
"""Offset between the noise seeds of successive user seeds, so that their attempts differ."""


class StructureGenerator:
    """Predicts equilibrium structures of molecules; the result only depends on the arguments."""

    def __init__(
        self,
        checkpoint: str | Path | LoadedModel = DEFAULT_CHECKPOINT,
        *,
        mode: str = "refine",
        level: str = AUTO,
        n_steps: int | None = None,
        start_sigma: float | None = None,
        n_conformers: int = N_CONFORMERS,
        n_attempts: int = N_ATTEMPTS,
        max_seconds: float = MAX_SECONDS,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str = torch.float32,
    ):
        """Loads the model.

        Args:
            checkpoint: shipped name, folder, or a loaded model, which determines device and dtype.
            mode: "refine" or "ddim".
            level: level of theory of the guiding forces, if the structure network uses guidance; "auto" for the first
                of the model that covers the molecule.
            n_steps: number of structure network evaluations, in mode "ddim" without the last `N_REFINED`; by default
                `N_STEPS`.
            start_sigma: initial noise width [Å], by default the largest of the model; for "refine" the constant noise
                level, by default `REFINE_SIGMA`.
            n_conformers: number of ETKDG geometries of which "refine" uses the lowest MMFF94 minimum.
            n_attempts: maximum number of guesses per molecule before the fallback geometry is used.
            max_seconds: time limit [s] for the ETKDG geometry of a molecule.
            device: device of the model.
            dtype: dtype of the model.

        Raises:
            MissingHeadError: the checkpoint has no structure network.
            UnknownLevelError: the checkpoint has no such level.
            PhysConError: invalid settings.
            CheckpointNotFoundError, CorruptCheckpointError, CheckpointVersionError: see `model.physcon.load_model`.
        """
        loaded = checkpoint
        if not isinstance(loaded, LoadedModel):
            loaded = load_model(loaded, device=device, dtype=dtype)
        self.model_name, self.revision = loaded.name, loaded.revision
        self.model = loaded.model
        config = _structure_config(loaded)
        self.level = checked_level(level, self.model)
        self.mode = mode
        self.sigmas = _sigmas(mode, n_steps, start_sigma, config)
        self.n_conformers = at_least_one("n_conformers", n_conformers)
        self.n_attempts = at_least_one("n_attempts", n_attempts)
        check_seconds(max_seconds)
        self.max_seconds = max_seconds

    def __call__(self, molecule: str | MolGraph, *, n_samples: int = 1, seed: int = 0) -> Atoms | list[Atoms]:
        """Guess for one molecule; a list of guesses if `n_samples` is larger than 1.

        Atoms are in the order of the graph. `Atoms.info` contains smiles, model, revision, mode, seed, bonds_intact,
        stereo_intact and, for a fallback geometry, the reason as "fallback".

        Args:
            molecule: SMILES or graph.
            n_samples: number of guesses; sample i is identical to a single guess with `seed + i`.
            seed: random seed, 0 or larger.

        Raises:
            EmbeddingError: no ETKDG geometry was found in time.
            UnsupportedElementError: an element not covered by the level.
            UnsupportedChargeError: a charged or open-shell molecule.
            InvalidSmilesError, DummyAtomError, FragmentsError, UnknownElementError: see `chem.smiles`.
        """
        at_least_one("n_samples", n_samples)
        seed = checked_seed(seed)
        graph = as_graph(molecule)
        guesses = self.generate_many([graph] * n_samples, seeds=range(seed, seed + n_samples))
        atoms = [self.to_atoms(unless_error(guess)) for guess in guesses]
        return atoms if n_samples > 1 else atoms[0]

    def generate_many(
        self,
        molecules: Iterable[str | MolGraph],
        *,
        seed: int = 0,
        seeds: Iterable[int] | None = None,
        n_processes: int = 1,
        atoms_per_batch: int = ATOMS_PER_BATCH,
    ) -> list[Guess | PhysConError]:
        """Guess or error for each molecule, in order.

        Args:
            molecules: SMILES or graphs.
            seed: random seed of every molecule.
            seeds: random seed of each molecule; overrides `seed`.
            n_processes: number of processes that generate start geometries; scripts need
                ``if __name__ == "__main__":`` for more than one.
            atoms_per_batch: number of slots per batch; halved if memory runs out.

        Raises:
            PhysConError: a seed is below 0 or not a whole number.
        """
        molecules = as_list(molecules)
        seeds = [checked_seed(own) for own in ([seed] * len(molecules) if seeds is None else seeds)]
        graphs = [or_error(checked_graph, molecule, self.model, self.level) for molecule in molecules]
        starts: list[np.ndarray | PhysConError | None] = [None] * len(graphs)
        if self.mode == "refine":
            settings = {"n_conformers": self.n_conformers, "max_seconds": self.max_seconds}
            starts = list(embed_many(graphs, seeds, n_processes=n_processes, **settings))
        results: list[Guess | PhysConError | None] = [
            next((error for error in pair if isinstance(error, PhysConError)), None)
            for pair in zip(graphs, starts, strict=True)
        ]
        self._draw_until_intact(graphs, starts, seeds, results, atoms_per_batch)
        for index, guess in enumerate(results):
            if guess is None:
                results[index] = or_error(self._fall_back, graphs[index], starts[index], seeds[index])
        return [guess for guess in results if guess is not None]

    def to_atoms(self, guess: Guess) -> Atoms:
        """Guess as `ase.Atoms` with its provenance in `info`."""
        info = {
            "smiles": canonical_smiles(guess.graph),
            "model": self.model_name,
            "revision": self.revision,
            "mode": guess.mode,
            "seed": guess.seed,
            "bonds_intact": guess.bonds_intact,
            "stereo_intact": guess.stereo_intact,
        }
        if guess.fallback:
            info["fallback"] = guess.fallback
        atoms = atoms_of(guess.graph, guess.positions)
        atoms.info.update(info)
        return atoms

    def _draw_until_intact(self, graphs: list, starts: list, seeds: list[int], results: list, budget: int) -> None:
        """Draws guesses for empty entries of `results` until bonds and configuration are correct, in place."""
        orders = {index: canonical_order(graphs[index]) for index, result in enumerate(results) if result is None}
        for attempt in range(self.n_attempts):
            pending = [index for index, result in enumerate(results) if result is None]

            def work(rows: list[int], pending: list[int] = pending, attempt: int = attempt) -> None:
                chosen = [pending[row] for row in rows]
                drawn = self._draw(
                    [orders[i] for i in chosen], [starts[i] for i in chosen], [seeds[i] for i in chosen], attempt
                )
                for index, positions in zip(chosen, drawn, strict=True):
                    guess = self._guess(graphs[index], positions, seeds[index], attempt + 1)
                    if guess.bonds_intact and guess.stereo_intact:
                        results[index] = guess

            too_large = in_chunks([graphs[index].n_atoms for index in pending], budget, work)
            for row, error in too_large.items():
                results[pending[row]] = error

    def _draw(
        self, orders: list[Reordered], starts: list[np.ndarray | None], seeds: list[int], attempt: int
    ) -> list[np.ndarray]:
        """Positions [Å] of one guess for each molecule; independent of the other molecules and of the atom order."""
        weight = next(self.model.parameters())
        ordered = [order.graph for order in orders]
        places = [_in_order(start, order) for start, order in zip(starts, orders, strict=True)]
        sigmas, n_refined, refine_sigma = self.sigmas, N_REFINED, REFINE_SIGMA
        if self.mode == "refine":
            sigmas = [] if attempt == 0 else sigma_schedule(_RETRY_SIGMA, self.sigmas[0], _RETRY_STEPS)
            n_refined, refine_sigma = len(self.sigmas), self.sigmas[0]
        generators = [_generator(seed, attempt) for seed in seeds]
        if sigmas:  # no noise is added to a start geometry in the first attempt
            places = [
                place + sigmas[0] * _noise(len(place), generator)
                for place, generator in zip(places, generators, strict=True)
            ]
        numbers = [graph.atomic_numbers for graph in ordered]
        batch: Batch = make_batch(numbers, places, graphs=ordered, dtype=weight.dtype, device=weight.device)
        levels = torch.tensor([self._level_index(graph) for graph in ordered]).to(batch.charge)
        denoiser = self.model.denoiser_at(levels)

        def noise() -> Tensor:
            drawn = [_noise(graph.n_atoms, own) for graph, own in zip(ordered, generators, strict=True)]
            return make_batch(numbers, drawn, dtype=weight.dtype, device=weight.device).positions

        churn = CHURN if self.mode == "ddim" else 0.0
        with torch.no_grad(), threads_for(batch):
            drawn = with_positions(batch, ddim(denoiser, batch, sigmas, churn=churn, noise=noise))
            places = unpad(batch, refined(denoiser, drawn, refine_sigma, n_refined))
        return [place.astype(np.float64)[order.places] for place, order in zip(places, orders, strict=True)]

    def _level_index(self, graph: MolGraph) -> int:
        level = level_for(self.level, [(graph.atomic_numbers, graph.charge)], self.model)
        return self.model.level_names.index(level)

    def _fall_back(self, graph: MolGraph, start: np.ndarray | None, seed: int) -> Guess:
        positions = embedded(graph, seed=seed, max_seconds=self.max_seconds) if start is None else start
        origin = "ETKDG geometry" if start is None else "MMFF94 minimum"
        why = f"{origin}: {self.n_attempts} guesses had wrong bonds or stereo"
        return self._guess(graph, positions, seed, self.n_attempts, fallback=why)

    def _guess(self, graph: MolGraph, positions: np.ndarray, seed: int, attempts: int, *, fallback: str = "") -> Guess:
        positions = positions[hydrogen_order(graph, positions)]
        # bonds_intact does not detect NaN positions of a single atom
        is_finite = bool(np.isfinite(positions).all())
        has_bonds = is_finite and bonds_intact(graph, positions).intact
        has_stereo = is_finite and stereo_intact(graph, positions).intact
        return Guess(graph, positions, self.mode, seed, attempts, has_bonds, has_stereo, fallback)


def _structure_config(loaded: LoadedModel) -> StructureConfig:
    config = loaded.model.config.structure
    if config is None:
        able = [name for name in shipped_names() if read_checkpoint(name).config.get("structure") is not None]
        raise MissingHeadError(
            f"checkpoint {loaded.name!r} has no structure network and cannot guess structures; shipped "
            f"checkpoints with one: {', '.join(able) or 'none'}. Use one of these, or start='etkdg' or 'mmff94'"
        )
    return config


def _sigmas(mode: str, n_steps: int | None, start_sigma: float | None, config: StructureConfig) -> list[float]:
    if mode not in N_STEPS:
        raise PhysConError(f"unknown mode {mode!r} of the generator; choose one of {', '.join(N_STEPS)}")
    n_steps = at_least_one("n_steps", N_STEPS[mode] if n_steps is None else n_steps)
    if start_sigma is None:
        start_sigma = REFINE_SIGMA if mode == "refine" else config.sigma_max
    if not config.sigma_min <= start_sigma <= config.sigma_max:
        raise PhysConError(
            f"start_sigma is {start_sigma} Å; this model was trained from {config.sigma_min} to {config.sigma_max} Å: "
            "choose a value in this range"
        )
    if mode == "refine":
        return [start_sigma] * n_steps
    return sigma_schedule(start_sigma, config.sigma_min, n_steps)


def atoms_of(graph: MolGraph, positions: Float[np.ndarray, "atoms 3"]) -> Atoms:
    """Atoms of a graph at the given positions [Å], with the masses of its isotopes.

    `Atoms.info["charge"]` is set for ions.
    """
    atoms = Atoms(graph.atomic_numbers, positions, info={"charge": graph.charge} if graph.charge else {})
    set_isotopes(atoms, graph)
    return atoms


def set_isotopes(atoms: Atoms, graph: MolGraph) -> None:
    """Sets the masses of the atoms whose isotope is given in the graph, in place."""
    if graph.isotopes.any():
        atoms.set_masses(isotope_masses(graph))  # pyright: ignore[reportArgumentType]  # ASE takes lists, too


def _in_order(start: Float[np.ndarray, "atoms 3"] | None, order: Reordered) -> Float[np.ndarray, "atoms 3"]:
    """Start geometry [Å] in the canonical order of the atoms and the conventional one of hydrogens; 0 without one."""
    if start is None:
        return np.zeros((order.graph.n_atoms, 3))
    positions = start[np.argsort(order.places)]
    return positions[hydrogen_order(order.graph, positions)]


def _generator(seed: int, attempt: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * _SEED_STRIDE + attempt) % 2**63)


def _noise(n_atoms: int, generator: torch.Generator) -> Float[np.ndarray, "atoms 3"]:
    """Standard normal noise with zero mean."""
    mask = torch.ones(1, n_atoms, dtype=torch.bool)
    noise: Tensor = gaussian_noise(mask, generator=generator, dtype=torch.float64)
    return noise[0].numpy()
