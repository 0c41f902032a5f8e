"""A step that loses packets, all or by a model of loss, at the device's own hook."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping

from . import hooks
from .classifier import Classifier, check_directions, check_options, new_rank
from .errors import CannotDo, Invalid
from .facts import device_index
from .hooks import Clsact, Tcx
from .program import Loss

_OPTIONS = ("device", "directions", "hook", "match", "loss")


def undo(intent: Mapping[str, Any]) -> List[str]:
    """Remove what a `Drop` recorded, from any process there; twice is fine."""
    return [f"{intent['device']} {line}" for line in hooks.undo(dict(intent))]


def hook_for(kind: str, ifindex: int, directions: List[str], injection: str) -> Any:
    """The way onto a device that a step names."""
    if kind == "tcx":
        return Tcx(ifindex, directions)
    if kind == "clsact":
        return Clsact(ifindex, directions, injection)
    raise CannotDo(f"hook {kind!r}: tcx or clsact")


class Drop:
    """Programs that drop, armed with their gate shut."""

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        check_options(options, _OPTIONS)
        check_directions(options["directions"])
        self.device: str = options["device"]
        directions: List[str] = list(options["directions"])
        ifindex = device_index(self.device)
        loss = _loss(options["loss"])
        rank = new_rank()
        self._classifier = Classifier(
            options["match"], dict.fromkeys(directions, loss), dict.fromkeys(directions, rank)
        )
        self._hook = hook_for(options["hook"], ifindex, directions, injection)
        self.outlives = options["hook"] == "clsact"
        self.rash = False
        self.kind = "drop"
        self.about = {"device": self.device, "hook": options["hook"]}

    def intent(self) -> Dict[str, Any]:
        """What undoes it from outside, known before anything is touched."""
        return {**self._hook.intent(), "device": self.device}

    def attach(self) -> Dict[str, Any]:
        """Attach; what is ours now, and what undoes it."""
        done = dict(self._hook.attach(self._classifier.programs))
        owned = [f"{self.device} {line}" for line in done.pop("owned")]
        return {"owned": owned, "undo": {**done, "device": self.device}}

    def fire(self, until: float) -> None:
        """Let it bite until a time on CLOCK_BOOTTIME."""
        self._classifier.open_gate(until)

    def tick(self) -> None:
        """Nothing comes due."""

    def shut(self) -> None:
        """Let it bite no more."""
        self._classifier.shut_gate()

    def observe(self) -> Dict[str, Any]:
        """What was matched and dropped so far, by direction, as counted by the program."""
        return {"kind": self.kind, "device": self.device, "counts": self._classifier.counts()}

    def detach(self) -> List[str]:
        """Take it off; what had to be left to others is in the answer."""
        return [f"{self.device} {line}" for line in self._hook.detach()]

    def close(self) -> None:
        """Give up what is left in memory."""
        self._hook.close()
        self._classifier.close()


def _loss(plain: Mapping[str, float]) -> Loss:
    if set(plain) != set(Loss._fields):
        raise Invalid(f"loss has {', '.join(Loss._fields)}, and nothing else")
    if not all(0 <= share <= 1 for share in plain.values()):
        raise Invalid(f"loss {dict(plain)}: shares from 0 to 1")
    loss = Loss(**plain)
    if not loss.in_good and not (loss.to_bad and loss.in_bad):
        raise Invalid(f"loss {dict(plain)}: nothing would ever be lost")
    return loss
