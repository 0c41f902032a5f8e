"""vLLM's own metrics: percentiles from buckets, summed over replicas, between two looks; pure.

Sums of buckets have percentiles; means of percentiles mean nothing. A request that hangs adds no
sample, so a server's own percentiles get better in an outage: clients decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aftershock.errors import InvalidInput, Unsupported
from aftershock.slo.objectives import NoMeasurement

# What is asked → its names, today's first.
HISTOGRAMS: Mapping[str, tuple[str, ...]] = {
    "ttft": ("vllm:time_to_first_token_seconds",),
    "itl": ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
    "e2e": ("vllm:e2e_request_latency_seconds",),
}
NUMBERS: Mapping[str, tuple[str, ...]] = {
    "running": ("vllm:num_requests_running",),
    "waiting": ("vllm:num_requests_waiting",),
    "kv_cache_usage": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    "preemptions": ("vllm:num_preemptions_total", "vllm:num_preemptions"),
}
Buckets = dict[float, float]  # upper end in seconds → how many up to it


@dataclass(frozen=True, slots=True)
class Page:
    """One replica's metrics: sums over its engines, but of the cache's usage the fullest."""

    numbers: Mapping[str, float]
    buckets: Mapping[str, Buckets] = field(default_factory=dict)

    def number(self, what: str) -> float:
        """A gauge or a counter of `NUMBERS`."""
        for name in NUMBERS[what]:
            if name in self.numbers:
                return self.numbers[name]
        raise Unsupported(f"no {' or '.join(NUMBERS[what])} on the engine's page of metrics")

    def histogram(self, what: str) -> Buckets:
        """A histogram of `HISTOGRAMS`, its counts up to each edge."""
        if what not in HISTOGRAMS:
            raise InvalidInput(f"{what!r}: one of {', '.join(HISTOGRAMS)}")
        for name in HISTOGRAMS[what]:
            if name in self.buckets:
                return self.buckets[name]
        raise Unsupported(f"no {' or '.join(HISTOGRAMS[what])} on the engine's page of metrics")


def parse(text: str) -> Page:
    """A page of Prometheus text."""
    from prometheus_client.parser import text_string_to_metric_families

    fullest = set(NUMBERS["kv_cache_usage"])
    numbers: dict[str, float] = {}
    buckets: dict[str, Buckets] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name
            if name.endswith("_bucket") and "le" in sample.labels:
                held = buckets.setdefault(name.removesuffix("_bucket"), {})
                edge = float(sample.labels["le"])
                held[edge] = held.get(edge, 0.0) + sample.value
            elif name in fullest:
                numbers[name] = max(numbers.get(name, 0.0), sample.value)
            else:
                numbers[name] = numbers.get(name, 0.0) + sample.value
    return Page(numbers, buckets)


def increase(what: str, before: Mapping[str, Page], after: Mapping[str, Page]) -> Buckets:
    """What was added to a histogram between two looks, over all replicas.

    One that restarted counts from 0; one that is gone counts no more.
    """
    total: Buckets = {}
    for replica, page in after.items():
        now = page.histogram(what)
        was = before[replica].histogram(what) if replica in before else {}
        if any(now.get(edge, 0.0) < count for edge, count in was.items()):
            was = {}
        if total and total.keys() != now.keys():
            raise Unsupported(f"{what}: replicas have other buckets than each other: same version?")
        for edge, count in now.items():
            total[edge] = total.get(edge, 0.0) + count - was.get(edge, 0.0)
    if not total or max(total.values()) <= 0:
        raise NoMeasurement(f"{what}: no request was measured in this window, by any replica")
    return dict(sorted(total.items()))


def percentile_s(buckets: Buckets, percent: float) -> float:
    """As Prometheus' histogram_quantile: straight between a bucket's edges, in seconds."""
    if not 0 < percent < 100:
        raise InvalidInput(f"percent {percent:g}: between 0 and 100")
    rank, below, low = percent / 100 * max(buckets.values()), 0.0, 0.0
    for edge, count in buckets.items():
        if count >= rank:
            if math.isinf(edge):
                raise NoMeasurement(
                    f"the {percent:g}th percentile is beyond {low:g} s, the last edge"
                )
            return low + (edge - low) * (rank - below) / (count - below)
        below, low = count, edge
    raise NoMeasurement("a histogram without +Inf")


def share_within(buckets: Buckets, threshold_s: float) -> float:
    """The share of samples up to a threshold, which must be an edge: between edges nobody knows."""
    for edge, count in buckets.items():
        if math.isclose(edge, threshold_s):
            return count / max(buckets.values())
    edges = ", ".join(f"{edge:g}" for edge in buckets if not math.isinf(edge))
    raise InvalidInput(f"threshold_s {threshold_s:g} is on no edge: {edges}")


def total(what: str, pages: Iterable[Page]) -> float:
    """A number of `NUMBERS`, over all replicas."""
    return sum(page.number(what) for page in pages)
