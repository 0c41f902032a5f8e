"""The timeline of a run: samples, slots, gauges and marks on one clock (CLOCK_MONOTONIC, seconds).

It is fed with messages, plain dictionaries that are appended to a file as they come, so that a
killed run leaves its timeline behind and loading is feeding again. What the generators send is
documented at `Timeline.feed`. All methods may be called from any thread.
"""

from __future__ import annotations

import json
import threading
import time
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil, floor, inf
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from aftershock.errors import InvalidInput
from aftershock.slo import folding
from aftershock.slo.changepoint import Outcomes
from aftershock.slo.increments import combined
from aftershock.slo.slots import HISTOGRAMS, SLOT_S, TICK_S, Slot, merged, percentile_ms

SCHEMA = 1
LOAD = "load"
FOR_EVER = 1e12  # `decided` of a worker that nothing more will come from
HELD_S = 1.0  # the most that a killed run's file lacks of its load
_MOST_CACHED = 1000  # windows


@dataclass(frozen=True, slots=True)
class Window:
    """What was scheduled in [start, end). Latencies count from the scheduled time.

    `error_rate`, `served_share` and latencies are the load's where there is load, else the health
    sentinel's. `per_source` has (requests, bad) of each. None: nothing to tell it from.
    """

    start: float
    end: float
    requests: int
    errors: int
    good: int
    cut: int
    p50_e2e_ms: float | None
    p99_e2e_ms: float | None
    p99_ttft_ms: float | None
    per_source: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    met: int | None = None  # of the load's: within all of goodput's limits

    @property
    def goodput_share(self) -> float | None:
        """Of all that was due, what met the limits: failures and drops did not."""
        return self.met / self.requests if self.requests and self.met is not None else None

    @property
    def error_rate(self) -> float | None:
        return self.errors / self.requests if self.requests else None

    @property
    def served_share(self) -> float | None:
        return self.good / self.requests if self.requests else None

    @property
    def throughput_rps(self) -> float:
        return self.good / (self.end - self.start)

    def p99_ms(self, metric: str) -> float | None:
        return self.p99_ttft_ms if metric == "ttft" else self.p99_e2e_ms


class Sample(NamedTuple):
    """One probe of a sentinel; `kind` is empty when it was good."""

    sent: float
    scheduled: float
    done: float
    kind: str


class _Source:
    """What one source (a sentinel's kind of probe, or all workers of the load) has reported."""

    def __init__(self) -> None:
        self.decided: dict[int, float] = {}  # per worker
        self.workers = 1
        self.samples: list[Sample] = []  # in the order they were sent
        self.ticks: dict[int, list[int]] = {}  # tick: scheduled, good
        self.rate = 0.0
        self.last: dict[int, dict[str, Any]] = {}  # per worker, its last report's own numbers

    @property
    def horizon(self) -> float:
        """Before this moment every request is decided."""
        return min(self.decided.values()) if len(self.decided) >= self.workers else 0.0


class Timeline:
    """Everything that was measured in a run, by time."""

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.RLock()
        self._sources: dict[str, _Source] = {}
        self._slots: dict[int, Slot] = {}
        self._gauges: dict[str, dict[str, list[tuple[float, float]]]] = {}
        self._marks: dict[str, float] = {}
        self._cache: dict[tuple[float, float], Window] = {}
        self.failures: list[Mapping[str, Any]] = []
        self.write_error: str | None = None  # the file is given up then, the run goes on
        self._anchor = time.time() - time.monotonic()
        self._held: list[Mapping[str, Any]] = []  # of the load, for the file
        self._written = -inf, -inf  # up to which decided moment, and when
        self._file: TextIO | None = path.open("a", encoding="utf-8") if path else None
        self._write({"timeline": SCHEMA, "utc_at_zero": self._anchor})

    @classmethod
    def load(cls, path: Path) -> Timeline:
        """The timeline that a run wrote; a last line cut short by a kill is left out."""
        timeline = cls()
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    message = json.loads(line)
                except ValueError:
                    continue
                if number == 1 and message.get("timeline") != SCHEMA:
                    raise InvalidInput(f"{path}: not a timeline of version {SCHEMA}")
                timeline._anchor = message.get("utc_at_zero", timeline._anchor)
                timeline.feed(message)
        return timeline

    def close(self) -> None:
        with self._lock:
            self._write_held()
            if self._file:
                self._file.close()
                self._file = None

    def _keep(self, message: Mapping[str, Any]) -> None:
        """Write a message; the load's are put together first, for a second at most."""
        if not self._file:
            return
        if message.get("source") == LOAD:
            self._held.append(message)
        else:
            self._write(message)
        told = message.get("decided", 0.0) - self._written[0]
        waited = time.monotonic() - self._written[1]
        if self._held and ("mark" in message or told >= HELD_S or waited >= HELD_S):
            self._write_held()

    def _write_held(self) -> None:
        held, self._held = self._held, []
        if held:
            self._written = held[-1]["decided"], time.monotonic()
        for message in combined(held):
            self._write(message)

    def _write(self, message: Mapping[str, Any]) -> None:
        if not self._file:
            return
        try:
            self._file.write(json.dumps(message, separators=(",", ":")) + "\n")
            self._file.flush()
        except OSError as error:
            self.write_error = f"{self._file.name}: {error.strerror}"
            with suppress(OSError):
                self._file.close()
            self._file = None

    def feed(self, message: Mapping[str, Any]) -> None:
        """Take in one message and append it to the file. There are five kinds:

        - sentinel: {source, decided, scheduled[], sent[], done[], kind[]}; everything scheduled
          before `decided` has been reported.
        - load: {source: "load", worker, workers, decided, slots: {index: Slot.wire()},
          ticks: {index: [scheduled, good]}, failures[]}, each number an increment.
        - gauge: {gauge, label, at, value}
        - mark: {mark, at}
        - fold: {fold: [start, end]}: see `fold`
        """
        with self._lock:
            self._keep(message)
            if "gauge" in message:
                series = self._gauges.setdefault(message["gauge"], {})
                series.setdefault(message["label"], []).append((message["at"], message["value"]))
            elif "mark" in message:
                self._marks[message["mark"]] = message["at"]
            elif "fold" in message:
                self._fold(*message["fold"])
            elif "source" in message:
                self._take_source(message)

    def gauge(self, name: str, label: str, value: float, at: float | None = None) -> None:
        moment = time.monotonic() if at is None else at
        self.feed({"gauge": name, "label": label, "at": moment, "value": value})

    def mark(self, name: str, at: float | None = None) -> None:
        self.feed({"mark": name, "at": time.monotonic() if at is None else at})

    def fold(self, start: float, end: float) -> None:
        """Keep what was within [start, end), and is of no interest by itself, in less memory."""
        self.feed({"fold": [start, end]})

    def _fold(self, start: float, end: float) -> None:
        whole = folding.blocks(start, end)
        for block in whole:
            folding.fold_slots(self._slots, block)
            for source in self._sources.values():
                folding.fold_ticks(source.ticks, block)
        span = (whole.start * folding.BLOCK_S, whole.stop * folding.BLOCK_S)
        for source in self._sources.values():
            source.samples = list(folding.thinned(source.samples, *span, lambda s: bool(s.kind)))
        for series in self._gauges.values():
            for label, points in series.items():
                series[label] = list(folding.thinned(sorted(points), *span))
        self._cache.clear()

    def _take_source(self, message: Mapping[str, Any]) -> None:
        source = self._sources.setdefault(message["source"], _Source())
        source.workers = message.get("workers", 1)
        source.decided[message.get("worker", 0)] = message["decided"]
        source.rate = message.get("rate") or source.rate
        plain = {k: v for k, v in message.items() if isinstance(v, int | float | str)}
        source.last.setdefault(message.get("worker", 0), {}).update(plain)
        columns = [message.get(name, ()) for name in ("sent", "scheduled", "done", "kind")]
        fresh = [Sample(*row) for row in zip(*columns, strict=True)]
        for sample in fresh:
            insort(source.samples, sample)
        for index, counts in message.get("ticks", {}).items():
            tick = source.ticks.setdefault(int(index), [0, 0])
            tick[0] += counts[0]
            tick[1] += counts[1]
        for index, wire in message.get("slots", {}).items():
            self._slots.setdefault(int(index), Slot()).merge(wire)
        self.failures += message.get("failures", ())
        changed = [int(index) * SLOT_S for index in message.get("slots", {})]
        changed += [sample.sent for sample in fresh]
        if changed:
            self._cache = {w: v for w, v in self._cache.items() if w[1] <= min(changed)}

    def utc(self, at: float) -> float:
        """A moment of this timeline as seconds since the epoch."""
        return self._anchor + at

    @property
    def marks(self) -> dict[str, float]:
        with self._lock:
            return dict(self._marks)

    @property
    def sources(self) -> list[str]:
        with self._lock:
            return sorted(self._sources)

    def horizon(self, source: str | None = None) -> float:
        """Requests scheduled before this moment are decided, in one source or in all."""
        with self._lock:
            names = [source] if source else list(self._sources)
            return min((self._sources[name].horizon for name in names), default=0.0)

    def rate(self, source: str) -> float:
        """The samples a second that a sentinel set out to send (0: irregular)."""
        with self._lock:
            return self._sources[source].rate

    def last_reports(self, source: str) -> list[dict[str, Any]]:
        """The plain numbers and texts that each worker of a source told last."""
        with self._lock:
            return list(self._sources[source].last.values()) if source in self._sources else []

    def series(self, name: str) -> dict[str, list[tuple[float, float]]]:
        """A gauge's points per label, in order of time."""
        with self._lock:
            return {k: sorted(points) for k, points in self._gauges.get(name, {}).items()}

    def samples(self, source: str, start: float = 0.0, end: float = inf) -> list[Sample]:
        """A sentinel's samples that were sent within [start, end), in that order."""
        with self._lock:
            held = self._sources[source].samples
            return held[bisect_left(held, (start,)) : bisect_left(held, (end,))]

    def outcomes(self, source: str, start: float, end: float) -> Outcomes:
        """Decided requests of a source within [start, end), up to its horizon.

        A sentinel's stand at the moment they were really sent, the load's in ticks of 10 ms by
        their scheduled time.
        """
        with self._lock:
            found = self._sources[source]
            end = min(end, found.horizon)
            if source != LOAD:
                kept = self.samples(source, start, end)
                marks = [int(bool(sample.kind)) for sample in kept]
                return Outcomes([sample.sent for sample in kept], [1] * len(kept), marks)
            span = range(ceil(start / TICK_S - 0.5), ceil(end / TICK_S - 0.5))
            rows = [(i, found.ticks[i]) for i in span if i in found.ticks and found.ticks[i][0]]
        return Outcomes(
            [(index + 0.5) * TICK_S for index, _ in rows],
            [counts[0] for _, counts in rows],
            [counts[0] - counts[1] for _, counts in rows],
        )

    def slots(self) -> list[tuple[float, Slot]]:
        """All slots of the load as (start, slot), in order of time."""
        with self._lock:
            return [(index * SLOT_S, slot) for index, slot in sorted(self._slots.items())]

    def window(self, start: float, end: float) -> Window:
        """What was scheduled in [start, end); the load in whole slots before `end`."""
        with self._lock:
            if (start, end) not in self._cache:
                if len(self._cache) >= _MOST_CACHED:
                    self._cache.clear()
                self._cache[start, end] = self._look(start, end)
            return self._cache[start, end]

    def _look(self, start: float, end: float) -> Window:
        seen = {name: self.outcomes(name, start, end) for name in self._sources}
        per_source = {name: (o.count, o.bad_count) for name, o in seen.items()}
        if LOAD in self._sources:
            return self._look_at_load(start, end, per_source)
        health = "health" if "health" in self._sources else next(iter(self._sources), None)
        timed = self.samples(health, start, end) if health else []
        answered = sorted(s.done - s.scheduled for s in timed if not s.kind)
        p50, p99 = (_rank(answered, share) for share in (0.5, 0.99))
        errors = len(timed) - len(answered)
        return Window(start, end, len(timed), errors, len(answered), 0, p50, p99, p99, per_source)

    def _look_at_load(
        self, start: float, end: float, per_source: Mapping[str, tuple[int, int]]
    ) -> Window:
        first, last = floor(start / SLOT_S + 1e-6), floor(end / SLOT_S + 1e-6)
        slots = [self._slots[i] for i in range(first, last) if i in self._slots]
        counts: Counter[str] = Counter()
        for slot in slots:
            counts.update(slot.counts)
        times = {
            kind: merged(text for slot in slots for text in slot.encoded.get(kind, ()))
            for kind in HISTOGRAMS[:2]
        }

        def at(kind: str, percent: float) -> float | None:
            held = times[kind]
            return percentile_ms(held, percent) if held.get_total_count() else None

        errors = counts["scheduled"] - counts["good"] - counts["slow"]
        return Window(
            start, end, counts["scheduled"], errors, counts["good"], counts["cut"],
            at("e2e", 50), at("e2e", 99), at("ttft", 99), per_source, counts["met"],
        )  # fmt: skip


def _rank(ordered: list[float], share: float) -> float | None:
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3
