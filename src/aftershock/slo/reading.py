"""Reading a run's `verdict.json` back: whole and of this version, or one sentence why not."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aftershock.errors import InvalidInput
from aftershock.slo.document import FIELDS, SCHEMA_VERSION
from aftershock.slo.verdict import FAIL, INCONCLUSIVE, PASS

_STAMPED = re.compile(r"^(\d{8}T\d{6}Z)-(.+?)(?:-\d{1,2})?$")
_NUMBER, _WORD = (int, float), (str,)
_LISTS = ("reasons", "injections", "leftovers", "gaps", "relapses_s", "capacity_gaps",
          "replacements")  # fmt: skip
_MAPS = ("versions", "generator", "per_source", "failed_by_kind", "run")
_NEEDED = {
    "verdict": (_WORD, False),
    "target": (_WORD, False),
    "rto_objective_s": (_NUMBER, False),
    "service_rto_s": (_NUMBER, True),
    "service_rto_error_s": (_NUMBER, True),
    "service_rto_censored_s": (_NUMBER, True),
    "service_state": (_WORD, True),
    "title": (_WORD, True),
    **dict.fromkeys(_LISTS, ((list,), True)),
    **dict.fromkeys(_MAPS, ((dict,), True)),
}
# Fields that an older Aftershock did not write yet.
_EMPTY: dict[str, Any] = {
    **dict.fromkeys(FIELDS),
    **{name: [] for name in _LISTS},
    **{name: {} for name in _MAPS},
    "title": "",
}


class Unreadable(InvalidInput):
    """A folder that tells no verdict; the message says why, and the mend."""


def read_verdict(folder: Path) -> dict[str, Any]:
    """The content of a folder's verdict.json, with every field of this version; `Unreadable`."""
    try:
        said = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise Unreadable(_without_verdict(folder)) from None
    except OSError as error:
        raise Unreadable(f"verdict.json can't be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise Unreadable("verdict.json is half written or not JSON") from None
    version = said.get("schema_version") if isinstance(said, dict) else None
    if version != SCHEMA_VERSION:
        raise Unreadable(
            f"verdict.json is of version {version!r:.20}, this Aftershock reads {SCHEMA_VERSION}: "
            "read it with the one that wrote it"
        )
    for name, (kinds, may_lack) in _NEEDED.items():
        value = said.get(name)
        fits = isinstance(value, kinds) and not isinstance(value, bool)
        if not fits and not (may_lack and value is None):
            raise Unreadable(f"verdict.json has no sound {name}: {value!r:.60}")
    if said["verdict"] not in (PASS, FAIL, INCONCLUSIVE):
        raise Unreadable(f"verdict.json says {said['verdict']!r:.60}, which is no verdict")
    known = {name: value for name, value in said.items() if value is not None}
    return {**_EMPTY, **known, "run": {**_by_name(folder.name), **known.get("run", {})}}


def _by_name(folder: str) -> dict[str, str]:
    """What a run's folder is called tells its experiment and when it began."""
    found = _STAMPED.match(folder)
    try:
        began = datetime.strptime(found[1], "%Y%m%dT%H%M%SZ") if found else None
    except ValueError:
        return {}
    if found is None or began is None:
        return {}
    return {"experiment": found[2], "started_at": began.replace(tzinfo=UTC).isoformat()}


def _without_verdict(folder: Path) -> str:
    if not folder.is_dir():
        return "there is no such folder"
    if _STAMPED.match(folder.name) is None and not (folder / "timeline.jsonl").exists():
        return "not a run's folder"
    return (
        "no verdict.json: it still runs, or its controller died; "
        "`aftershock recover` heals what it left and writes its verdict"
    )
