"""What a run was told: all that is needed to run it again, and to compare it with another."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aftershock.run.settings import Settings
from aftershock.slo.levels import Levels

HIDDEN = "(not written down)"
_SECRET = re.compile(
    r"pass(word|wd)?|token(?!s)|secret|credential|api[-_]?key|private[-_]?key", re.IGNORECASE
)
# `name=`, and with an option before it: `--var=name=`
_NAMED = re.compile(r"(--[\w-]+=)?[\w.-]+=")
_PLAIN = (str, int, float, bool)


def told(
    settings: Settings,
    levels: Levels,
    title: str,
    configuration: Mapping[str, Any],
    declared: Mapping[str, Any],
) -> dict[str, Any]:
    """The `run` of verdict.json, as far as it is known before anything is touched.

    `configuration`: the experiment's, resolved; `declared`: as the experiment has it. What comes
    from elsewhere and is no setting of ours, or is named like a secret, is not written down.
    """
    return {
        "experiment": settings.experiment or title,
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(sys.argv),
        "directory": str(Path.cwd()),
        "environment": _environment(declared),
        "variables": _variables(settings, configuration, declared),
        "levels": {k: v for k, v in asdict(levels).items() if v not in (None, {})},
        "zones": {},
    }


def command(arguments: Sequence[str]) -> str:
    """A command line to copy, without its program's folder and without secrets."""
    if not arguments:
        return ""
    told, name_is_secret = [Path(arguments[0]).name], False
    for argument in arguments[1:]:
        named = _NAMED.match(argument)
        if name_is_secret and not argument.startswith("-"):
            told.append(HIDDEN)
        elif named and _SECRET.search(named[0]):
            told.append(f"{named[0]}{HIDDEN}")
        else:
            told.append(argument)
        is_option = argument.startswith("--") and not named
        name_is_secret = is_option and bool(_SECRET.search(argument))
    return shlex.join(told)


def _environment(declared: Mapping[str, Any]) -> dict[str, str]:
    """The environment variables that the experiment reads, where they are set."""
    keys = [
        str(entry.get("key", ""))
        for entry in declared.values()
        if isinstance(entry, Mapping) and entry.get("type") == "env"
    ]
    return {
        key: HIDDEN if _SECRET.search(key) else os.environ[key] for key in keys if key in os.environ
    }


def _variables(
    settings: Settings, configuration: Mapping[str, Any], declared: Mapping[str, Any]
) -> dict[str, Any]:
    """Every setting, as it was used, and what else the experiment has for itself."""
    found = asdict(settings)
    for name, value in configuration.items():
        if name in found or not isinstance(value, _PLAIN):
            continue
        elsewhere = isinstance(declared.get(name), Mapping)
        found[name] = HIDDEN if elsewhere or _SECRET.search(name) else value
    return found
