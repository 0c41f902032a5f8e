"""A verdict in sentences, from the content of verdict.json: for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aftershock.report import cliff, soak, stages
from aftershock.slo.realness import LEVELS

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
    lines += cliff.sentences(document.get("cliff") or {})
    lines += soak.sentences(document.get("soak") or {})
    lines += [line for line in (costs(document), goodput(document), quality(document)) if line]
    lines += [line for line in (capacity(document),) if line]
    lines += stages.lines(document["replacements"])
    if document["injections"]:
        lines += [how_they_ended(document["injections"]), *left_out(document["injections"])]
    if level := document.get("gpu_level"):
        lines.append(f"GPUs: {level} level, {LEVELS[level]}")
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
        how = "was back at once" if document.get("cliff") else "never failed"
        return f"the service {how}: RTO 0 s ± {error:.3f} {objective}"
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
        unseen = ", ".join(document.get("failback_unseen") or ())
        alone = f" by golden levels alone: nobody tells {unseen}'s share" if unseen else ""
        parts.append(f"fail-back {document['failback_rto_s']:.1f} s{alone}")
    if document["requests_total"] is not None:
        total, lost = document["requests_total"], document["requests_lost"]
        parts.append(f"{lost:,} of {total:,} requests lost")
        parts.append(f"{count(document['streams_cut'], 'stream')} cut")
    if document["time_to_detect_s"] is not None:
        error = document["time_to_detect_error_s"] or 0.0
        parts.append(f"detected in {document['time_to_detect_s']:.1f} s ± {error:.1f}")
    return " · ".join(parts)


def goodput(document: Mapping[str, Any]) -> str:
    """The share of requests that met every limit, before, during and after the fault."""
    told = document.get("goodput") or {}
    parts = [
        f"{100 * told[phase]['share']:.1f} % {phase}"
        for phase in ("before", "during", "after")
        if (told.get(phase) or {}).get("share") is not None
    ]
    return f"goodput {', '.join(parts)} ({limits(told['limits'])})" if parts else ""


def quality(document: Mapping[str, Any]) -> str:
    """How many of the golden answers were bad, phase by phase."""
    told = document.get("quality") or {}
    parts = [
        f"{told[phase]['bad']} of {told[phase]['answers']} {phase}"
        for phase in ("during", "after")
        if told and told[phase]["answers"]
    ]
    before = told["before"]["answers"] if told else 0
    return f"bad answers {', '.join(parts)} (compared with {before} before)" if parts else ""


def limits(told: Mapping[str, float]) -> str:
    """`TTFT 250 ms, E2E 500 ms`."""
    names = {key: key.removesuffix("_ms").upper() for key in told}
    return ", ".join(f"{names[key]} {value:g} ms" for key, value in told.items())


def capacity(document: Mapping[str, Any]) -> str:
    """Whether and when as many replicas were ready as before; empty where nobody looked."""
    if document["service_state"] is None:
        return ""
    if document["capacity_rto_s"] == 0:
        return "capacity: as many replicas ready as before all the time"
    if document["capacity_rto_s"] is not None:
        error = document["capacity_error_s"] or 0.0
        return f"capacity back in {document['capacity_rto_s']:.2f} s ± {error:.2f}{_over(document)}"
    if document["capacity_censored_s"] is None:
        return ""
    after = document["capacity_after_heal_s"]
    later = f"back {after:.1f} s after the heal" if after is not None else "nor after the heal"
    return (
        f"capacity: not while the fault was active (> {document['capacity_censored_s']:.0f} s), "
        f"{later}"
    )


def _over(document: Mapping[str, Any]) -> str:
    objective = document["capacity_objective_s"]
    return f" (objective {objective:g} s)" if objective else ""


def how_they_ended(injections: Sequence[Mapping[str, Any]]) -> str:
    """Whether every fault lasted until it was ordered to go, and left nothing."""
    names = " and ".join(
        filter(None, [", ".join(i["fault"] for i in injections[:-1]), injections[-1]["fault"]])
    )
    if all(i.get("momentary") for i in injections):
        return f"{names}: over at once, with nothing to heal"
    if all(i.get("ordered") and i.get("clean") for i in injections):
        return f"{names}: held until ordered to go, hosts left clean"
    well = sum(bool(i.get("ordered") and i.get("clean")) for i in injections)
    return f"{well} of {count(len(injections), 'fault')} held until ordered to go and left no trace"


def left_out(injections: Sequence[Mapping[str, Any]]) -> list[str]:
    """Hosts that a fault went on without (`at_least`), and those that joined and escaped it."""
    return [
        f"{injection['fault']} went on without {host}: {why}"
        for injection in injections
        for host, why in (injection.get("failed_hosts") or {}).items()
    ] + [
        f"{host} joined what is lost, and was not cut off: {why}"
        for injection in injections
        for host, why in (injection.get("escaped") or {}).items()
    ]


def count(number: int, what: str) -> str:
    """`1 stream`, `2 streams`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
