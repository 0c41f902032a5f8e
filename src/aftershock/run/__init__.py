"""A run as the controller lives it: target up, load, faults, recovery, verdict, target down.

Actions and probes find the run in progress by `current()`.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from aftershock.errors import AftershockError

if TYPE_CHECKING:
    from aftershock.run.session import Run

__all__ = ["NoRun", "current", "enter", "entered", "heal_everything", "leave"]


logger = logging.getLogger("chaostoolkit")


class NoRun(AftershockError):
    """An activity was called while no run is being recorded."""


_current: list[Run] = []
_missed: list[NoRun] = []  # what activities were told for want of a run
_ended: list[NoRun] = []  # and what ended the experiment


def enter(run: Run) -> None:
    """From now on this is the run in progress in this process."""
    _current[:] = [run]


@contextlib.contextmanager
def entered(run: Any) -> Iterator[None]:
    """Within, this is the run in progress; after it the one that was before."""
    before, _current[:] = list(_current), [run]
    try:
        yield
    finally:
        _current[:] = before


def leave() -> None:
    """No run is in progress any more."""
    _current.clear()


def current() -> Run:
    """The run in progress; `NoRun` says how to have one, and ends the experiment."""
    if not _current:
        _missed.append(
            NoRun(
                "no run is being recorded, so nothing would be judged: give the experiment the "
                'control {"name": "aftershock", "provider": {"type": "python", '
                '"module": "aftershock.controls"}}'
            )
        )
        _end_experiment()
        raise _missed[-1]
    return _current[-1]


def heal_everything() -> dict[str, Any]:
    """Heal what the run in progress injected; a run that never began has nothing to heal."""
    if _missed and not _ended and not _current:
        _end_experiment()
    return _current[-1].breaking.heal_everything() if _current else {"healed": 0, "injections": []}


def _end_experiment() -> None:
    # What an activity raises leaves `chaos run` its exit status 0; the exit that Chaos Toolkit's
    # own SIGUSR1 stands for does not. Raised here and not sent: a signal that strikes while this
    # thread waits for a log's lock would leave it taken. In other threads nobody would notice it.
    listening = getattr(signal.getsignal(signal.SIGUSR1), "__module__", None) == "chaoslib.exit"
    if listening and threading.current_thread() is threading.main_thread():
        _ended.append(_missed[-1])
        logger.critical(str(_missed[-1]))
        raise SystemExit(20)
