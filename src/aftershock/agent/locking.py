"""A step that locks processes' CUDA: they block in their next call, and run on otherwise.

The lock stays when whoever took it ends: so the watcher unlocks what the agent can't.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Set, Tuple

from . import cardstate, checkpoint, chosen, gpu
from .classifier import check_options
from .clock import identity, is_there
from .errors import AgentError, CannotDo, Invalid, NotUndone
from .standing import Standing

_OPTIONS = ("chosen",)
_LOCKED: Set[Tuple[int, int]] = set()  # by PID and start, those that a step of this agent has


class CudaLock(Standing):
    """Those of the chosen processes, with all that they started, which use a GPU."""

    kind = "cuda-lock"

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        check_options(options, _OPTIONS)
        chosen.check(options["chosen"])
        self.about: Dict[str, Any] = {
            "chosen": dict(options["chosen"]),
            "level": "",
            "looks": ["cuda-locks"],
        }
        self._processes: List[Dict[str, Any]] = []
        self._keys: Set[Tuple[int, int]] = set()

    def intent(self) -> Dict[str, Any]:
        """What undoes it from outside: whom to unlock."""
        return {"processes": self._processes}

    def attach(self) -> Dict[str, Any]:
        """All must use a GPU, and be locked by nobody; nothing is touched."""
        cards = gpu.looked_at()
        if not cards:
            raise CannotDo("cuda-lock: there is no GPU on this host")
        using = {one["pid"] for card in cards for one in card["processes"]}
        found = [identity(pid) for pid in self._users(using)]
        for process in found:
            if _key(process) in _LOCKED:
                raise AgentError(
                    f"cuda-lock: process {process['pid']} is another injection's of ours: revert "
                    "that first"
                )
        for told in checkpoint.ask("look", found):
            _check(told)
        self._processes = [process for process in found if is_there(process)]
        self._keys = {_key(process) for process in self._processes}
        _LOCKED.update(self._keys)
        emulated = any(card.get("level") == "emulated" for card in cards)
        self.about["level"] = "emulated" if emulated else "driver"
        owned = [line for one in self._processes for line in cardstate.lock_lines_of(one)]
        return {"owned": [cardstate.LOCKS_BLIND, *owned], "undo": self.intent()}

    def _users(self, using: Set[int]) -> List[int]:
        choice, found = self.about["chosen"], []
        for pid in chosen.find_exactly(choice):
            tree = chosen.with_descendants([pid]) if choice.get("tree") else [pid]
            if not (users := [one for one in tree if one in using]):
                raise Invalid(
                    f"cuda-lock: process {pid} ({chosen.in_a_line(pid)[:60]}) uses no GPU, as NVML "
                    "tells: name one that does"
                )
            found += users
        return sorted(set(found))

    def fire(self, until: float) -> None:
        """Lock them, by a child that ends with us."""
        self._on = True
        told = checkpoint.ask("lock", self._processes, bound=True)
        failed = [one for one in told if one["failed"]]
        # What somebody else has locked since is theirs to unlock; what nobody knows is ours.
        refused = {one["pid"] for one in failed if one["state"] is not None}
        self._processes = [one for one in self._processes if one["pid"] not in refused]
        for one in failed:
            raise AgentError(_instead(one))
        if not any(one["state"] == checkpoint.LOCKED for one in told):
            raise AgentError("cuda-lock: its processes have ended since the arming: arm it again")

    def tick(self) -> None:
        """It lasts by itself."""

    def _undo(self) -> List[str]:
        return undo(self.intent())

    def observe(self) -> Dict[str, Any]:
        """Who was locked."""
        level = self.about["level"]
        return {"kind": self.kind, "counts": {}, "processes": self._processes, "level": level}

    def close(self) -> None:
        """Others may lock them."""
        _LOCKED.difference_update(self._keys)


def undo(intent: Mapping[str, Any]) -> List[str]:
    """Unlock those that are still there."""
    there = [process for process in intent["processes"] if is_there(process)]
    told = checkpoint.ask("unlock", there) if there else []
    for one in told:
        if one["failed"] or one["state"] not in (checkpoint.RUNNING, None):
            why = one["failed"] or f"its CUDA is {checkpoint.STATES[one['state']]}"
            raise NotUndone(
                f"cuda-lock: process {one['pid']}: {why}: cuda-checkpoint --action unlock --pid "
                f"{one['pid']} lets it go on"
            )
    return []


def _check(told: Mapping[str, Any]) -> None:
    pid = told["pid"]
    if told["failed"]:
        raise AgentError(_instead(told))
    if told["state"] == checkpoint.LOCKED:
        raise AgentError(
            f"cuda-lock: process {pid} is locked already, by somebody else: unlock it first "
            f"(cuda-checkpoint --action unlock --pid {pid})"
        )
    if told["state"] not in (checkpoint.RUNNING, None):
        state = checkpoint.STATES[told["state"]]
        raise AgentError(f"cuda-lock: process {pid} is {state}: let it run first")


def _instead(told: Mapping[str, Any]) -> str:
    return f"cuda-lock: process {told['pid']}: {told['failed']}: it may be hung by=freeze"


def _key(process: Mapping[str, Any]) -> Tuple[int, int]:
    return process["pid"], process["started"]
