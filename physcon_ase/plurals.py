"""Numbers with singular or plural nouns in messages."""

from typing import SupportsIndex


def counted(number: SupportsIndex, singular: str, plural: str = "") -> str:
    """Number with its noun, as in "1 molecule" and "2 molecules".

    Args:
        number: the number, of Python or NumPy.
        singular: the noun.
        plural: its plural, if this is not the singular with an s.
    """
    return f"{number} {singular if number == 1 else plural or f'{singular}s'}"
