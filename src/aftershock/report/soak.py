"""What a soak found, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aftershock.slo.enduring import trend_said


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
    lines += [trend_said(one) for one in drift if one["word"] != "none"]
    if still := [one for one in drift if one["word"] == "none"]:
        highest = max(float(one["high"]) for one in still)
        lines.append(f"no drift in {len(still)} figures: {highest:+.2g} % an hour at most")
    return lines
