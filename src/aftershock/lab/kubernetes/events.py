"""Events: what happened to an object, for `kubectl describe`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aftershock.lab.kubernetes.resources import EVENTS
from aftershock.lab.kubernetes.store import Store, timestamp

_KEPT = 500


class Recorder:
    """Writes events, counts repeated ones, and forgets the oldest."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._names: deque[tuple[str, str]] = deque()
        self._repeated: dict[tuple[str, ...], tuple[str, str]] = {}

    def record(
        self,
        about: Mapping[str, Any],
        reason: str,
        message: str,
        component: str,
        host: str = "",
        warning: bool = False,
        field: str = "",
    ) -> None:
        """Tell that something happened to `about`."""
        key = (about["metadata"]["uid"], reason, message, component)
        place = self._repeated.get(key)
        known = self._store.find(EVENTS, *place) if place else None
        if known is not None:
            changed = {**known, "count": known.get("count", 1) + 1, "lastTimestamp": timestamp()}
            self._store.update(EVENTS, changed)
            return
        kind = "Warning" if warning else "Normal"
        event = _event(about, reason, message, component, host, field) | {"type": kind}
        created = self._store.create(EVENTS, event)["metadata"]
        self._repeated[key] = (created["namespace"], created["name"])
        self._names.append((created["namespace"], created["name"]))
        while len(self._names) > _KEPT:
            namespace, name = self._names.popleft()
            if self._store.find(EVENTS, namespace, name):
                self._store.remove(EVENTS, namespace, name)


def _event(
    about: Mapping[str, Any], reason: str, message: str, component: str, host: str, field: str
) -> dict[str, Any]:
    meta = about["metadata"]
    namespace = meta.get("namespace", "default")
    involved = {"kind": about["kind"], "name": meta["name"], "uid": meta["uid"]}
    if "namespace" in meta:
        involved["namespace"] = namespace
    involved |= {"apiVersion": about["apiVersion"], "resourceVersion": meta["resourceVersion"]}
    if field:
        involved["fieldPath"] = field
    event: dict[str, Any] = {
        "metadata": {"name": f"{meta['name']}.{time.time_ns():x}", "namespace": namespace},
        "involvedObject": involved,
        "reason": reason,
        "message": message,
    }
    if component == "default-scheduler":
        micro = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return event | {
            "source": {},
            "firstTimestamp": None,
            "lastTimestamp": None,
            "eventTime": micro,
            "action": "Binding",
            "reportingComponent": component,
            "reportingInstance": f"{component}-1",
        }
    source = {"component": component, "host": host} if host else {"component": component}
    return event | {
        "source": source,
        "firstTimestamp": timestamp(),
        "lastTimestamp": timestamp(),
        "count": 1,
        "eventTime": None,
        "reportingComponent": component,
        "reportingInstance": host,
    }


def modern(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event in the shape of events.k8s.io/v1."""
    shown: dict[str, Any] = {
        "kind": "Event",
        "apiVersion": "events.k8s.io/v1",
        "metadata": event["metadata"],
        "eventTime": event.get("eventTime"),
        "reportingController": event.get("reportingComponent", ""),
        "reportingInstance": event.get("reportingInstance", ""),
        "reason": event.get("reason"),
        "regarding": event.get("involvedObject"),
        "note": event.get("message"),
        "type": event.get("type"),
        "deprecatedSource": event.get("source", {}),
        "deprecatedFirstTimestamp": event.get("firstTimestamp"),
        "deprecatedLastTimestamp": event.get("lastTimestamp"),
    }
    if "count" in event:
        shown["deprecatedCount"] = event["count"]
    return shown
