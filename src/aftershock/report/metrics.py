"""`verdict.prom`: the verdict as OpenMetrics text, for dashboards that plot recovery times.

Prometheus' node_exporter reads it from its textfile folder as it is; a Pushgateway takes it too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from aftershock.report import answers
from aftershock.slo.verdict import FAIL, INCONCLUSIVE, PASS

_RTO = "Time from the first fault's firing until the service was back. Absent: not back"
FIGURES = {
    "rto_seconds": ("service_rto_s", _RTO),
    "rto_error_seconds": ("service_rto_error_s", "Half of its 95 % interval"),
    "rto_censored_seconds": ("service_rto_censored_s", "The service was not back within this time"),
    "failback_seconds": ("failback_rto_s", "Time from the heal until golden levels held again"),
    "capacity_rto_seconds": ("capacity_rto_s", "Time until as many replicas were ready as before"),
    "capacity_after_heal_seconds": ("capacity_after_heal_s", "The same, from the heal"),
    "detection_seconds": ("time_to_detect_s", "Time until the gateway counted a server as down"),
    "requests": ("requests_total", "Requests from the firing to the end"),
    "requests_lost": ("requests_lost", "Of them, never answered soundly"),
    "requests_slow": ("requests_slow", "Of them, answered later than tolerated"),
    "streams_cut": ("streams_cut", "Requests that failed after their first token"),
    "lowest_throughput_rps": ("lowest_throughput_rps", "Good answers a second, worst window"),
}
CLIFF = {
    "best_good_rps": ("capacity_rps", "Good answers a second at best, as the load was stepped up"),
    "best_good_error_rps": ("capacity_error_rps", "Half of its 95 % interval"),
}
PHASES = {
    "goodput_ratio": ("goodput", "share", "Share of the requests due that met every limit"),
    "golden_answers": ("quality", "answers", "Answers to golden prompts"),
    "golden_answers_bad": ("quality", "bad", "Of them, bad ones"),
    "golden_questions": ("quality", "questions", "Of them, to questions with a known answer"),
    "golden_questions_right": ("quality", "right", "Of these, answered right"),
}


def metrics(document: Mapping[str, Any]) -> str:
    """The file's text. What was not measured is absent; so are an INCONCLUSIVE run's figures."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.openmetrics.exposition import generate_latest

    registry = CollectorRegistry()
    registry.register(_Told(document))
    return str(generate_latest(registry).decode())  # type: ignore[no-untyped-call]


class _Told:
    """One run, as prometheus_client collects it."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        run = document["run"]
        self.labels = {
            "experiment": str(run.get("experiment") or document["title"] or "unknown"),
            "target": str(document["target"]),
        }

    def collect(self) -> Iterator[Any]:
        """Every family of samples."""
        from prometheus_client.core import GaugeMetricFamily

        held = list(self.labels.values())
        word = self.document["verdict"]
        # No state set: node_exporter's parser knows none.
        states = GaugeMetricFamily(
            "aftershock_verdict", "1: the run's verdict", labels=[*self.labels, "verdict"]
        )
        for one in (PASS, FAIL, INCONCLUSIVE):
            states.add_metric([*held, one], float(one == word))
        yield states
        for name, value, what in self._gauges():
            gauge = GaugeMetricFamily(f"aftershock_{name}", what, labels=list(self.labels))
            gauge.add_metric(held, value)
            yield gauge
        failed = GaugeMetricFamily(
            "aftershock_requests_failed", "Failed requests by kind", labels=[*self.labels, "kind"]
        )
        for kind, count in self.document["failed_by_kind"].items():
            failed.add_metric([*held, str(kind)], count)
        yield failed
        if word != INCONCLUSIVE:
            yield from self._phases()

    def _phases(self) -> Iterator[Any]:
        """What is told before, during and after the fault; a phase without requests is absent."""
        from prometheus_client.core import GaugeMetricFamily

        held = list(self.labels.values())
        for name, (part, field, what) in PHASES.items():
            gauge = GaugeMetricFamily(f"aftershock_{name}", what, labels=[*self.labels, "phase"])
            for phase, seen in answers.phases(self.document.get(part)):
                if field in seen:
                    gauge.add_metric([*held, phase], float(seen[field]))
            if gauge.samples:
                yield gauge

    def _gauges(self) -> Iterator[tuple[str, float, str]]:
        objective = self.document["rto_objective_s"]
        yield "rto_objective_seconds", float(objective), "The service must be back within this time"
        began = self.document["run"].get("started_at")
        if began:
            at = datetime.fromisoformat(began).timestamp()
            yield "run_started_timestamp_seconds", at, "When the run began, since the epoch"
        if self.document["verdict"] == INCONCLUSIVE:
            return
        for name, (field, what) in FIGURES.items():
            if self.document[field] is not None:
                yield name, float(self.document[field]), what
        cliff = self.document.get("cliff") or {}
        for name, (field, what) in CLIFF.items() if cliff else ():
            yield name, float(cliff[field]), what
        if cliff.get("knee_rps"):
            held, broke = cliff["knee_rps"]
            yield "knee_held_rps", float(held), "The highest rate at which golden levels held"
            yield "knee_broke_rps", float(broke), "The next rate, at which they did not"
