"""What `chaos discover aftershock` shows: every action and probe, with types."""

from __future__ import annotations

import importlib
import logging
import pkgutil
import typing
from collections.abc import Callable, Iterator
from typing import Any

from chaoslib.discovery.discover import (
    discover_activities,
    initialize_discovery_result,
    portable_type_name,
)

import aftershock

logger = logging.getLogger("chaostoolkit")

HOMES = {"aftershock.actions": "action", "aftershock.probes": "probe"}


def capabilities() -> dict[str, Any]:
    """Chaos Toolkit's discovery payload; every module in `actions/` and `probes/` is in it."""
    found: dict[str, Any] = initialize_discovery_result(
        "aftershock", aftershock.__version__, "aftershock"
    )
    for home, kind in HOMES.items():
        for module in modules_of(home):
            logger.info("Discovering %ss of %s", kind, module)
            found["activities"] += [_typed(one) for one in discover_activities(module, kind)]
    return found


def modules_of(package: str) -> Iterator[str]:
    """The modules of a package, by name, in order."""
    path = importlib.import_module(package).__path__
    yield from sorted(f"{package}.{module.name}" for module in pkgutil.iter_modules(path))


def _typed(activity: dict[str, Any]) -> dict[str, Any]:
    # Chaos Toolkit takes `dict[str, Any]` for an "object": without its parameters it knows it.
    func: Callable[..., Any] = getattr(importlib.import_module(activity["mod"]), activity["name"])
    hints = typing.get_type_hints(func)
    if "return" in hints:
        activity["return_type"] = _name(hints["return"])
    for argument in activity["arguments"]:
        if argument["name"] in hints:
            argument["type"] = _name(hints[argument["name"]])
    return activity


def _name(kind: Any) -> str:
    return str(portable_type_name(typing.get_origin(kind) or kind))
