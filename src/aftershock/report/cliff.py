"""Where a service broke as its load was stepped up, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
