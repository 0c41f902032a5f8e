"""Does a figure creep up over hours? Its trend with a confidence interval, and what that decides.

Theil and Sen's slope (the median of the slopes between all pairs of points) with Sen's interval
from Kendall's variance: it asks nothing of the noise's distribution, and a few outliers move it
little. Neighbouring points that resemble each other tell less than as many independent ones, so the
variance is widened by (1 + r)/(1 - r), r being the correlation of the detrended points with their
neighbours (Hamed & Rao 1998 in its simplest form, and never narrowed). Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import inf, sqrt
from statistics import NormalDist, fmean, median
from typing import Any

LEAST_POINTS = 20
_MOST_POINTS = 400  # more are averaged in groups: pairs grow with their square
_MOST_CORRELATED = 0.95
NONE, DRIFT, UNSURE = "none", "drift", "unsure"
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Trend:
    """Percent of its median that a figure rises in an hour, with its interval."""

    name: str
    points: int
    hours: float
    level: float
    percent_per_h: float
    low: float
    high: float
    confidence: float

    def word(self, most_percent_per_h: float) -> str:
        """`drift`: it surely rises by more than that; `none`: surely not; else `unsure`."""
        if self.low > most_percent_per_h:
            return DRIFT
        return NONE if self.high <= most_percent_per_h else UNSURE

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            key: float(f"{value:.6g}") if isinstance(value, float) else value
            for key, value in asdict(self).items()
        }


def trend(name: str, points: Points, confidence: float = 0.95) -> Trend | None:
    """The trend of (seconds, value) points; None where they are too few, or around 0."""
    held = _grouped(sorted(points))
    level = median(value for _, value in held) if held else 0.0
    if len(held) < LEAST_POINTS or level <= 0 or held[-1][0] <= held[0][0]:
        return None
    slopes = sorted(
        (v - u) / (t - s) for i, (s, u) in enumerate(held) for t, v in held[i + 1 :] if t > s
    )
    middle = median(slopes)
    low, high = _interval(slopes, len(held), _inflation(held, middle), confidence)
    # Over the whole of it, it rose by no more than its points are apart.
    lasted, values = held[-1][0] - held[0][0], [value for _, value in held]
    most = max((max(values) - min(values)) / lasted, abs(middle))
    low, high = max(low, -most), min(high, most)
    scale = 100 * 3600 / level
    return Trend(
        name, len(held), lasted / 3600, level, middle * scale, low * scale, high * scale, confidence
    )


def _grouped(points: Points) -> list[tuple[float, float]]:
    size = -(-len(points) // _MOST_POINTS) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(fmean(at for at, _ in g), fmean(value for _, value in g)) for g in groups]


def _interval(
    slopes: Sequence[float], count: int, inflation: float, confidence: float
) -> tuple[float, float]:
    """Sen's: so many slopes from each end of their order."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    reach = z * sqrt(count * (count - 1) * (2 * count + 5) / 18 * inflation)
    below = int((len(slopes) - reach) / 2)  # rounded outwards
    if reach >= len(slopes) or below < 1:
        return -inf, inf
    return slopes[below - 1], slopes[len(slopes) - below]


def _inflation(points: Points, slope: float) -> float:
    """How many times the variance is that of independent points."""
    left = [value - slope * at for at, value in points]
    mean = fmean(left)
    spread = fmean((value - mean) ** 2 for value in left)
    if spread <= 0:
        return 1.0
    found = fmean((a - mean) * (b - mean) for a, b in pairwise(left)) / spread
    # Taken from few points, whose trend was removed, it comes out too low.
    found = min(found + (1 + 4 * found) / len(points), _MOST_CORRELATED)
    return (1 + found) / (1 - found) if found > 0 else 1.0


def trends(series: dict[str, Points], confidence: float = 0.95) -> list[Trend]:
    """Of several figures: together, so seldom is any interval wrong (Bonferroni)."""
    each = 1 - (1 - confidence) / max(len(series), 1)
    found = [trend(name, points, each) for name, points in series.items()]
    return [one for one in found if one is not None]
