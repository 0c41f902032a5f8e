"""Does a figure creep up over hours? Its trend with a confidence interval, and what that decides.

Theil and Sen's slope (the median of the slopes between all pairs of points) with Sen's interval
from Kendall's variance: it asks nothing of the noise's distribution, and a few outliers move it
little. Neighbouring points that resemble each other tell less than as many independent ones, so the
variance is widened by (1 + r)/(1 - r), r being the correlation of the detrended points with their
neighbours (Hamed & Rao 1998 in its simplest form, and never narrowed).

What fills (a cache, an allocator's arenas) rises ever more slowly, what leaks goes on: so the later
half of the points has a trend of its own. Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import inf, sqrt
from statistics import NormalDist, fmean, median
from typing import Any

LEAST_POINTS = 40  # 20 in the later half
_MOST_POINTS = 400  # more are averaged in groups: pairs grow with their square
_MOST_CORRELATED = 0.95
NONE, SETTLED, DRIFT, UNSURE = "none", "settled", "drift", "unsure"
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Rise:
    """Percent of its median that a figure rises in an hour, with its interval."""

    percent_per_h: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Trend(Rise):
    """How a figure moved over all of its points, and over the later half of them."""

    later: Rise
    name: str
    points: int
    hours: float
    level: float
    confidence: float

    def word(self, most_percent_per_h: float) -> str:
        """What is known of a rise by more than that.

        `none`: it surely isn't. `drift`: it surely is, and likely still is in the later half, or
        surely there. `settled`: it may have been, but surely isn't any more. Else `unsure`.
        """
        most, later = most_percent_per_h, self.later
        if later.low > most or (self.low > most and later.percent_per_h > most):
            return DRIFT
        if self.high <= most:
            return NONE
        return SETTLED if later.high <= most else UNSURE

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return _short(asdict(self))


def _short(told: dict[str, Any]) -> dict[str, Any]:
    short = {k: float(f"{v:.6g}") for k, v in told.items() if isinstance(v, float)}
    return told | short | {k: _short(v) for k, v in told.items() if isinstance(v, dict)}


def trend(name: str, points: Points, confidence: float = 0.95) -> Trend | None:
    """The trend of (seconds, value) points; None where they are too few, or around 0.

    Each of its two intervals is right with `confidence`.
    """
    held = _grouped(sorted(points))
    level = median(value for _, value in held) if held else 0.0
    later = held[len(held) // 2 :]
    if len(held) < LEAST_POINTS or level <= 0 or later[-1][0] <= later[0][0]:
        return None
    scale = 100 * 3600 / level
    return Trend(
        *_rise(held, scale, confidence),
        later=Rise(*_rise(later, scale, confidence)),
        name=name,
        points=len(held),
        hours=(held[-1][0] - held[0][0]) / 3600,
        level=level,
        confidence=confidence,
    )


def _rise(held: Points, scale: float, confidence: float) -> tuple[float, float, float]:
    slopes = sorted(
        (v - u) / (t - s) for i, (s, u) in enumerate(held) for t, v in held[i + 1 :] if t > s
    )
    middle = median(slopes)
    low, high = _interval(slopes, len(held), _inflation(held, middle), confidence)
    # Over the whole of it, it rose by no more than its points are apart.
    lasted, values = held[-1][0] - held[0][0], [value for _, value in held]
    most = max((max(values) - min(values)) / lasted, abs(middle))
    return middle * scale, max(low, -most) * scale, min(high, most) * scale


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


def trends(series: Mapping[str, Points], confidence: float = 0.95) -> list[Trend]:
    """Of several figures: together, so seldom is any interval wrong (Bonferroni)."""
    each = 1 - (1 - confidence) / max(2 * len(series), 1)
    found = [trend(name, points, each) for name, points in series.items()]
    return [one for one in found if one is not None]
