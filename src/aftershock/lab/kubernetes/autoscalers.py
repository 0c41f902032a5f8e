"""Autoscalers: every few seconds, each compares its pods' metric with its target and scales."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any

from aftershock.lab.kubernetes import scaling
from aftershock.lab.kubernetes.events import Recorder
from aftershock.lab.kubernetes.owners import is_dying, is_over
from aftershock.lab.kubernetes.resources import AUTOSCALERS, PODS, Resource, by_kind
from aftershock.lab.kubernetes.selectors import labels_match, labels_of
from aftershock.lab.kubernetes.store import Object, Store, timestamp
from aftershock.lab.kubernetes.verbs import Verbs

_log = logging.getLogger(__name__)
_NAME = "horizontal-pod-autoscaler"

# A pod's UID and a metric's name → its value now; None: there is none.
Metric = Callable[[str, str], float | None]


class Autoscalers:
    """The controller; `metric` is what a metrics API would be asked."""

    def __init__(
        self, store: Store, verbs: Verbs, recorder: Recorder, metric: Metric, period_s: float
    ) -> None:
        self.metric = metric
        self._store, self._verbs, self._recorder = store, verbs, recorder
        self._period_s = period_s
        self._memories: dict[str, scaling.Memory] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="autoscalers")

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            for item in self._store.all_of(AUTOSCALERS):
                try:
                    self._keep(item)
                except Exception:
                    _log.exception("autoscaler %s failed", item["metadata"]["name"])

    def _keep(self, item: Object) -> None:
        spec, namespace = item["spec"], item["metadata"]["namespace"]
        reference = spec["scaleTargetRef"]
        resource = by_kind(reference.get("apiVersion", ""), reference["kind"])
        found = resource and self._store.find(resource, namespace, reference["name"])
        if not resource or not found or not resource.has_scale:
            told = f"{reference['kind']} {reference['name']!r} not found"
            self._report(item, None, AbleToScale=("False", "FailedGetScale", told))
            return
        current = int(found["spec"]["replicas"])
        if current == 0:
            told = "scaling is disabled since the replica count of the target is zero"
            self._report(item, found, ScalingActive=("False", "ScalingDisabled", told))
            return
        self._weigh(item, resource, found, current)

    def _weigh(self, item: Object, resource: Resource, found: Object, current: int) -> None:
        spec = item["spec"]
        metric = spec["metrics"][0]["pods"]
        name, target = metric["metric"]["name"], _number(metric["target"]["averageValue"])
        pods = [
            pod
            for pod in self._store.all_of(PODS, item["metadata"]["namespace"])
            if labels_match(found["spec"]["selector"], labels_of(pod))
            and not is_dying(pod)
            and not is_over(pod)
        ]
        running = [pod for pod in pods if pod["status"].get("phase") == "Running"]
        values = {
            pod["metadata"]["uid"]: self.metric(pod["metadata"]["uid"], name) for pod in running
        }
        if not any(value is not None for value in values.values()):
            told = f"unable to get metric {name}: no metrics returned from custom metrics API"
            self._report(item, found, ScalingActive=("False", "FailedGetPodsMetric", told))
            return
        known = [value for value in values.values() if value is not None]
        mean = sum(known) / len(known)
        memory = self._memories.setdefault(item["metadata"]["uid"], scaling.Memory())
        wanted = scaling.proposed(current, values, len(pods) - len(running), target)
        now = asyncio.get_running_loop().time()
        decision = scaling.decide(spec, current, wanted, mean, memory, now)
        if decision.replicas != current:
            place = (item["metadata"]["namespace"], found["metadata"]["name"])
            self._verbs.rescale(resource, *place, {"spec": {"replicas": decision.replicas}})
            way = "above" if decision.replicas > current else "below"
            told = f"New size: {decision.replicas}; reason: pods metric {name} {way} target"
            self._recorder.record(item, "SuccessfulRescale", told, _NAME)
        self._report(item, found, decision, name, current)

    def _report(
        self,
        item: Object,
        found: Object | None,
        decision: scaling.Decision | None = None,
        metric: str = "",
        current: int = 0,
        **failed: tuple[str, str, str],
    ) -> None:
        changed = copy.deepcopy(
            self._store.get(AUTOSCALERS, item["metadata"]["namespace"], item["metadata"]["name"])
        )
        status = changed.setdefault("status", {})
        status["currentReplicas"] = int(((found or {}).get("status") or {}).get("replicas", 0))
        conditions = dict(failed)
        if decision is not None:
            status["desiredReplicas"] = decision.replicas
            if decision.replicas != current:
                status["lastScaleTime"] = timestamp()
            mean = {"averageValue": _quantity(decision.mean)}
            status["currentMetrics"] = [
                {"type": "Pods", "pods": {"metric": {"name": metric}, "current": mean}}
            ]
            conditions |= _conditions(decision, metric, decision.replicas != current)
        else:
            status.setdefault("desiredReplicas", 0)
            status["currentMetrics"] = None
        before = {c["type"]: c for c in status.get("conditions") or ()}
        made = {kind: _condition(before.get(kind), kind, told) for kind, told in conditions.items()}
        status["conditions"] = list({**before, **made}.values())
        self._store.update(AUTOSCALERS, changed)


def _conditions(
    decision: scaling.Decision, metric: str, rescaled: bool
) -> dict[str, tuple[str, str, str]]:
    able = ("ReadyForNewScale", "recommended size matches current size")
    if rescaled:
        told = "the HPA controller was able to update the target scale to "
        able = ("SucceededRescale", f"{told}{decision.replicas}")
    elif decision.stabilised:
        told = "recent recommendations were higher than current one, applying the highest recent "
        able = ("ScaleDownStabilized", f"{told}recommendation")
    valid = "the HPA was able to successfully calculate a replica count from pods metric "
    limits = {
        "": "the desired count is within the acceptable range",
        "TooManyReplicas": "the desired replica count is more than the maximum replica count",
        "TooFewReplicas": "the desired replica count is less than the minimum replica count",
        "ScaleUpLimit": "the desired replica count is increasing faster than the maximum scale "
        "rate",
        "ScaleDownLimit": "the desired replica count is decreasing faster than the maximum scale "
        "rate",
    }
    limited = decision.limited or "DesiredWithinRange"
    return {
        "AbleToScale": ("True", *able),
        "ScalingActive": ("True", "ValidMetricFound", f"{valid}{metric}"),
        "ScalingLimited": (str(bool(decision.limited)), limited, limits[decision.limited]),
    }


def _condition(
    before: Mapping[str, Any] | None, kind: str, told: tuple[str, str, str]
) -> dict[str, Any]:
    status, reason, message = told
    same = before is not None and before["status"] == status
    since = before["lastTransitionTime"] if before and same else timestamp()
    return {
        "type": kind,
        "status": status,
        "lastTransitionTime": since,
        "reason": reason,
        "message": message,
    }


def _number(quantity: Any) -> float:
    text = str(quantity)
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def _quantity(value: float) -> str:
    return str(round(value)) if float(value).is_integer() else f"{round(value * 1000)}m"
