"""Conversion factors (CODATA 2022) and element data; internal units are eV, Å, e and amu."""

from typing import Final

EV_PER_HARTREE: Final = 27.211386245981
"""One hartree [eV]."""

ANGSTROM_PER_BOHR: Final = 0.529177210544
"""One bohr [Å]."""

EV_PER_KCAL_PER_MOL: Final = 4.184 / 96.48533212331
"""One kcal/mol [eV]."""

KM_PER_MOL: Final = 974.8801
"""Infrared intensity [km/mol] of a dipole derivative of 1 e amu⁻¹ᐟ² by a normal coordinate, N_A e² / (12 ε₀ c² amu)."""

EV_PER_KELVIN: Final = 8.617333262e-5
"""Boltzmann constant [eV/K]."""

COULOMB_EV_ANGSTROM: Final = EV_PER_HARTREE * ANGSTROM_PER_BOHR
"""Coulomb energy [eV] of two elementary charges at 1 Å."""

ATOMIC_NUMBERS: Final[dict[str, int]] = {
    symbol: number
    for number, symbol in enumerate(
        "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr "
        "Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu "
        "Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr "
        "Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og".split(),
        start=1,
    )
}
"""Atomic number of each element symbol."""

CHEMICAL_SYMBOLS: Final[dict[int, str]] = {number: symbol for symbol, number in ATOMIC_NUMBERS.items()}
"""Element symbol of each atomic number."""

COVALENT_RADII: Final[dict[int, float]] = {
    1: 0.31,
    5: 0.84,
    6: 0.76,
    7: 0.71,
    8: 0.66,
    9: 0.57,
    14: 1.11,
    15: 1.07,
    16: 1.05,
    17: 1.02,
    35: 1.20,
    53: 1.39,
}
"""Covalent radius [Å] of the elements covered by the checkpoints; Cordero et al. 2008, doi 10.1039/b801115j."""

FALLBACK_RADIUS: Final = 1.2
"""Covalent radius [Å] of elements that are not in `COVALENT_RADII`; deliberately large."""
