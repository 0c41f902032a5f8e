"""What an activity would touch, by name, found by its own code up to the moment of arming.

The same look serves a dry run, which prints it, and the beginning of a run, which is refused what
can't be done before anything is touched.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aftershock.capacity.choosing import TooMuch
from aftershock.errors import AftershockError, InvalidInput, Unsupported
from aftershock.run import entered
from aftershock.run.breaking import Breaking, Foreseen
from aftershock.run.injecting import Injected, Injections
from aftershock.run.settings import Settings
from aftershock.run.target import Target
from aftershock.slo.timeline import Timeline

_ACTIONS = "aftershock.actions."
_ASKED_FIRST = tuple(f"{_ACTIONS}{name}" for name in ("gpu", "host", "kubernetes", "load", "zone"))
_IN_THE_API = (f"{_ACTIONS}kubernetes", f"{_ACTIONS}zone", f"{_ACTIONS}load.soak")
_LIMITED = tuple(f"{_ACTIONS}{name}" for name in ("command", "network", "storage"))
_NOT_UP = "what lives in the lab's Kubernetes API (pods, cordons): no names before it is up"

Activity = Mapping[str, Any]


class _Unhurried:
    """Nothing is watched, so nobody has to be paused."""

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        yield


class _NoLedger:
    run_id = "dry-run"


class Foresight:
    """A run that breaks nothing: what its actions made is looked at, and let go."""

    def __init__(self, settings: Settings, target: Target) -> None:
        self.settings, self.target = settings, target
        target.foreseen()
        self.watcher = _Unhurried()
        self.timeline = Timeline()  # nothing comes into it
        self.breaking = Breaking(self)  # type: ignore[arg-type]
        self.breaking.foresee(Injections(target, _NoLedger(), settings))  # type: ignore[arg-type]

    def phase(self, name: str) -> None:
        """Nothing begins."""

    def touches(self, activity: Activity, configuration: Mapping[str, Any]) -> list[str]:
        """What it would touch; errors are those that it would raise before it touches anything."""
        return self._look(activity, configuration)[0]

    def expect(self, activity: Activity, configuration: Mapping[str, Any]) -> list[str]:
        """What it would touch, which counts for the limits of what comes after it."""
        told, parts = self._look(activity, configuration)
        self.breaking.injections.expect(parts)
        return told

    def _look(
        self, activity: Activity, configuration: Mapping[str, Any]
    ) -> tuple[list[str], Sequence[Injected]]:
        parts: Sequence[Injected] = ()
        provider = activity["provider"]
        module, name = str(provider["module"]), str(provider["func"])
        arguments = _substituted(provider.get("arguments") or {}, configuration)
        with entered(self):
            try:
                getattr(importlib.import_module(module), name)(**arguments)
            except Foreseen as found:
                parts = found.parts
                told = [line for part in parts for line in self._told(part)]
                told += found.lines
            except Unsupported:
                if not self._is_lab_to_be():
                    raise
                told = []
            else:
                return [], ()
        told = list(dict.fromkeys(told))
        in_the_api = f"{module}.{name}".startswith(_IN_THE_API)
        late = [_NOT_UP] if self._is_lab_to_be() and (in_the_api or not told) else []
        return [*told, *late], parts

    def _is_lab_to_be(self) -> bool:
        return self.target.is_lab and self.target.cluster is None

    def _told(self, part: Any) -> list[str]:
        if hasattr(part, "touches"):
            lines: list[str] = part.touches()
            return lines
        told = part.fault.name if hasattr(part, "fault") else "a fault"
        places = getattr(part, "breaks", part.nodes)
        return [f"{told} on {', '.join(f'{node.name} ({node.zone})' for node in places)}"]

    def refuse(self, method: Sequence[Activity], configuration: Mapping[str, Any]) -> None:
        """Look ahead through a method: what limits or the API would refuse is raised now.

        It ends at the first action of somebody else: after it, other pods may be there.
        """
        for activity in method:
            provider = activity.get("provider") or {}
            if activity.get("type") != "action":
                continue
            if not is_ours(activity):
                return
            if provider["module"] in _ASKED_FIRST:
                self.expect(activity, configuration)
            elif provider["module"] in _LIMITED:
                try:
                    self.expect(activity, configuration)
                except InvalidInput:
                    raise
                except AftershockError:  # it is told, and judged, when its turn comes
                    continue

    def refuse_nonsense(self, method: Sequence[Activity], configuration: Mapping[str, Any]) -> None:
        """Look ahead through a method before its lab is up: only what makes no sense is raised."""
        for activity in method:
            if activity.get("type") == "action" and is_ours(activity):
                try:
                    self.touches(activity, configuration)
                except AftershockError as error:  # who knows what it can do once it is up
                    if isinstance(error, InvalidInput) and not isinstance(error, TooMuch):
                        raise


def is_ours(activity: Activity) -> bool:
    """Whether it is one of our actions."""
    provider = activity.get("provider") or {}
    return provider.get("type") == "python" and str(provider.get("module")).startswith(_ACTIONS)


def _substituted(arguments: Mapping[str, Any], configuration: Mapping[str, Any]) -> dict[str, Any]:
    from chaoslib import substitute

    found: dict[str, Any] = substitute(dict(arguments), dict(configuration), {})
    return found
