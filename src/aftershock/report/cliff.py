"""Where a service broke as its load was stepped up, in sentences and in rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aftershock.slo.cliff import FULL

HEADS = ("Requests/s", "Good/s", "P50, ms", "P99, ms", "Errors", "In use")


def sentences(told: Mapping[str, Any]) -> list[str]:
    """The cliff in words, from `Cliff.as_dict`."""
    if not told:
        return []
    capacity = (
        f"{told['capacity_rps']:.0f} ± {told['capacity_error_rps']:.0f} good answers/s at best"
    )
    if told["knee_rps"]:
        low, high = told["knee_rps"]
        lines = [f"knee between {low:g} and {high:g} requests/s ({told['knee_why']}); {capacity}"]
    else:
        most = max((step["rate_rps"] for step in told["steps"]), default=0.0)
        lines = [f"no knee up to {most:g} requests/s; {capacity}"]
    if told["collapse_rps"] is not None:
        lines.append(
            f"collapse at {told['collapse_rps']:g} requests/s: fewer good answers than before"
        )
    if told["knee_rps"]:
        full = ", ".join(told["saturated"]) or "nothing that could be seen"
        unseen = f" (not seen: {', '.join(told['not_seen'])})" if told["not_seen"] else ""
        lines.append(f"full by then: {full}{unseen}")
    for rate in told["shedding_rps"]:
        lines.append(
            f"at {rate:g} requests/s P99 fell while errors rose: load was shed, not served"
        )
    if told["generator_ended_rps"] is not None:
        lines.append(f"the load generator could not keep up with {told['generator_ended_rps']:g}/s")
    return lines


def rows(told: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each step of the load."""
    for step in told.get("steps") or ():
        yield (
            f"{step['rate_rps']:g}",
            f"{step['good_rps']:.1f}",
            _ms(step["p50_ms"]),
            _ms(step["p99_ms"]),
            f"{100 * step['error_rate']:.1f} %",
            ", ".join(_used(*one) for one in step["use"].items()) or "–",
        )


def _used(name: str, value: float) -> str:
    """`GPU 56 %`, `queue 4`."""
    what = FULL[name][1] if name in FULL else name
    return f"{what} {value:.0f}{' %' if name.endswith('_percent') else ''}"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"
