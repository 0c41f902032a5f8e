"""The recovery time on a scale against its objective, with its error; it needs no script."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from aftershock.report.sentences import headline

_ROUND = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)


def scale(document: Mapping[str, Any]) -> str:
    """The figure as HTML; empty where no recovery was measured."""
    objective = float(document["rto_objective_s"])
    rto, error = document["service_rto_s"], document["service_rto_error_s"] or 0.0
    censored = document["service_rto_censored_s"]
    if rto is None and censored is None:
        return ""
    end = round_up(1.15 * max(objective, (rto or 0.0) + error, censored or 0.0))
    share = _percent(objective, end)
    kind = "good" if rto is not None and rto + error <= objective else "bad"
    if rto is None:
        begin, width, said = _percent(censored, end), 0.0, f"> {censored:g} s"
    else:
        begin = _percent(max(rto - error, 0.0), end)
        width, said = _percent(rto + error, end) - begin, f"{rto:.2f} s ± {error:.3f}"
    at = _percent(rto if rto is not None else censored, end)
    # A label hangs on the side that has room.
    side = "left" if at < 50 else "right"
    place = f"left:{at:.2f}%" if side == "left" else f"right:{100 - at:.2f}%"
    ticks = "".join(
        f'<span class="tick" style="left:{_percent(tick, end):.2f}%">{tick:g}</span>'
        for tick in (0.0, end / 2, end)
    )
    return (
        f'<div class="scale {kind}" role="img" aria-label="{escape(headline(document))}">'
        f'<div class="track"><span class="allowed" style="width:{share:.2f}%"></span>'
        f'<span class="error" style="left:{begin:.2f}%;width:{width:.2f}%"></span>'
        f'<span class="point" style="left:{at:.2f}%"></span>'
        f'<span class="goal" style="left:{share:.2f}%"></span></div>'
        f'<div class="says"><b style="{place}">{escape(said)}</b></div>'
        f'<div class="below">{ticks}'
        f'<span class="goal" style="left:{share:.2f}%">objective {objective:g} s</span></div></div>'
    )


def round_up(value: float) -> float:
    """The next round number: where a scale ends."""
    if value <= 0:
        return 1.0
    size = 10.0 ** math.floor(math.log10(value))
    return float(next(n * size for n in (*_ROUND, 20) if n * size >= value))


def _percent(value: float, end: float) -> float:
    return 100 * min(value / end, 1.0)
