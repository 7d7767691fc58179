"""ETKDG and MMFF94 start geometries of many molecules, in one or several processes."""

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from jaxtyping import Float

from physcon_ase.chem.canonical import canonical_order
from physcon_ase.chem.conformers import embed, lowest_conformer
from physcon_ase.chem.graph import MolGraph
from physcon_ase.errors import EmbeddingError, PhysConError
from physcon_ase.inference.intake import or_error
from physcon_ase.jobs.workers import WORKER_DIED, SingleJobs, finished, worker_pool

MAX_SECONDS: Final = 30.0
"""Default time limit [s] for the start geometry of one molecule."""

_Job: TypeAlias = tuple[int, tuple[Any, ...]]
"""Index of a molecule, and the arguments of `_start_or_error`."""

_Found: TypeAlias = tuple[int, Float[np.ndarray, "atoms 3"] | PhysConError]
"""Index of a molecule, and its start geometry or error."""


def embed_many(
    graphs: Sequence[MolGraph | PhysConError],
    seeds: Sequence[int],
    *,
    n_conformers: int = 0,
    max_seconds: float = MAX_SECONDS,
    n_processes: int = 1,
) -> list[Float[np.ndarray, "atoms 3"] | PhysConError]:
    """Start geometry [Å], or error, for each graph; errors in the input are passed through.

    Molecules are embedded in canonical order: a seed gives the same geometry for every spelling of a SMILES.

    Args:
        graphs: the molecules.
        seeds: random seed of each molecule.
        n_conformers: number of ETKDG geometries of which the lowest MMFF94 minimum is used; 0 for a single ETKDG
            geometry without relaxation.
        max_seconds: time limit [s] per molecule.
        n_processes: number of processes.

    Raises:
        EngineError: processes crash repeatedly.
    """
    tasks = [(graph, seed, n_conformers, max_seconds) for graph, seed in zip(graphs, seeds, strict=True)]
    found: dict[int, np.ndarray | PhysConError] = {}
    with worker_pool(0 if n_processes <= 1 else n_processes) as workers:
        for done in finished(workers, _work, SingleJobs(enumerate(tasks)), _lost):
            found |= done
    return [found[index] for index in range(len(tasks))]


def _work(jobs: list[_Job]) -> tuple[list[_Found], list[_Job]]:
    return [(index, _start_or_error(*task)) for index, task in jobs], []


def _lost(job: _Job) -> tuple[list[_Found], list[_Job]]:
    return [(job[0], EmbeddingError(f"no start geometry: {WORKER_DIED}"))], []


def _start_or_error(
    graph: MolGraph | PhysConError, seed: int, n_conformers: int, max_seconds: float
) -> Float[np.ndarray, "atoms 3"] | PhysConError:
    if isinstance(graph, PhysConError):
        return graph
    try:
        return or_error(embedded, graph, seed, n_conformers, max_seconds)
    except RuntimeError as error:  # of RDKit: one molecule must not end a batch
        return EmbeddingError(f"no start geometry: RDKit failed with {' '.join(str(error).split())!r}; give a geometry")


def embedded(
    graph: MolGraph, seed: int, n_conformers: int = 0, max_seconds: float = MAX_SECONDS
) -> Float[np.ndarray, "atoms 3"]:
    """Start geometry [Å] of one molecule, see `embed_many`.

    Raises:
        EmbeddingError, BondPerceptionError: see `chem.conformers.embed`.
    """
    order = canonical_order(graph)
    if n_conformers == 0:
        return embed(order.graph, seed=seed, max_seconds=max_seconds)[0][order.places]
    return lowest_conformer(order.graph, n=n_conformers, seed=seed, max_seconds=max_seconds)[order.places]
