"""What steps have in common whose doing is a state of a driver: it lasts, whoever dies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import List

from .errors import AgentError


class Standing(ABC):
    """Once `_on`, it stands until `_undo` takes it back: here, or in the watcher's place."""

    outlives = rash = True
    _on = False

    @abstractmethod
    def _undo(self) -> List[str]:
        """Take it back, twice is fine; what had to be left to others. AgentError if it can't be."""

    def shut(self) -> None:
        """Take it back; what goes wrong is told when it is looked after."""
        if self._on:
            try:
                self._undo()
            except AgentError:
                return
            self._on = False

    def detach(self) -> List[str]:
        """All as it was; what had to be left to others is in the answer."""
        if not self._on:
            return []
        left = self._undo()
        self._on = False
        return left
