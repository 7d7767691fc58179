"""Equilibrium guesses from the structure head: molecular graph in, start geometry out.

refine    the lowest MMFF94 minimum of a few ETKDG geometries, predicted from itself a few times
          (`model.structure.refined`)
ddim      from pure noise, by the deterministic reverse process (`model.structure.ddim`)
denoise   the same in one step
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
from physcon_ase.chem.compare import bonds_intact, stereo_intact
from physcon_ase.chem.conformers import embed
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import canonical_smiles
from physcon_ase.errors import MissingHeadError, PhysConError
from physcon_ase.inference.embedding import MAX_SECONDS, embed_many
from physcon_ase.inference.intake import as_graph, at_least_one, check_seed, checked_graph, or_error, unless_error
from physcon_ase.inference.results import Guess
from physcon_ase.model.checkpoint import read_checkpoint, shipped_names
from physcon_ase.model.config import StructureConfig
from physcon_ase.model.noise import gaussian_noise, sigma_schedule
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel, load_model
from physcon_ase.model.structure import ddim, refined

N_STEPS: Final[dict[str, int]] = {"refine": 8, "ddim": 30, "denoise": 1}
"""Evaluations of the structure head for one guess, by mode."""

REFINE_SIGMA: Final = 0.03
"""Noise level [Å per coordinate] at which "refine" works."""

_RETRY_SIGMA: Final = 0.2
"""Noise [Å per coordinate] on the start of further attempts of "refine"."""
_RETRY_STEPS: Final = 3
"""Evaluations in which it falls to `REFINE_SIGMA`."""

N_CONFORMERS: Final = 4
"""ETKDG geometries of which "refine" takes the lowest: most of the error of a guess is a wrong conformer."""

N_ATTEMPTS: Final = 4
"""Guesses with other noise before a molecule gets the geometry that they started from instead."""


ATOMS_PER_BATCH: Final = 1024
"""Slots of a batch, about what keeps one core busy; a GPU wants more."""


_SEED_STRIDE: Final = 1_000_003
"""Distance between the noise seeds of two guesses, so that the attempts of neighbouring seeds differ."""


class StructureGenerator:
    """Guesses equilibrium structures of molecules; nothing but the arguments decides what comes out."""

    def __init__(
        self,
        checkpoint: str | Path | LoadedModel = DEFAULT_CHECKPOINT,
        *,
        mode: str = "refine",
        level: str | None = None,
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
            checkpoint: shipped name, folder, or a loaded model, which then decides device and dtype.
            mode: "refine", "ddim" or "denoise".
            level: level of theory whose forces guide, if the structure head takes guidance; the model's first unless
                given.
            n_steps: evaluations of the structure head, `N_STEPS` unless given; "denoise" has one.
            start_sigma: noise width [Å] at the start, the largest of the model unless given; for "refine" the constant
                noise level, `REFINE_SIGMA` unless given.
            n_attempts: guesses per molecule before the ETKDG geometry is taken.
            max_seconds: cap on the time for the ETKDG geometry of a molecule.
            device: where the model computes.
            dtype: its number format.

        Raises:
            MissingHeadError: the checkpoint has no structure head.
            UnknownLevelError: the checkpoint has no such level.
            PhysConError: settings that make no sense.
            CheckpointNotFoundError, CorruptCheckpointError, CheckpointVersionError: see `model.physcon.load_model`.
        """
        loaded = checkpoint
        if not isinstance(loaded, LoadedModel):
            loaded = load_model(loaded, device=device, dtype=dtype)
        self.model_name, self.revision = loaded.name, loaded.revision
        self.model = loaded.model
        config = _structure_config(loaded)
        self.level = self.model.level(level or self.model.level_names[0]).name
        self.denoiser = self.model.denoiser(self.level)
        self.mode = mode
        self.sigmas = _sigmas(mode, n_steps, start_sigma, config)
        self.n_conformers = at_least_one("n_conformers", n_conformers)
        self.n_attempts = at_least_one("n_attempts", n_attempts)
        self.max_seconds = max_seconds

    def __call__(self, molecule: str | MolGraph, *, n_samples: int = 1, seed: int = 0) -> Atoms | list[Atoms]:
        """Guesses of one molecule; a list of them if `n_samples` is larger than 1.

        Atoms are in the order of the graph. `Atoms.info` says smiles, model, revision, mode, seed, bonds_intact,
        stereo_intact, and under "fallback" why the geometry is not the model's, if it is not.

        Args:
            molecule: SMILES or graph.
            n_samples: number of guesses; sample i is what `seed + i` gives alone.
            seed: of all random numbers, 0 or larger.

        Raises:
            EmbeddingError: no ETKDG geometry was found in time.
            UnsupportedElementError: an element that the level does not cover.
            UnsupportedChargeError: a charged or open-shell molecule.
            InvalidSmilesError, DummyAtomError, FragmentsError, UnknownElementError: see `chem.smiles`.
        """
        at_least_one("n_samples", n_samples)
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
        """One guess for each molecule, in their order; a molecule that fails leaves its error in its place.

        Args:
            molecules: SMILES or graphs.
            seed: of every molecule.
            seeds: one for each molecule, instead.
            n_processes: processes that look for start geometries; with more than one, a script needs
                ``if __name__ == "__main__":``.
            atoms_per_batch: slots of a batch; halved when memory runs out.

        Raises:
            PhysConError: a seed below 0.
        """
        molecules = list(molecules)
        seeds = [seed] * len(molecules) if seeds is None else list(seeds)
        check_seed(min(seeds, default=0))
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
        """The guess as `ase.Atoms` with its origin in `info`."""
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
        """Fills the gaps in `results` with guesses that have the right bonds and stereo, as far as there are any."""
        for attempt in range(self.n_attempts):
            pending = [index for index, result in enumerate(results) if result is None]

            def work(rows: list[int], pending: list[int] = pending, attempt: int = attempt) -> None:
                chosen = [pending[row] for row in rows]
                drawn = self._draw(
                    [graphs[i] for i in chosen], [starts[i] for i in chosen], [seeds[i] for i in chosen], attempt
                )
                for index, positions in zip(chosen, drawn, strict=True):
                    guess = self._guess(graphs[index], positions, seeds[index], attempt + 1)
                    if guess.bonds_intact and guess.stereo_intact:
                        results[index] = guess

            in_chunks([graphs[index].n_atoms for index in pending], budget, work)

    def _draw(
        self, graphs: list[MolGraph], starts: list[np.ndarray | None], seeds: list[int], attempt: int
    ) -> list[np.ndarray]:
        """Positions [Å] of one guess for each molecule; whose company it keeps does not matter to a molecule."""
        weight = next(self.model.parameters())
        noise = [_noise(graph.n_atoms, seed, attempt) for graph, seed in zip(graphs, seeds, strict=True)]
        sigmas, n_refined = self.sigmas, 0
        if self.mode == "refine":
            # The start has errors by itself; only other attempts add noise to it.
            width = 0.0 if attempt == 0 else _RETRY_SIGMA
            sigmas = [] if attempt == 0 else sigma_schedule(_RETRY_SIGMA, self.sigmas[0], _RETRY_STEPS)
            n_refined = len(self.sigmas)
            pairs = zip(starts, noise, strict=True)
            places = [start + width * displacement for start, displacement in pairs if start is not None]
        else:
            places = [sigmas[0] * displacement for displacement in noise]
        numbers = [graph.atomic_numbers for graph in graphs]
        batch: Batch = make_batch(numbers, places, graphs=graphs, dtype=weight.dtype, device=weight.device)
        with torch.no_grad(), threads_for(batch):
            drawn = with_positions(batch, ddim(self.denoiser, batch, sigmas))
            drawn = refined(self.denoiser, drawn, self.sigmas[0], n_refined)
            return [place.astype(np.float64) for place in unpad(batch, drawn)]

    def _fall_back(self, graph: MolGraph, start: np.ndarray | None, seed: int) -> Guess:
        positions = embed(graph, seed=seed, max_seconds=self.max_seconds)[0] if start is None else start
        origin = "ETKDG geometry" if start is None else "MMFF94 minimum"
        why = f"{origin}: {self.n_attempts} guesses had wrong bonds or stereo"
        return self._guess(graph, positions, seed, self.n_attempts, fallback=why)

    def _guess(self, graph: MolGraph, positions: np.ndarray, seed: int, attempts: int, *, fallback: str = "") -> Guess:
        # NaN of a lone atom has no bond that could be broken
        is_finite = bool(np.isfinite(positions).all())
        has_bonds = is_finite and bonds_intact(graph, positions).intact
        has_stereo = is_finite and stereo_intact(graph, positions).intact
        return Guess(graph, positions, self.mode, seed, attempts, has_bonds, has_stereo, fallback)


def _structure_config(loaded: LoadedModel) -> StructureConfig:
    config = loaded.model.config.structure
    if config is None:
        able = [name for name in shipped_names() if read_checkpoint(name).config.get("structure") is not None]
        raise MissingHeadError(
            f"checkpoint {loaded.name!r} has no structure head and cannot guess structures; shipped checkpoints with "
            f"one: {', '.join(able) or 'none'}. Take one of these, or start from start='etkdg' or 'mmff94'"
        )
    return config


def _sigmas(mode: str, n_steps: int | None, start_sigma: float | None, config: StructureConfig) -> list[float]:
    if mode not in N_STEPS:
        raise PhysConError(f"unknown mode {mode!r} of the generator; choose one of {', '.join(N_STEPS)}")
    n_steps = at_least_one("n_steps", N_STEPS[mode] if n_steps is None else n_steps)
    if mode == "denoise" and n_steps != 1:
        raise PhysConError(f"n_steps is {n_steps}, but mode 'denoise' has one step: leave it out or take mode 'ddim'")
    if start_sigma is None:
        start_sigma = REFINE_SIGMA if mode == "refine" else config.sigma_max
    if not config.sigma_min <= start_sigma <= config.sigma_max:
        raise PhysConError(
            f"start_sigma is {start_sigma} Å; this model was trained from {config.sigma_min} to {config.sigma_max} Å: "
            "choose a width in between"
        )
    if mode == "refine":
        return [start_sigma] * n_steps
    return sigma_schedule(start_sigma, config.sigma_min, n_steps)


def atoms_of(graph: MolGraph, positions: Float[np.ndarray, "atoms 3"]) -> Atoms:
    """A graph's atoms at these positions [Å]; if they are an ion, `Atoms.info["charge"]` says so."""
    return Atoms(graph.atomic_numbers, positions, info={"charge": graph.charge} if graph.charge else {})


def _noise(n_atoms: int, seed: int, attempt: int) -> Float[np.ndarray, "atoms 3"]:
    """Normal displacements of width 1 that depend on nothing but the arguments."""
    generator = torch.Generator().manual_seed((seed * _SEED_STRIDE + attempt) % 2**63)
    noise: Tensor = gaussian_noise(torch.ones(1, n_atoms, dtype=torch.bool), generator=generator, dtype=torch.float64)
    return noise[0].numpy()
