"""What an experiment's file tells of itself, without running it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from aftershock.errors import InvalidInput

_ON_HOSTS = ("command", "gpu", "host", "network", "storage", "zone")


def read_experiment(path: Path) -> dict[str, Any]:
    """An experiment as its file has it; `InvalidInput` if that is none."""
    try:
        text = path.read_text(encoding="utf-8")
        said = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"experiment {path} can't be read: {error}") from None
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{path}, line {error.lineno}: not JSON: {error.msg}") from None
    except yaml.YAMLError as error:
        raise InvalidInput(f"{path}: not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(said, dict) or "method" not in said:
        raise InvalidInput(f"{path} is no experiment: it has no method")
    return said


def declared(path: Path) -> Mapping[str, Any]:
    """The variables that an experiment lists in its configuration."""
    found = read_experiment(path).get("configuration") or {}
    return found if isinstance(found, dict) else {}


def breaks_hosts(path: Path) -> bool:
    """Whether it has actions of ours that need a way into hosts, beside a cluster's API."""
    text = json.dumps(read_experiment(path)["method"])
    return any(f'"aftershock.actions.{room}"' in text for room in _ON_HOSTS)


def leaves_verdict(path: Path) -> bool:
    """Whether its runs are recorded and judged by Aftershock's control."""
    controls = read_experiment(path).get("controls") or ()
    modules = [
        (one.get("provider") or {}).get("module") for one in controls if isinstance(one, dict)
    ]
    return "aftershock.controls" in modules
