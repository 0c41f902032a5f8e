"""Horizontal pod autoscalers (autoscaling/v2): what they measure, want and have."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from aftershock.cluster.refusals import Refused
from aftershock.cluster.rest import TIMEOUT_S, Json, Rest
from aftershock.cluster.watch import events_of
from aftershock.errors import HostUnreachable, InvalidInput, Unsupported

_STREAM_S = 5


def autoscaler(rest: Rest, name: str = "") -> Json:
    """An autoscaler's state; the namespace's only one without a name.

    {name, target, least, most, current, desired, metrics: [{name, value, target}], conditions:
    {type: [status, reason, message]}, last_scale}. A metric that can't be read has the value None.
    `InvalidInput` names those there are, `Unsupported` where the API has no autoscaling/v2.
    """
    try:
        items = list(
            rest.items(rest.autoscaling.list_namespaced_horizontal_pod_autoscaler, rest.namespace)
        )
    except Refused as error:
        if error.status != 404:
            raise
        raise Unsupported("this API serves no autoscaling/v2: there are no autoscalers") from error
    found = {item["metadata"]["name"]: item for item in items}
    if name not in found and (name or len(found) != 1):
        known = ", ".join(sorted(found)) or "none"
        raise InvalidInput(
            f"there is no autoscaler {name!r} in {rest.namespace}: there is {known}"
            if name
            else f"say which autoscaler: {rest.namespace} has {known}"
        )
    return state_of(found[name] if name else next(iter(found.values())))


def state_of(item: Mapping[str, Any]) -> Json:
    """The same of an object."""
    spec, status = item["spec"], item.get("status") or {}
    target = spec["scaleTargetRef"]
    return {
        "name": item["metadata"]["name"],
        "target": f"{target['kind'].lower()}/{target['name']}",
        "least": int(spec.get("minReplicas") or 1),
        "most": int(spec["maxReplicas"]),
        "current": int(status.get("currentReplicas") or 0),
        "desired": int(status.get("desiredReplicas") or 0),
        "metrics": _metrics(spec, status),
        "conditions": {
            c["type"]: [c["status"], c.get("reason", ""), c.get("message", "")]
            for c in status.get("conditions") or ()
        },
        "last_scale": status.get("lastScaleTime"),
    }


def _metrics(spec: Mapping[str, Any], status: Mapping[str, Any]) -> list[Json]:
    now = {_metric_name(m): _amount(m, "current") for m in status.get("currentMetrics") or () if m}
    return [
        {"name": _metric_name(metric), "value": now.get(_metric_name(metric))}
        | {"target": _amount(metric, "target")}
        for metric in spec.get("metrics") or ()
    ]


def _source(metric: Mapping[str, Any]) -> Json:
    kind = metric["type"]
    found: Json = metric.get(kind[:1].lower() + kind[1:]) or {}
    return found


def _metric_name(metric: Mapping[str, Any]) -> str:
    source = _source(metric)
    return str(source.get("name") or (source.get("metric") or {}).get("name") or metric["type"])


def _amount(metric: Mapping[str, Any], which: str) -> float | None:
    from kubernetes.utils import quantity

    told = _source(metric).get(which) or {}
    for key in ("averageUtilization", "averageValue", "value"):
        if told.get(key) is not None:
            return float(quantity.parse_quantity(told[key]))  # type: ignore[no-untyped-call]
    return None


def follow(rest: Rest, name: str, until: float) -> Iterator[tuple[float, float, Json]]:
    """An autoscaler's states as a watch tells them: (not before, heard at, state), up to `until`.

    Moments are CLOCK_MONOTONIC. The first state is the present one. After a break the present state
    comes again; it may have become so at any time since the last one was known to stand.
    """
    chosen = {"field_selector": f"metadata.name={name}"}
    call = rest.autoscaling.list_namespaced_horizontal_pod_autoscaler
    version, known, broken = "", time.monotonic(), False
    while (left := until - time.monotonic()) > 0:
        patience = max(1, min(_STREAM_S, int(left) + 1))
        since = {"resource_version": version} if version else {}
        try:
            stream = rest.open(
                call, rest.namespace, watch=True, timeout_seconds=patience, **chosen, **since,
                _request_timeout=(TIMEOUT_S, patience + 2.0),
            )  # fmt: skip
            with contextlib.closing(stream):
                for event in events_of(stream):
                    if event["type"] in ("ERROR", "DELETED"):
                        raise HostUnreachable(f"the watch over {name} ended: {event['type']}")
                    heard = time.monotonic()
                    yield known if broken else heard, heard, state_of(event["object"])
                    version = event["object"]["metadata"]["resourceVersion"]
                    known, broken = heard, False
            known = time.monotonic()
        except HostUnreachable:
            version, broken = "", True
            time.sleep(0.2)
