"""Relaxations of a conformer search, each followed by the removal of duplicates and unsuitable geometries."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from tqdm import tqdm

from physcon_ase.chem.canonical import mirror_order
from physcon_ase.chem.compare import bonds_intact, stereo_intact
from physcon_ase.chem.conformers import mmff94_minimize
from physcon_ase.chem.duplicates import ConformerSet, Tolerances
from physcon_ase.chem.flexibility import conformational_bonds
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.torsions import turned
from physcon_ase.errors import NotEnoughMemoryError
from physcon_ase.inference.batched import relax_jobs
from physcon_ase.inference.generator import atoms_of
from physcon_ase.inference.results import Result
from physcon_ase.inference.starts import RelaxationJob, Settings
from physcon_ase.relax.driver import RelaxStatus
from physcon_ase.units import EV_PER_KCAL_PER_MOL

LOOSE_FMAX: Final = 0.1
"""Convergence threshold [eV/Å] of the first stage."""

LOOSE_STEPS: Final = 60
"""Maximum number of steps of the first stage; geometries that need more continue in the second stage."""

LOOSE_MARGIN: Final = 3.0
"""Energy [kcal/mol] beyond the window up to which geometries of the first stage enter the second stage."""


ROTATED: Final = 3
"""Number of lowest conformers of the first stage whose bonds are rotated."""

ROTATIONS: Final = (2 * np.pi / 3, -2 * np.pi / 3)
"""Angles [rad] of these rotations."""

ROTATION_ROUNDS: Final = 5
"""Largest number of times that bonds of new lowest conformers are rotated."""


@dataclass(frozen=True)
class Relaxed:
    """A relaxed conformer."""

    energy: float
    """Total energy [eV]."""
    positions: np.ndarray
    """Positions [Å]."""
    forces: np.ndarray
    """Forces [eV/Å]."""
    energy_uncertainty: float | None
    """Standard deviation [eV] of the error of the energy."""
    mirror_image: int | None
    """Index of the mirror image; None for chiral molecules."""


class Stages:
    """Relaxations of the conformers of one molecule.

    `left_out` counts the geometries left out, by reason, and `n_rotated` the start geometries added by rotations.
    """

    def __init__(self, graph: MolGraph, settings: Settings, tolerances: Tolerances, left_out: Counter[str]):
        """Initialises the relaxations.

        Args:
            graph: the molecule.
            settings: settings of the second stage.
            tolerances: tolerances of duplicates.
            left_out: counter, updated in place.
        """
        self.graph, self.settings = graph, settings
        self.tolerances, self.left_out = tolerances, left_out
        self.exchange = mirror_order(graph)
        self.n_rotated = 0
        self.turns = [(rotor, angle) for rotor in conformational_bonds(graph) for angle in ROTATIONS]

    def prerelaxed(self, starts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Distinct MMFF94 minima [Å], and the start geometries whose minimum has other bonds or configuration."""
        minima, changed = [], []
        for start in starts:
            minimum = mmff94_minimize(self.graph, start)
            bonds, stereo = (check(self.graph, minimum.positions) for check in (bonds_intact, stereo_intact))
            if bonds.intact and stereo.intact:
                minima.append(minimum)
            else:
                changed.append(start)
        distinct = self._distinct([each.positions for each in minima], [each.energy for each in minima])
        return [minima[index].positions for index in distinct] + changed

    def relaxed(
        self, starts: Sequence[np.ndarray], window: float, *, prerelax: bool, progress_bar: bool
    ) -> list[Relaxed]:
        """Conformers of the model within the window [kcal/mol], by increasing energy, with all mirror images.

        Bonds of the lowest conformers of the first stage are rotated; `prerelax`: these are relaxed with MMFF94 first.
        """
        loose = replace(
            self.settings,
            fmax=max(LOOSE_FMAX, self.settings.fmax),
            max_steps=min(LOOSE_STEPS, self.settings.max_steps),
        )
        with tqdm(total=2 * len(starts), disable=None if progress_bar else True, unit="relaxation") as bar:
            first = self._lowest(self._relax(starts, loose, bar), window + LOOSE_MARGIN)
            rotated: list[Result] = []
            for _ in range(ROTATION_ROUNDS):
                parents = self._beside(rotated, first[:ROTATED])
                if not (turns := self._rotations(parents, prerelax=prerelax)):
                    break
                rotated += parents
                bar.total += len(turns)
                first = self._lowest([*first, *self._relax(turns, loose, bar)], window + LOOSE_MARGIN)
            bar.total = bar.n + len(first)
            places = [result.atoms.positions for result in first]
            return self._with_mirror_images(self._lowest(self._relax(places, self.settings, bar), window))

    def _rotations(self, conformers: Sequence[Result], *, prerelax: bool) -> list[np.ndarray]:
        """Geometries [Å] in which one bond of a conformer is rotated."""
        turns = [turned(result.atoms.positions, *turn) for result in conformers for turn in self.turns]
        self.n_rotated += len(turns)
        return self.prerelaxed(turns) if prerelax else turns

    def _relax(self, starts: Sequence[np.ndarray], settings: Settings, bar: tqdm) -> list[Result]:
        """Results with the bonds and configuration of the molecule; in the first stage also those not yet converged."""

        def count(results: Sequence[Result]) -> None:
            bar.update(len(results))

        jobs = [
            RelaxationJob(self.graph, atoms_of(self.graph, start), "etkdg", seed=0, level=settings.level)
            for start in starts
        ]
        kept = []
        for outcome in relax_jobs(jobs, settings, on_batch=count):
            if isinstance(outcome, NotEnoughMemoryError):
                self.left_out["not enough memory"] += 1
                continue
            reason = _defect(outcome, settings is self.settings)
            if reason:
                self.left_out[reason] += 1
            else:
                kept.append(outcome)
        return kept

    def _lowest(self, results: Sequence[Result], window: float) -> list[Result]:
        """Distinct results within the window [kcal/mol], by increasing energy."""
        lowest = min((result.energy for result in results), default=0.0)
        inside = [result for result in results if result.energy - lowest <= window * EV_PER_KCAL_PER_MOL]
        self.left_out["outside the window"] += len(results) - len(inside)
        places, energies = [result.atoms.positions for result in inside], [result.energy for result in inside]
        return [inside[index] for index in self._distinct(places, energies)]

    def _beside(self, known: Sequence[Result], results: Sequence[Result]) -> list[Result]:
        """The results that are no duplicates of known ones."""
        every = [*known, *results]
        places, energies = [result.atoms.positions for result in every], [result.energy for result in every]
        compared = ConformerSet(self.graph, places, energies, self.tolerances)
        n_known = len(known)
        return [
            result
            for own, result in enumerate(results, start=n_known)
            if not any(compared.are_duplicates(other, own) for other in range(n_known))
        ]

    def _distinct(self, positions: Sequence[np.ndarray], energies: Sequence[float]) -> list[int]:
        compared = ConformerSet(self.graph, positions, energies, self.tolerances)
        kept = compared.distinct(up_to_mirror_images=self.exchange is not None)
        self.left_out["duplicates"] += len(positions) - len(kept)
        return kept

    def _with_mirror_images(self, results: Sequence[Result]) -> list[Relaxed]:
        places, energies = [result.atoms.positions for result in results], [result.energy for result in results]
        compared = ConformerSet(self.graph, places, energies, self.tolerances)
        found: list[Relaxed] = []
        for index, result in enumerate(results):
            positions, forces = result.atoms.positions, result.atoms.get_forces()
            one = Relaxed(result.energy, positions, forces, result.energy_uncertainty, mirror_image=None)
            if self.exchange is None:
                found.append(one)
            elif compared.are_mirror_images(index, index):
                found.append(replace(one, mirror_image=len(found)))
            else:
                other = replace(one, positions=-positions[self.exchange], forces=-forces[self.exchange])
                own = len(found)
                found += [replace(one, mirror_image=own + 1), replace(other, mirror_image=own)]
        return found


def _defect(result: Result, must_converge: bool) -> str:
    """Reason why a result is left out; empty if it is not."""
    can_go_on = not must_converge and result.status == RelaxStatus.STEP_LIMIT
    if not (result.converged or can_go_on):
        return "not converged"
    if not result.bonds_intact:
        return "bonds changed"
    return "" if result.stereo_intact else "configuration changed"
