"""A step that slows GPUs down: their clocks locked, or their power limited, by NVML.

Both outlive whoever set them, and a driver does not tell whose they were: so this is refused where
somebody has set clocks already, and the watcher resets what the agent can't.
"""

from __future__ import annotations

import time
from typing import Any, Dict, List, Mapping, Set

from . import cardstate, gpu
from .classifier import check_options
from .errors import AgentError, CannotDo, Invalid, NotUndone
from .standing import Standing

_OPTIONS = ("gpus", "used_by", "anyone", "clock_mhz", "power_w")
_MOST = 100_000
_SEEN_S = 1.0
_SLOWED: Set[str] = set()  # by UUID, those that a step of this agent has


class GpuSlow(Standing):
    """At most `clock_mhz`, or `power_w`, or both; 0 leaves one as it is."""

    kind = "gpu-slow"

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        check_options(options, _OPTIONS)
        for name in ("clock_mhz", "power_w"):
            if not 0 <= options[name] <= _MOST:
                raise Invalid(f"gpu-slow: {name} {options[name]}: 0 to {_MOST}")
        self._options = dict(options)
        self.about: Dict[str, Any] = {"gpus": list(options["gpus"]), "level": "", "looks": ["gpus"]}
        self._cards: List[Dict[str, Any]] = []

    def intent(self) -> Dict[str, Any]:
        """What undoes it from outside: the limits as they were, and clocks that nobody locks."""
        return {"cards": self._cards}

    def attach(self) -> Dict[str, Any]:
        """What is there by now, and what the cards allow; nothing is touched."""
        found = gpu.find(self._options["gpus"])
        with gpu.nvml() as library:
            for card in found:
                gpu.check_users(card, self._options["used_by"], self._options["anyone"], self.kind)
                self._cards.append(self._planned(library, card))
        _SLOWED.update(card["uuid"] for card in self._cards)
        self.about["level"] = found[0]["level"]
        owned = [line for card in self._cards for line in _lines(card)]
        return {"owned": [cardstate.BLIND, *owned], "undo": self.intent()}

    def _planned(self, library: Any, card: Dict[str, Any]) -> Dict[str, Any]:
        which, clock = f"GPU {card['index']}", self._options["clock_mhz"]
        if card["lost"]:
            raise AgentError(f"gpu-slow: {which} is lost")
        told: Dict[str, Any] = {"uuid": card["uuid"], "index": card["index"], "clock_mhz": clock}
        if clock and gpu.USERS_CLOCKS in card["throttled_by"]:
            raise AgentError(
                f"gpu-slow: somebody has set the clocks of {which}, which could not be put back: "
                f"reset them first (nvidia-smi -i {card['index']} -rgc)"
            )
        if clock and clock >= (card["sm_clock_max_mhz"] or _MOST):
            raise Invalid(f"gpu-slow: {which} runs at {card['sm_clock_max_mhz']} MHz at most")
        if card["uuid"] in _SLOWED:  # whose limit would be put back after it is gone
            raise AgentError(f"gpu-slow: a slowdown of ours is on {which}: revert it first")
        if self._options["power_w"]:
            told.update(self._power(library, card))
        return told

    def _power(self, library: Any, card: Dict[str, Any]) -> Dict[str, Any]:
        handle, wanted = _handle(library, card["uuid"]), int(self._options["power_w"] * 1000)
        try:
            least, most = library.nvmlDeviceGetPowerManagementLimitConstraints(handle)
            was = library.nvmlDeviceGetPowerManagementLimit(handle)
        except library.NVMLError as error:
            raise CannotDo(f"gpu-slow: GPU {card['index']} has no power limit ({error})") from None
        if not least <= wanted < was:
            raise Invalid(
                f"gpu-slow: power_w {wanted / 1000:g} on GPU {card['index']}: {least / 1000:g} at "
                f"least ({most / 1000:g} at most), and below its limit now, {was / 1000:g}"
            )
        return {"power_set": wanted, "power_was": was}

    def fire(self, until: float) -> None:
        """Slow them down."""
        self._on = True
        with gpu.nvml() as library:
            for card in self._cards:
                handle = _handle(library, card["uuid"])
                try:
                    if card["clock_mhz"]:
                        clock = int(card["clock_mhz"])
                        library.nvmlDeviceSetGpuLockedClocks(handle, clock, clock)
                    if "power_set" in card:
                        library.nvmlDeviceSetPowerManagementLimit(handle, card["power_set"])
                except library.NVMLError as error:
                    raise CannotDo(
                        f"gpu-slow: GPU {card['index']} can't be slowed ({error}): it takes root, "
                        "and a card whose driver allows it"
                    ) from None

    def tick(self) -> None:
        """It lasts by itself."""

    def _undo(self) -> List[str]:
        return undo(self.intent())

    def observe(self) -> Dict[str, Any]:
        """What was set."""
        level = self.about["level"]
        return {"kind": self.kind, "counts": {}, "cards": self._cards, "level": level}

    def close(self) -> None:
        """Others may slow them down."""
        if self.about["level"]:
            _SLOWED.difference_update(card["uuid"] for card in self._cards)


def undo(intent: Mapping[str, Any]) -> List[str]:
    """Let go of clocks, and put back the limits that are still as we set them."""
    left, failed = [], []
    with gpu.nvml() as library:
        for card in intent["cards"]:
            try:
                handle = _handle(library, card["uuid"])
                if card["clock_mhz"]:
                    _let_go(library, handle)
                if "power_set" in card:
                    now = library.nvmlDeviceGetPowerManagementLimit(handle)
                    if now == card["power_set"]:
                        library.nvmlDeviceSetPowerManagementLimit(handle, card["power_was"])
                    elif now != card["power_was"]:
                        left.append(f"GPU {card['index']}: its power limit is {now / 1000:g} W")
            except library.NVMLError as error:
                failed.append(f"GPU {card['index']}: {error}")
    if failed:
        raise NotUndone(f"gpu-slow: {'; '.join(failed)}: nvidia-smi -rgc and -pl put it back")
    return left


def _lines(card: Mapping[str, Any]) -> List[str]:
    """What a fingerprint shows of it while it is on."""
    found = [cardstate.clocks_line(card["uuid"])] if card["clock_mhz"] else []
    if "power_set" in card:
        found.append(cardstate.power_line(card["uuid"], card["power_set"] / 1000))
    return found


def _let_go(library: Any, handle: Any) -> None:
    """Lock the clocks no more, and wait a little until the card tells so."""
    library.nvmlDeviceResetGpuLockedClocks(handle)
    until = time.monotonic() + _SEEN_S
    while gpu.clocks_are_set(library, handle) and time.monotonic() < until:
        time.sleep(0.02)


def _handle(library: Any, uuid: str) -> Any:
    return library.nvmlDeviceGetHandleByUUID(uuid)
