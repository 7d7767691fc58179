"""Base class of the results that notebooks show."""

from abc import ABC, abstractmethod
from typing import Any


class NotebookView(ABC):
    """A result that a notebook shows with `notebook.html_of`."""

    def _repr_html_(self) -> str:
        from physcon_ase.inference.pages.notebook import html_of  # only notebooks need it

        return html_of(self)

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The result as numbers, texts and lists."""
