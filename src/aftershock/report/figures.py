"""What every form of the report tells, in words: the page and report.md set it in type."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aftershock.report import sentences
from aftershock.report.record import Record
from aftershock.slo.levels import INDICATORS

INDICATOR_NAMES = {
    "p99_latency_ms": "P99 latency, ms",
    "error_rate": "Error rate",
    "served_share": "Share of the load served well",
    "throughput_rps": "Throughput, good answers a second",
    "gpu_utilisation_percent": "GPU utilisation, %",
    "gpu_memory_used_percent": "GPU memory used, %",
}


class Tile(NamedTuple):
    """One figure that people sign."""

    name: str
    value: str
    note: str


def sentence(text: str) -> str:
    """The same, beginning with a capital letter."""
    return text[:1].upper() + text[1:]


def where_and_when(record: Record) -> str:
    """The target and the day."""
    began = min(record.timeline.marks.values(), default=None)
    day = ""
    if began is not None:
        at = time.gmtime(record.timeline.utc(began))
        day = f" · {time.strftime('%Y-%m-%d %H:%M', at)} UTC"
    elif started := record.document["run"].get("started_at"):
        day = f" · {str(started)[:16].replace('T', ' ')} UTC"
    target = str(record.document["target"])
    emulated = " (GPUs and Kubernetes are emulated)" if target == "lab" else ""
    return f"target {target}{emulated}{day}"


def why(document: Mapping[str, Any]) -> list[str]:
    """The reasons that the headline hasn't told, and the measured time where a reason led."""
    first, told = sentences.summary(document)[0], sentences.headline(document)
    more = [text for text in sentences.reasons(document) if text != first]
    measured = "" if document["service_state"] is None else "measured all the same: "
    more += [f"{measured}{told}"] if told != first else []
    return [sentence(text) for text in more]


def tiles(document: Mapping[str, Any]) -> list[Tile]:
    """Recovery, fail-back, capacity, losses, detection."""
    makers = (_rto, _failback, _capacity, _lost, _detected)
    return [
        tile._replace(note="not measured") if tile.value == "–" else tile
        for tile in (make(document) for make in makers)
    ]


def _rto(document: Mapping[str, Any]) -> Tile:
    value, error = document["service_rto_s"], document["service_rto_error_s"]
    objective = f"objective {document['rto_objective_s']:g} s"
    if value is not None:
        return Tile("Service RTO", f"{value:.2f} s", f"± {error or 0:.3f} s · {objective}")
    censored = document["service_rto_censored_s"]
    if censored is not None:
        return Tile("Service RTO", f"> {censored:g} s", f"not back by then · {objective}")
    return Tile("Service RTO", "–", "")


def _failback(document: Mapping[str, Any]) -> Tile:
    value, error = document["failback_rto_s"], document["failback_rto_error_s"]
    if value is None:
        return Tile("Fail-back", "–", "")
    alone = " · golden levels alone" if document.get("failback_unseen") else ""
    return Tile("Fail-back", f"{value:.2f} s", f"± {error or 0:.2f} s · after the heal{alone}")


def _capacity(document: Mapping[str, Any]) -> Tile:
    rto, censored = document["capacity_rto_s"], document["capacity_censored_s"]
    after = document["capacity_after_heal_s"]
    if rto is not None:
        note = f"± {document['capacity_error_s'] or 0:.2f} s · as many replicas as before"
        return Tile("Capacity RTO", f"{rto:.2f} s", note)
    if censored is None:
        return Tile("Capacity RTO", "–", "")
    note = f"{after:.1f} s after the heal" if after is not None else "nor after the heal"
    return Tile("Capacity RTO", f"> {censored:.1f} s", f"not during the fault; {note}")


def _lost(document: Mapping[str, Any]) -> Tile:
    if document["requests_total"] is None:
        return Tile("Requests lost", "–", "")
    cut = sentences.count(document["streams_cut"], "stream")
    slow = f"{document['requests_slow']:,} too late"
    note = f"of {document['requests_total']:,} · {slow} · {cut} cut"
    return Tile("Requests lost", f"{document['requests_lost']:,}", note)


def _detected(document: Mapping[str, Any]) -> Tile:
    value, error = document["time_to_detect_s"], document["time_to_detect_error_s"]
    if value is None and document["service_state"] is None:
        return Tile("Detected", "–", "")
    if value is None:
        return Tile("Detected", "never", "the gateway counted no server as down")
    return Tile("Detected", f"{value:.2f} s", f"± {error or 0:.2f} s · by the gateway")


def ends(injection: Mapping[str, Any]) -> list[tuple[bool | None, str]]:
    """How a fault went: whether it bit, lasted, and left nothing; None: not known."""
    ordered = False if injection.get("healed_early") else injection.get("ordered")
    found = (
        (injection.get("bit"), "effect seen", "no effect seen", "effect not looked for"),
        (ordered, "held until ordered to go", "healed early", "not ordered to go"),
        (injection.get("clean"), "hosts left clean", "not clean", "cleanness not known"),
    )
    return [(ok, {True: yes, False: no, None: unknown}[ok]) for ok, yes, no, unknown in found]


def lost_by_kind(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What became of the requests that were not served well."""
    if document["requests_total"] is None:
        return []
    kinds = sorted(document["failed_by_kind"].items(), key=lambda one: -one[1])
    told = [(str(kind), f"{count:,}") for kind, count in kinds]
    rest = document["requests_lost"] - sum(count for _, count in kinds)
    if rest > 0:
        told.append(("in flight at the firing, or never answered", f"{rest:,}"))
    told.append(("lost in all", f"{document['requests_lost']:,}"))
    told.append(("of them cut after their first token", f"{document['streams_cut']:,}"))
    told.append(("answered, but later than tolerated", f"{document['requests_slow']:,}"))
    return told


def steady_state(
    checks: Sequence[Mapping[str, Any]], effect: float | None
) -> list[tuple[str, str, str, str, str]]:
    """Rows of indicator, level, bound, its value before the fault and the last one after."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for one in checks:
        if not isinstance(one.get("value"), int | float) or "bound" not in one:
            continue
        row = rows.setdefault((str(one["indicator"]), str(one["level"])), {"bound": one["bound"]})
        later = effect is not None and one.get("end", 0.0) > effect
        row["after" if later else "before"] = one
    return [
        (INDICATOR_NAMES.get(indicator, indicator), level, _bound(indicator, row["bound"]),
         _seen(row.get("before")), _seen(row.get("after")))
        for (indicator, level), row in rows.items()
    ]  # fmt: skip


def _bound(indicator: str, bound: float) -> str:
    kind = INDICATORS.get(indicator)
    return f"{'≥' if kind and not kind.ceiling else '≤'} {bound:g}"


def _seen(check: Mapping[str, Any] | None) -> str:
    if check is None:
        return "not looked"
    return f"{check['value']:.4g} {'✓' if check.get('ok') else '✗'}"


def again(document: Mapping[str, Any]) -> str:
    """The command line that runs it again, from the folder it was run in; empty if unknown."""
    run = document["run"]
    if not run.get("command"):
        return ""
    given = [f"{name}={shlex.quote(str(v))}" for name, v in run.get("environment", {}).items()]
    return " ".join([*given, str(run["command"])])
