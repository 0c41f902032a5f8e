"""Where a service breaks as its load is stepped up: the knee, the collapse, and what was full then.

The knee is where the latency leaves the golden level, or what is served well no longer follows what
is offered; the collapse where the rate of good answers falls while more is offered. It lies between
the last step that held and the first that did not. A step whose latency fell while more of it
failed sheds load: that is no improvement, and is told as such. Pure functions over steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from math import sqrt
from typing import Any

FOLLOWS = 0.95  # of what is offered, served well: throughput follows
_FALLS = 0.9  # of the best rate of good answers: less has collapsed
_SHEDS_P99, _SHEDS_ERRORS = 0.95, 0.02  # P99 at most so much of the step before, errors so much up
_Z = 1.96
# From where on a resource counts as full. Restarts and drops are none where all is well.
FULL: Mapping[str, tuple[float, str]] = {
    "gpu_percent": (90.0, "GPU"),
    "kv_cache_percent": (90.0, "KV cache"),
    "waiting_requests": (1.0, "queue"),
    "cpu_percent": (90.0, "CPU"),
    "network_drops_percent": (1.0, "network drops"),
    "restarts_per_minute": (1.0, "restarts"),
}


@dataclass(frozen=True, slots=True)
class Step:
    """One rate, held for `seconds`. `good`: requests within all of goodput's limits; `errors`: what
    failed or had no answer in time, `failed`: the former. `p99_ms` counts the latter, too.

    `use`: what of FULL's resources was in use, as far as it could be seen.
    """

    rate_rps: float
    seconds: float
    requests: int
    good: int
    errors: int
    failed: int
    p50_ms: float | None
    p99_ms: float | None
    lag_p99_ms: float | None = None
    use: Mapping[str, float] = field(default_factory=dict)

    @property
    def offered_rps(self) -> float:
        """Requests a second that were due."""
        return self.requests / self.seconds

    @property
    def good_rps(self) -> float:
        """Good answers a second."""
        return self.good / self.seconds

    @property
    def good_share(self) -> float:
        """Of what was due, what was good."""
        return self.good / self.requests if self.requests else 0.0

    @property
    def failed_share(self) -> float:
        """Of what was due, what came back as a failure."""
        return self.failed / self.requests if self.requests else 0.0

    @property
    def error_rate(self) -> float:
        """Of what was due, what failed or had no answer in time."""
        return self.errors / self.requests if self.requests else 0.0

    def holds(self, golden_ms: float) -> bool:
        """Whether the latency is golden, and throughput follows within what chance explains."""
        spread = _Z * sqrt(FOLLOWS * (1 - FOLLOWS) / self.requests) if self.requests else 0.0
        in_time = self.p99_ms is not None and self.p99_ms <= golden_ms
        return in_time and self.good_share >= FOLLOWS - spread

    def full(self) -> list[str]:
        """What was full, by name."""
        return [name for key, (edge, name) in FULL.items() if self.use.get(key, -1.0) >= edge]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        told = {key: value for key, value in asdict(self).items() if key != "use"}
        rates = {"offered_rps": round(self.offered_rps, 2), "good_rps": round(self.good_rps, 2)}
        return {**told, **rates, "error_rate": round(self.error_rate, 4), "use": dict(self.use)}


@dataclass(frozen=True, slots=True)
class Cliff:
    """What was found. Rates are requests a second; `knee_rps`: from the step that held to the one
    that did not. `capacity_rps`: the best rate of good answers, with its 95 % interval.
    """

    steps: tuple[Step, ...]
    knee_rps: tuple[float, float] | None
    knee_why: str
    collapse_rps: float | None
    capacity_rps: float
    capacity_error_rps: float
    saturated: tuple[str, ...]
    shedding_rps: tuple[float, ...]
    generator_ended_rps: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for verdict.json."""
        plain = {key: value for key, value in asdict(self).items() if key != "steps"}
        unseen = [
            name for key, (_, name) in FULL.items() if not any(key in s.use for s in self.steps)
        ]
        return {**plain, "not_seen": unseen, "steps": [step.as_dict() for step in self.steps]}


def find(steps: Sequence[Step], golden_ms: float, lag_allowed_ms: float) -> Cliff:
    """Knee, collapse and capacity. Steps that the generator could not keep up with tell nothing."""
    late = [s for s in steps if s.lag_p99_ms is not None and s.lag_p99_ms > lag_allowed_ms]
    ended = min((step.rate_rps for step in late), default=None)
    sound = [step for step in steps if ended is None or step.rate_rps < ended]
    if not sound:
        return Cliff(tuple(steps), None, "", None, 0.0, 0.0, (), (), ended)
    best = max(sound, key=lambda step: step.good_rps)
    broken = next((step for step in sound if not step.holds(golden_ms)), None)
    after = [s for s in sound if s.rate_rps > best.rate_rps and s.good_rps < _FALLS * best.good_rps]
    collapse = after[0] if after else None
    held = [s.rate_rps for s in sound if broken is None or s.rate_rps < broken.rate_rps]
    full = dict.fromkeys(name for step in (broken, collapse) if step for name in step.full())
    return Cliff(
        tuple(steps),
        (max(held, default=0.0), broken.rate_rps) if broken else None,
        _why(broken, golden_ms) if broken else "",
        collapse.rate_rps if collapse else None,
        round(best.good_rps, 2),
        round(_Z * sqrt(best.good) / best.seconds, 2),
        tuple(full),
        tuple(later.rate_rps for earlier, later in pairwise(sound) if sheds(earlier, later)),
        ended,
    )


def _why(step: Step, golden_ms: float) -> str:
    if step.p99_ms is None:
        return "nothing was answered"
    if step.p99_ms > golden_ms:
        return f"P99 {step.p99_ms:.0f} ms, {golden_ms:g} is golden"
    return f"{100 * step.good_share:.0f} % of the requests were served well"


def sheds(earlier: Step, later: Step) -> bool:
    """P99 fell while errors rose: who is turned away has no latency."""
    if earlier.p99_ms is None or later.p99_ms is None:
        return False
    fell = later.p99_ms <= _SHEDS_P99 * earlier.p99_ms
    return fell and later.failed_share >= earlier.failed_share + _SHEDS_ERRORS
