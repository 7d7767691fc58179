from ase import Atoms
from ase.build import molecule


def dimer() -> list[Atoms]:
    """Two water molecules with a hydrogen bond along z."""
    acceptor, donor = molecule("H2O"), molecule("H2O")
    donor.rotate(127.8 + 104.5 / 2 - 180, "x")
    donor.translate([0, 0.2, 2.9])
    return [acceptor, donor]
