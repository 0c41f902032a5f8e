"""What a soak found, in sentences and in rows."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from aftershock.slo.enduring import percent, trend_said
from aftershock.slo.recovery import BACK

FAULTS = ("After", "Fault", "Service back", "Fail-back")
SAID = {
    "none": "no drift",
    "settled": "settled",
    "drift": "drifts",
    "unsure": "can't tell yet",
}
_UNITS = {"p50": "ms", "p99": "ms", "GPU": "%", "memory": "bytes"}


def sentences(told: Mapping[str, Any]) -> list[str]:
    """The soak in words, from the verdict's `soak`: its faults, then what moved most."""
    if not told:
        return []
    rounds = told["rounds"]
    times = [one["rto_s"] for one in rounds if one["rto_s"] is not None]
    worst = f", the service back within {max(times):.2f} s of each" if times else ""
    unreturned = len(rounds) - len(times)
    some = f", {unreturned} without a return" if unreturned else ""
    faults = f"{len(rounds)} fault{'s' if len(rounds) != 1 else ''}"
    lines = [f"soaked for {told['lasts_s'] / 3600:.2g} h with {faults}{worst}{some}"]
    drift = sorted(told.get("drift") or (), key=lambda one: -float(one["percent_per_h"]))
    lines += [trend_said({**one, "name": name(one)}) for one in drift if one["word"] != "none"]
    if still := [one for one in drift if one["word"] == "none"]:
        highest = max(float(one["high"]) for one in still)
        lines.append(f"no drift in {len(still)} figures: {percent(highest)} an hour at most")
    return lines


def faults(told: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """A row for each fault: when, what, and how long the service and the fail-back took."""
    for one in told["rounds"]:
        where = f"{one['fault']} {one['zone']}"
        yield clock(one["at_s"]), where, _span(one, "rto"), _span(one, "failback")


def drift_heads(told: Mapping[str, Any]) -> tuple[str, ...]:
    """Of the columns of `drift`; all intervals are right with the same confidence."""
    first = next(iter(told.get("drift") or ()), None)
    sure = f" ({100 * first['confidence']:.3g} %)" if first else ""
    return "Figure", "Typically", "An hour", f"Interval{sure}", "Later half", "So"


def drift(told: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str, str, str]]:
    """A row for each figure that was watched: its level, its rise in an hour, and what of it."""
    for one in told.get("drift") or ():
        later = _between(one["later"]) if "later" in one else ""
        rise, said = percent(one["percent_per_h"]), SAID.get(one["word"], one["word"])
        yield name(one), level(one), rise, _between(one), later, said


def _between(rise: Mapping[str, Any]) -> str:
    return f"{percent(rise['low'])} to {percent(rise['high'])}"


def name(one: Mapping[str, Any]) -> str:
    """A figure's name; since when a process is up as a time of day (UTC)."""

    def clock_of(found: re.Match[str]) -> str:
        return time.strftime("since %m-%d %H:%M", time.gmtime(int(found[1])))

    return re.sub(r"since (\d{9,11})", clock_of, str(one["name"]))


def level(one: Mapping[str, Any]) -> str:
    """A figure's median with its unit."""
    unit, value = _UNITS.get(str(one["name"]).split()[0], ""), float(one["level"])
    return f"{value / 2**20:,.0f} MiB" if unit == "bytes" else f"{value:,.4g} {unit}".strip()


def clock(seconds: float) -> str:
    """So long after the soak began."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _span(one: Mapping[str, Any], name: str) -> str:
    value, error, state = one[f"{name}_s"], one[f"{name}_error_s"], one[f"{name}_state"]
    if value is not None:
        held = "" if state == BACK else f", {state}"
        return f"{value:.2f} s ± {error or 0:.2f}{held}"
    return f"not within {one[f'{name}_censored_s'] or 0:g} s"
