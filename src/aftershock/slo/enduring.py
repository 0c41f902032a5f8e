"""What a soak decides: each of its faults, and what crept up between them.

Both are plain data, as `run.soaking` tells them. Each function yields (code, sentence) of reasons.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aftershock.slo.drift import DRIFT, UNSURE, Points
from aftershock.slo.recovery import BACK, GIVEN_UP
from aftershock.slo.timeline import Timeline

P50, P99 = "soak_p50_ms", "soak_p99_ms"
SERVER_MEMORY, HOST_MEMORY, GPU_MEMORY = (
    "server_memory_bytes",
    "host_memory_used_bytes",
    "gpu_memory_used_percent",
)
_NAMES = {
    P50: "p50 latency",
    P99: "p99 latency",
    SERVER_MEMORY: "memory of server",
    HOST_MEMORY: "memory used on",
    GPU_MEMORY: "GPU memory on",
}
Soak = Mapping[str, Any]
Found = Iterator[tuple[str, str]]


def watched(timeline: Timeline) -> dict[str, Points]:
    """What may creep up, by its name: every point that was measured."""
    return {
        f"{name} {label}".strip(): points
        for gauge, name in _NAMES.items()
        for label, points in timeline.series(gauge).items()
    }


def missed(soak: Soak, objective_s: float) -> Found:
    """Faults from which the service surely was not back in time."""
    for name, one in _rounds(soak):
        low, _ = _span(one)
        censored = one["rto_censored_s"]
        if low is not None and low > objective_s:
            said = f"service back in {one['rto_s']:.3f} s, the objective is {objective_s:g} s"
            yield "rto_missed", f"{name}: {said}"
        elif low is None and censored is not None and censored >= objective_s:
            yield "rto_missed", f"{name}: service not back within {censored:g} s"


def unmeasured(soak: Soak, objective_s: float) -> Found:
    """What the soak can't tell."""
    if not soak:
        return
    done, planned = len(soak["rounds"]), soak["planned"]
    if done < planned:
        yield "soak_cut_short", f"the soak ended after {done} of its {planned} faults"
    for name, one in _rounds(soak):
        low, high = _span(one)
        if low is not None and high is not None and low <= objective_s < high:
            said = f"{one['rto_s']:.3f} s straddles the objective of {objective_s:g} s"
            yield "straddles", f"{name}: {said}"
        elif one["rto_state"] not in (BACK, GIVEN_UP):
            yield "not_held", f"{name}: service was not watched until it had held"
        elif one["failback_state"] not in (BACK, GIVEN_UP):
            yield "failback_unmeasured", f"{name}: the run ended before the fail-back had held"
    drift = soak.get("drift") or []
    if not drift:
        yield "drift_unmeasured", "nothing was watched long enough to see a drift: soak for longer"
    for one in drift:
        if one["word"] == UNSURE:
            yield "drift_unsure", f"{trend_said(one)}: soak for longer to tell"


def misbehaved(soak: Soak) -> Found:
    """What crept up, and zones that did not come back."""
    for one in soak.get("drift") or ():
        if one["word"] == DRIFT:
            allowed = soak["most_drift_percent_per_h"]
            yield "drift", f"{trend_said(one)}, and {allowed:g} % are allowed"
    for name, one in _rounds(soak):
        if one["failback_state"] == GIVEN_UP:
            yield "failback_failed", f"{name}: no fail-back within {one['failback_censored_s']:g} s"


def trend_said(one: Mapping[str, Any]) -> str:
    """A trend with its interval, and how it went on where that decides."""
    sure = f", {100 * one['confidence']:.3g} %"
    said = f"{one['name']} rises by {_rise_said(one, sure)}"
    later = one.get("later")
    return f"{said}, in the later half by {_rise_said(later)}" if later else said


def _rise_said(rise: Mapping[str, Any], sure: str = "") -> str:
    low, high = (percent(rise[side]) for side in ("low", "high"))
    return f"{percent(rise['percent_per_h'])} an hour ({low} to {high}{sure})"


def percent(value: float) -> str:
    """A rise in two digits, or in whole percent."""
    return f"{value:+,.0f} %" if abs(value) >= 99.5 else f"{value:+.2g} %"


def _rounds(soak: Soak) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, one in enumerate(soak.get("rounds") or (), 1):
        yield f"fault {number} of the soak ({one['fault']} {one['zone']})", one


def _span(one: Mapping[str, Any]) -> tuple[float | None, float | None]:
    rto, error = one["rto_s"], one["rto_error_s"]
    if rto is None or error is None:
        return None, None
    return max(rto - error, 0.0), rto + error
