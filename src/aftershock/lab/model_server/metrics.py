"""Prometheus text in vLLM's names."""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

_STARTED = time.time()

TTFT_EDGES = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
ITL_EDGES = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0),
)
E2E_EDGES = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)


@dataclass(slots=True)
class Histogram:
    """A Prometheus histogram; `edges` are the buckets' upper ends."""

    name: str
    about: str
    edges: tuple[float, ...]
    total: float = 0.0
    counts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.edges) + 1)

    def observe(self, value: float, times: int = 1) -> None:
        """Note a value, `times` over."""
        self.counts[bisect_left(self.edges, value)] += times
        self.total += value * times

    def lines(self, labels: str) -> list[str]:
        """The exposition."""
        lines = [f"# HELP {self.name} {self.about}", f"# TYPE {self.name} histogram"]
        seen = 0
        for edge, count in zip((*self.edges, "+Inf"), self.counts, strict=True):
            seen += count
            lines.append(f'{self.name}_bucket{{{labels},le="{edge}"}} {seen}')
        lines.append(f"{self.name}_count{{{labels}}} {seen}")
        return [*lines, f"{self.name}_sum{{{labels}}} {self.total}"]


@dataclass(slots=True)
class Metrics:
    """What one engine counts."""

    model: str
    ttft: Histogram = field(
        default_factory=lambda: Histogram(
            "vllm:time_to_first_token_seconds", "Time to first token.", TTFT_EDGES
        )
    )
    itl: Histogram = field(
        default_factory=lambda: Histogram(
            "vllm:inter_token_latency_seconds", "Time between tokens.", ITL_EDGES
        )
    )
    e2e: Histogram = field(
        default_factory=lambda: Histogram(
            "vllm:e2e_request_latency_seconds", "Arrival to last token.", E2E_EDGES
        )
    )
    prompt_tokens: int = 0
    generated_tokens: int = 0
    paged_in_tokens: int = 0
    finished: Counter[str] = field(default_factory=Counter)

    def text(self, running: int, waiting: int, kv_usage: float, preemptions: int) -> str:
        """The whole page; the gauges are the engine's present state."""
        labels = f'engine="0",model_name="{self.model}"'
        lines: list[str] = []
        for kind, name, value in (
            ("gauge", "vllm:num_requests_running", running),
            ("gauge", "vllm:num_requests_waiting", waiting),
            ("gauge", "vllm:kv_cache_usage_perc", kv_usage),
            ("counter", "vllm:num_preemptions_total", preemptions),
            ("counter", "vllm:prompt_tokens_total", self.prompt_tokens),
            ("counter", "vllm:generation_tokens_total", self.generated_tokens),
            ("counter", "aftershock:kv_paged_in_tokens_total", self.paged_in_tokens),
        ):
            family = name.removesuffix("_total") if kind == "counter" else name
            lines += [f"# TYPE {family} {kind}", f"{name}{{{labels}}} {value}"]
        lines.append("# TYPE vllm:request_success counter")
        for reason in ("stop", "length", "abort"):
            ended = f'{labels},finished_reason="{reason}"'
            lines.append(f"vllm:request_success_total{{{ended}}} {self.finished[reason]}")
        lines += _of_process()
        for histogram in (self.ttft, self.itl, self.e2e):
            lines += histogram.lines(labels)
        return "\n".join(lines) + "\n"


def _of_process() -> list[str]:
    """Memory and birth of this process, as Prometheus' client libraries name them."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    told = {
        "process_resident_memory_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        "process_start_time_seconds": _STARTED,
    }
    return [line for k, v in told.items() for line in (f"# TYPE {k} gauge", f"{k} {v}")]
