"""Which resource a load generator that was off its schedule ran out of, by what it measured.

Pure functions over its workers' reports (`load.own_use`): the worst worker counts, since one that
is late makes the whole late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Report = Mapping[str, Any]
# From where on a resource counts as run out, as a share of the time in which a worker was late.
_OWN_CPU, _QUEUED, _STOLEN, _STILL = 0.8, 0.1, 0.1, 0.1
_RESENT = 0.01  # of the segments that were sent
_REFUSED = {
    "descriptors": "file descriptors (it may have {descriptors_limit:.0f}): raise `ulimit -n`",
    "ports": "local ports: widen net.ipv4.ip_local_port_range",
    "buffers": "socket buffers",
    "memory": "memory",
}


def ran_out(reports: Iterable[Report], max_in_flight: int = 0) -> list[dict[str, Any]]:
    """What ran out: {resource, share, text}, the most certain first; empty: nothing was seen to.

    `share`: of the time in which the generator was late, of the segments it sent, or of the
    requests that were due.
    """
    told = list(reports)
    late = [report for report in told if report.get("late_wall_s")]
    found = [*_refused(told, max_in_flight)]
    for resource, share_of, edge, text in _SHARES:
        share, report = max(((share_of(r), r) for r in late), key=_first, default=(0.0, {}))
        if share >= edge:
            said = text.format(percent=100 * share, busy=100 * _busy(report))
            found.append({"resource": resource, "share": round(share, 3), "text": said})
    return found


def _first(pair: tuple[float, Report]) -> float:
    return pair[0]


def _refused(told: list[Report], max_in_flight: int) -> Iterable[dict[str, Any]]:
    """Requests that could not be sent at all."""
    due = sum(report.get("due", 0) for report in told)
    unsent = sum(report.get("not_sent", 0) for report in told)
    for resource, text in _REFUSED.items():
        count = sum(report.get(f"out_of_{resource}", 0) for report in told)
        unsent -= count
        if count:
            limits = {"descriptors_limit": max(r.get("descriptors_limit", 0) for r in told)}
            said = f"it ran out of {text.format(**limits)}"
            yield {"resource": resource, "share": round(count / max(due, count), 3), "text": said}
    if unsent > 0:
        said = f"{max_in_flight} requests a worker were waiting for answers, which is its most"
        share = round(unsent / max(due, unsent), 3)
        yield {"resource": "requests_in_flight", "share": share, "text": said}


def _of_late(name: str) -> Callable[[Report], float]:
    return lambda report: float(report.get(f"late_{name}", 0.0) / report["late_wall_s"])


def _busy(report: Report) -> float:
    return float(report.get("late_busy_s", 0.0) / (report.get("late_all_s") or 1.0))


def _stolen(report: Report) -> float:
    return float(report.get("late_stolen_s", 0.0) / (report.get("late_all_s") or 1.0))


def _resent(report: Report) -> float:
    sent = report.get("late_segments") or 1
    return float((report.get("late_retransmitted", 0) + report.get("late_dropped", 0)) / sent)


_SHARES: tuple[tuple[str, Callable[[Report], float], float, str], ...] = (
    (
        "worker_cpu",
        _of_late("ran_s"),
        _OWN_CPU,
        "a worker used {percent:.0f} % of its processor: give it more load_processes",
    ),
    (
        "machine_cpu",
        _of_late("queued_s"),
        _QUEUED,
        "a worker waited for a processor {percent:.0f} % of the time, and this machine's were "
        "{busy:.0f} % busy: let less run beside it",
    ),
    (
        "stolen_cpu",
        _stolen,
        _STOLEN,
        "its hypervisor took {percent:.0f} % of the machine's processors",
    ),
    (
        "event_loop",
        _of_late("stood_still_s"),
        _STILL,
        "a worker stood still {percent:.0f} % of the time without using or wanting a processor: "
        "it was stopped, or blocked (swap, disk)",
    ),
    (
        "network",
        _resent,
        _RESENT,
        "{percent:.1f} % of what was sent was dropped here or had to be sent again",
    ),
)
