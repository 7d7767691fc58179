"""Samplings: the kinds and numbers of geometries of each molecule, as text, as geometries and as provenance."""

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from physcon_ase.chem.graph import MolGraph
from physcon_ase.errors import PhysConError
from physcon_ase.labelling.displacements import MAX_KELVIN
from physcon_ase.labelling.engines import Engine, record_as_dict
from physcon_ase.labelling.geometries import NewtonStep, Rejected, Sampled, checked
from physcon_ase.labelling.samplers import (
    Origin,
    Sampler,
    conformers,
    md,
    newton,
    path,
    relaxing,
    start_geometry,
    thermal,
    torsion,
    twist,
)

_PROPAGATED: Final = ("path", "md")
"""Kinds of geometries that require an engine."""


@dataclass(frozen=True)
class Sampling:
    """Sampler and number of geometries."""

    kind: str
    """Kind of the geometries, for messages."""
    n: int
    """Number of geometries per molecule."""
    sampler: Sampler
    """Sampler function; must be picklable for labelling in several processes."""


def parse_samplings(text: str, *, engine: Engine | None = None, max_kelvin: float = MAX_KELVIN) -> list[Sampling]:
    """Parses samplings from a text such as "thermal:2,conformer:1".

    Args:
        text: comma-separated KIND:NUMBER with kind start, conformer, relaxing, thermal, torsion, twist, newton, path
            or md.
        engine: engine that computes the forces of path and md.
        max_kelvin: maximum temperature [K] of thermal displacements.

    Raises:
        PhysConError: an unknown kind, an invalid number or temperature, path or md without an engine, or newton without
            start.
    """
    if not 0 < max_kelvin < math.inf:
        raise PhysConError(f"max_kelvin is {max_kelvin}; a temperature [K] larger than 0 is needed, for instance 700")
    samplers: dict[str, Sampler] = {
        "start": start_geometry,
        "conformer": conformers,
        "relaxing": relaxing,
        "thermal": functools.partial(thermal, max_kelvin=max_kelvin),
        "torsion": torsion,
        "twist": twist,
        "newton": newton,
    }
    if engine is not None:
        samplers |= {"path": functools.partial(path, engine=engine), "md": functools.partial(md, engine=engine)}
    kinds = tuple(dict.fromkeys((*samplers, *_PROPAGATED)))
    samplings = []
    for part in text.split(","):
        matched = re.fullmatch(r"\s*([a-z]+)(?::(\d+))?\s*", part)
        kind, n = (matched[1], int(matched[2] or 1)) if matched else ("", 0)
        if n < 1 or kind not in kinds:
            raise PhysConError(f"geometries {part.strip()!r}: write KIND:NUMBER with a kind of {', '.join(kinds)}")
        if kind not in samplers:
            raise PhysConError(f"geometries of kind {kind!r} require an engine: give one")
        samplings.append(Sampling(kind, n, samplers[kind]))
    requested = {sampling.kind for sampling in samplings}
    if "newton" in requested and "start" not in requested:
        raise PhysConError("geometries of kind 'newton' follow the forces at the start geometry: add the kind start")
    return samplings


def sample(graph: MolGraph, samplings: Sequence[Sampling], seed: int, start: np.ndarray | None = None) -> list[Sampled]:
    """Geometries of all samplers, in order, centred and rounded to float32 as in a store.

    Failed samplers and geometries with broken or formed bonds are replaced by `Rejected`. The bonds of a given `start`
    are not checked.
    """
    first_seed, *seeds = np.random.SeedSequence(seed).generate_state(1 + len(samplings)).tolist()
    origin = Origin(graph, first_seed, start)
    found: list[Sampled] = []
    for sampling, own_seed in zip(samplings, seeds, strict=True):
        try:
            geometries = sampling.sampler(origin, own_seed, sampling.n)
        except Exception as error:  # of RDKit or of linear algebra, too: one molecule must not end a run
            found.append(Rejected(sampling.kind, type(error).__name__, str(error)))
            continue
        for geometry in geometries:
            if isinstance(geometry, NewtonStep):
                found.append(geometry)
            else:
                kind, positions = geometry
                found.append(checked(graph, kind, positions, is_given=kind == "start" and start is not None))
    return found


def describe_samplings(samplings: Sequence[Sampling]) -> list[dict[str, Any]]:
    """Description of the samplings for fingerprint and provenance."""
    return [{"kind": sampling.kind, "n": sampling.n, **_describe(sampling.sampler)} for sampling in samplings]


def _describe(sampler: Sampler) -> dict[str, Any]:
    """Name and settings of a sampler."""
    if not isinstance(sampler, functools.partial):
        return {"sampler": getattr(sampler, "__name__", repr(sampler))}
    settings = {
        name: record_as_dict(value.record) if isinstance(value, Engine) else value
        for name, value in sampler.keywords.items()
    }
    return {"sampler": getattr(sampler.func, "__name__", repr(sampler.func)), **settings}
