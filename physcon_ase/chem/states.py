"""Keys of the total charge and the spin multiplicity of `ase.Atoms`."""

from collections.abc import Mapping
from typing import Any, Final

from physcon_ase.errors import UnsupportedChargeError

STATE_KEYS: Final = {
    **dict.fromkeys(("charge", "total_charge", "net_charge"), "charge"),
    **dict.fromkeys(("spin", "multiplicity", "spin_multiplicity"), "spin"),
}
"""Key in `Atoms.info`, "charge" [e] or "spin" (2S + 1), by the names that other programs use."""


def check_other_keys(info: Mapping[str, Any], charge: int, multiplicity: int) -> None:
    """Checks that other names of the charge and the multiplicity in `Atoms.info` do not contradict these values.

    Raises:
        UnsupportedChargeError: one of them does.
    """
    used = {"charge": charge, "spin": multiplicity}
    for name, value in info.items():
        key = STATE_KEYS.get(name.lower(), name) if isinstance(name, str) else name
        if key in used and key != name and value is not None and value != used[key]:
            raise UnsupportedChargeError(
                f"atoms.info[{name!r}] is {value!r}, but {'the charge' if key == 'charge' else 'the multiplicity'} is "
                f"read from atoms.info[{key!r}] and is {used[key]}: set atoms.info[{key!r}], or delete {name!r}"
            )
