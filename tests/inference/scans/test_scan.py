"""Records of scans, with energies that are made up."""

import numpy as np
import pytest

from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.inference.scans.scan import Scan
from physcon_ase.units import EV_PER_KCAL_PER_MOL

KCAL = EV_PER_KCAL_PER_MOL


def made_up(energies: np.ndarray) -> Scan:
    points = list(np.ndindex(energies.shape))
    dihedrals = ((0, 1, 2, 3), (4, 0, 1, 2))[: energies.ndim]
    return Scan(
        dihedrals=dihedrals,
        angles=-180 + 360 / len(energies) * np.arange(len(energies)),
        energies=energies,
        geometries={},
        failures={point: "failed" for point in points if np.isnan(energies[point])},
        graph=graph_from_smiles("CCCC"),
        smiles="CCCC",
        undefined_stereo=(),
        n_starts=1,
        n_relaxations=1,
        n_waves=1,
        fmax=0.02,
        seed=0,
        model="none",
        revision="0" * 64,
        level="none",
        seconds=0.0,
    )


def test_profile_of_butane_has_three_minima_and_the_barriers_between_neighbours() -> None:
    #                          -180  -120  -60   0    60   120
    scan = made_up(KCAL * np.array([0.0, 3.4, 0.9, 5.5, 0.9, 3.4]))
    assert scan.minima[0] == (0,)
    assert set(scan.minima) == {(0,), (2,), (4,)}
    ways = {barrier.minima: (barrier.top, barrier.heights) for barrier in scan.barriers}
    assert len(ways) == 3
    assert ways[(-180.0,), (-60.0,)][0] == (-120.0,)
    assert ways[(-180.0,), (-60.0,)][1] == pytest.approx((3.4, 2.5))
    assert ways[(-60.0,), (60.0,)][0] == (0.0,)
    assert ways[(-60.0,), (60.0,)][1] == pytest.approx((4.6, 4.6))
    assert ways[(60.0,), (-180.0,)][1] == pytest.approx((2.5, 3.4))


def test_points_beside_failed_ones_are_no_minima_and_barriers_across_them_are_unknown() -> None:
    scan = made_up(KCAL * np.array([0.0, np.nan, 1.0, 5.0, 0.5, 3.0]))
    assert scan.minima == [(0,), (4,)]  # the lowest of all is one in any case
    assert [barrier.top for barrier in scan.barriers] == [(120.0,)]
    assert np.isnan(scan.relative_energies[1])


def test_of_mirror_images_on_neighbouring_points_one_is_a_minimum() -> None:
    scan = made_up(KCAL * np.array([0.0, 0.0, 3.0]))
    assert scan.minima == [(0,)]
    assert scan.barriers == []
    assert made_up(KCAL * np.array([0.0, 3.0, 2.0, 3.0, 0.0])).minima == [(0,), (2,)]  # across the border


def test_one_minimum_has_no_barrier() -> None:
    assert made_up(np.array([0.0, 1.0, 2.0, 1.5])).barriers == []


def test_pass_of_a_map_is_the_lowest_one_across_the_border() -> None:
    angles = np.radians(-180 + 30 * np.arange(12))
    first, second = np.meshgrid(angles, angles, indexing="ij")
    # minima at (-180, 0) and (0, 0); the pass at first = 90 is lower than that at -90
    energies = 1 - np.cos(2 * first) - 0.3 * np.sin(first) + 0.2 * np.cos(first) + 2 * (1 - np.cos(second))
    scan = made_up(KCAL * energies)
    assert scan.minima == [(0, 6), (6, 6)]
    (barrier,) = scan.barriers
    assert barrier.top == (90.0, 0.0)
    assert barrier.minima == ((0.0, 0.0), (-180.0, 0.0))
    lowest = energies.min()
    assert barrier.energy == pytest.approx(energies[9, 6] - lowest)
    assert barrier.heights == pytest.approx((energies[9, 6] - energies[6, 6], energies[9, 6] - lowest))
