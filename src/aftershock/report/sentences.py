"""A verdict in sentences, from the content of verdict.json: for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# What the headline already says is not said again below it.
_IN_HEADLINE = ("rto_missed", "not_measured")


def summary(document: Mapping[str, Any]) -> list[str]:
    """The most important first: what decided, the recovery, its costs, how the faults ended."""
    decided = document["reasons"][:1]
    told = [headline(document)]
    if decided and decided[0]["code"] not in _IN_HEADLINE:
        lines = [*reasons(document), *told]
    else:
        lines = [*told, *reasons(document)]
    lines += [line for line in (costs(document), capacity(document)) if line]
    if document["injections"]:
        lines.append(how_they_ended(document["injections"]))
    if document["target"] == "lab":
        lines.append("on the lab: GPUs and Kubernetes are emulated")
    return lines


def headline(document: Mapping[str, Any]) -> str:
    """The service's recovery beside its objective."""
    objective = f"(objective {document['rto_objective_s']:g} s)"
    rto, error = document["service_rto_s"], document["service_rto_error_s"]
    if document["service_state"] is None:
        return f"no recovery was measured {objective}"
    if rto == 0:
        return f"the service never failed: RTO 0 s ± {error:.3f} {objective}"
    if rto is not None:
        return f"service back in {rto:.2f} s ± {error:.3f} {objective}"
    censored = document["service_rto_censored_s"]
    if censored is None:
        return f"service not seen to come back {objective}"
    return f"service not back within {censored:g} s {objective}"


def reasons(document: Mapping[str, Any]) -> list[str]:
    """Why it is no PASS, each once."""
    told = dict.fromkeys(r["text"] for r in document["reasons"] if r["code"] not in _IN_HEADLINE)
    return list(told)


def costs(document: Mapping[str, Any]) -> str:
    """Fail-back, what was lost, and when it was noticed."""
    parts = []
    if document["failback_rto_s"] is not None:
        parts.append(f"fail-back {document['failback_rto_s']:.1f} s")
    if document["requests_total"] is not None:
        total, lost = document["requests_total"], document["requests_lost"]
        parts.append(f"{lost:,} of {total:,} requests lost")
        parts.append(f"{count(document['streams_cut'], 'stream')} cut")
    if document["time_to_detect_s"] is not None:
        error = document["time_to_detect_error_s"] or 0.0
        parts.append(f"detected in {document['time_to_detect_s']:.1f} s ± {error:.1f}")
    return " · ".join(parts)


def capacity(document: Mapping[str, Any]) -> str:
    """Whether and when as many replicas were ready as before; empty where nobody looked."""
    if document["service_state"] is None:
        return ""
    if document["capacity_rto_s"] == 0:
        return "capacity: as many replicas ready as before all the time"
    if document["capacity_rto_s"] is not None:
        return f"capacity back in {document['capacity_rto_s']:.1f} s"
    if document["capacity_censored_s"] is None:
        return ""
    after = document["capacity_after_heal_s"]
    later = f"back {after:.1f} s after the heal" if after is not None else "nor after the heal"
    return (
        f"capacity: not while the fault was active (> {document['capacity_censored_s']:.0f} s), "
        f"{later}"
    )


def how_they_ended(injections: Sequence[Mapping[str, Any]]) -> str:
    """Whether every fault lasted until it was ordered to go, and left nothing."""
    names = " and ".join(
        filter(None, [", ".join(i["fault"] for i in injections[:-1]), injections[-1]["fault"]])
    )
    if all(i.get("ordered") and i.get("clean") for i in injections):
        return f"{names}: held until ordered to go, hosts left clean"
    well = sum(bool(i.get("ordered") and i.get("clean")) for i in injections)
    return f"{well} of {count(len(injections), 'fault')} held until ordered to go and left no trace"


def count(number: int, what: str) -> str:
    """`1 stream`, `2 streams`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
