"""Errors of predicted structures: those of the paper, and those of the local geometry alone.

The mean RMSD of free samples mostly depends on the random choice of the conformer, which no local law can change. Hence
there are several modes: one-step denoising and DDIM from noise, K samples each, as published; and "matched", DDIM from
the true minimum plus little noise, where the basin is given and only the local geometry is predicted. DDIM ends at the
smallest noise level, or, in "refined" modes, earlier, followed by a few evaluations of the network at its own
prediction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float

from physcon_ase.batch import in_chunks, make_batch, unpad, with_positions
from physcon_ase.chem.compare import distance_mae_rmse, rmsd, symmetric_rmsd
from physcon_ase.chem.graph import MolGraph
from physcon_ase.errors import EngineError
from physcon_ase.labelling.engines import Engine, Molecule
from physcon_ase.model.config import StructureConfig
from physcon_ase.model.noise import gaussian_noise, sigma_schedule
from physcon_ase.model.structure import Denoiser, ddim, refined


@dataclass(frozen=True)
class Mode:
    """A way to predict a structure; see above."""

    from_truth: bool
    """Whether the noise is on the truth, or there is nothing but noise."""
    sigma: float
    """Noise [Å] at the start."""
    n_steps: int
    """Evaluations while the noise falls; one alone is one-step denoising."""
    n_refined: int = 0
    """Evaluations after that."""


MODES: Final = {
    "denoise": Mode(False, 2.0, 1),
    "ddim": Mode(False, 5.0, 20),
    "ddim, refined": Mode(False, 5.0, 16, 6),
    "matched": Mode(True, 0.3, 10),
    "matched, refined": Mode(True, 0.3, 4, 6),
}
"""Ways to predict a structure. One-step denoising begins below the largest noise, where predictions shrink."""

_REFINE_BELOW: Final = 0.1
"""Noise level [Å] at which DDIM ends if it is to be refined."""

_REFINED_AT: Final = 0.03
"""Noise level [Å] of the refinement."""

_SLOTS: Final = 2048


@dataclass(frozen=True)
class Truth:
    """A molecule never seen in training."""

    graph: MolGraph
    positions: Float[np.ndarray, "atoms 3"]
    """The accurate minimum [Å]."""
    energy: float
    """Its energy [eV] at the accurate level; NaN if not known."""


@dataclass(frozen=True)
class Quality:
    """Of the samples of each molecule in one mode; arrays are [molecules]."""

    mean_rmsd: np.ndarray
    """Mean over samples of the all-atom RMSD [Å] to the truth, identity map."""
    min_rmsd: np.ndarray
    """Smallest of them [Å]."""
    heavy_rmsd: np.ndarray
    """Mean symmetry-aware heavy-atom RMSD [Å]."""
    distance_mae: np.ndarray
    """Mean absolute error of all interatomic distances [Å]."""
    energy_above: np.ndarray
    """Energy [eV] of the first sample above that of the truth at the accurate level; NaN where it has none."""


def sample_structures(
    denoiser: Denoiser, config: StructureConfig, molecules: Sequence[Truth], mode: str, n_samples: int, *, seed: int
) -> list[Float[np.ndarray, "samples _ 3"]]:
    """Samples of every molecule; their noise depends on nothing but the seed and the place in the sequence."""
    how = MODES[mode]
    sigmas = sigma_schedule(how.sigma, _REFINE_BELOW if how.n_refined else config.sigma_min, how.n_steps)
    jobs = [(row, sample) for row in range(len(molecules)) for sample in range(n_samples)]
    found: dict[tuple[int, int], np.ndarray] = {}

    def work(rows: list[int]) -> None:
        chosen = [jobs[row] for row in rows]
        truths = [molecules[row] for row, _ in chosen]
        batch = make_batch([t.graph.atomic_numbers for t in truths], [t.positions for t in truths],
                           graphs=[t.graph for t in truths])  # fmt: skip
        generator = torch.Generator().manual_seed(seed * 1_000_003 + rows[0])
        with torch.no_grad():
            noise = how.sigma * gaussian_noise(batch.atom_mask, generator=generator)
            drawn = ddim(denoiser, with_positions(batch, batch.positions + noise if how.from_truth else noise), sigmas)
            drawn = refined(denoiser, with_positions(batch, drawn), _REFINED_AT, how.n_refined)
        found.update(zip(chosen, unpad(batch, drawn), strict=True))

    in_chunks([molecules[row].graph.n_atoms for row, _ in jobs], _SLOTS, work)
    return [
        np.stack([found[row, sample] for sample in range(n_samples)]).astype(np.float64)
        for row in range(len(molecules))
    ]


def structure_quality(
    samples: Sequence[Float[np.ndarray, "samples _ 3"]], molecules: Sequence[Truth], engine: Engine | None = None
) -> Quality:
    """Compares samples with the truth.

    Args:
        samples: of `sample_structures`.
        molecules: the same molecules.
        engine: of the accurate level, for energies; none are computed without.
    """
    pairs = list(zip(samples, molecules, strict=True))
    all_atoms = [np.array([rmsd(place, m.positions) for place in drawn]) for drawn, m in pairs]
    return Quality(
        mean_rmsd=np.array([values.mean() for values in all_atoms]),
        min_rmsd=np.array([values.min() for values in all_atoms]),
        heavy_rmsd=np.array([np.mean([symmetric_rmsd(m.graph, p, m.positions) for p in drawn]) for drawn, m in pairs]),
        distance_mae=np.array([np.mean([distance_mae_rmse(p, m.positions)[0] for p in drawn]) for drawn, m in pairs]),
        energy_above=np.array([_energy_above(engine, m, drawn[0]) for drawn, m in pairs]),
    )


def _energy_above(engine: Engine | None, molecule: Truth, positions: np.ndarray) -> float:
    if engine is None:
        return float("nan")
    graph = molecule.graph
    try:
        label = engine(Molecule(graph.atomic_numbers, positions, graph.charge, graph.multiplicity))
        return label.energy - molecule.energy
    except EngineError:  # atoms that clash: no energy is no small energy
        return float("inf")
