"""One run at a time against a cluster's namespace, whatever host it is on: a Lease of ours there.

Renewed by a thread. One that was not renewed for as long as it says is stale; that is timed by our
own clock from when we saw it, so no clocks need to agree. It carries who holds it and, as an
annotation, what others ask of the holder: to abort.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aftershock.cluster import objects
from aftershock.cluster.api import Cluster
from aftershock.cluster.permissions import Permission, missing
from aftershock.cluster.refusals import Refused
from aftershock.errors import AftershockError
from aftershock.lock import Occupied, is_gone, myself, new_token, told

logger = logging.getLogger("chaostoolkit")

NAME = "aftershock-run"
HOLDER, ORDER = "aftershock.dev/holder", "aftershock.dev/order"
DURATION_S, RENEW_S = 30, 2.0
_VERBS = ("create", "get", "patch", "delete")
_CONFLICT = 409


def rights(namespace: str) -> list[Permission]:
    """What holding the Lease needs."""
    return [Permission(verb, "leases", namespace, "coordination.k8s.io") for verb in _VERBS]


class LeaseLock:
    """The Lease of a namespace. `order` is what was last asked of us through it."""

    def __init__(
        self, cluster: Cluster, what: str, token: str = "", duration_s: float = DURATION_S
    ) -> None:
        self.token = token or new_token()
        self.order: Mapping[str, Any] | None = None
        self.stale: Mapping[str, Any] | None = None
        self._cluster, self._me, self._duration_s = cluster, myself(what), duration_s
        self._place = {"namespace": cluster.namespace, "name": NAME}
        self._over = threading.Event()
        self._renewing: threading.Thread | None = None

    def acquire(self) -> bool:
        """Take it; False where we may not, and only this host's lock holds. `Occupied` names who
        has it. A Lease with our token is our game day's: it is left to it."""
        if lacking := missing(self._cluster, rights(self._cluster.namespace)):
            logger.warning(
                "other hosts are not kept from this target: we may not %s",
                "; ".join(map(str, lacking)),
            )
            return False
        patience = time.monotonic() + 2 * self._duration_s
        while not self._taken():
            if time.monotonic() > patience:
                raise Occupied(f"the Lease {NAME} changes hands all the time: look who else runs")
        return True

    def release(self) -> None:
        """Delete it if it is ours; twice is fine."""
        self._over.set()
        if self._renewing is None:
            return
        self._renewing.join(10)
        self._renewing = None
        lease = objects.get(self._cluster, "lease", self._place)
        if lease and lease["spec"].get("holderIdentity") == self.token:
            objects.delete(self._cluster, "lease", self._place)

    def _taken(self) -> bool:
        lease = objects.get(self._cluster, "lease", self._place)
        if lease is None:
            return self._tried(None)
        if lease["spec"].get("holderIdentity") == self.token:
            return True
        if not self._is_stale(lease):
            holder = holder_of(lease)
            raise Occupied(
                f"namespace {self._cluster.namespace} at {self._cluster.access.place} is taken by "
                f"{told(holder)}: one run at a time, so wait for its end, or end it",
                holder,
            )
        self.stale = holder_of(lease)
        return self._tried(lease["metadata"]["resourceVersion"])

    def _tried(self, version: str | None) -> bool:
        """Create it, or take that very version over; False if another was faster."""
        body = self._lease()
        try:
            if version is None:
                objects.create(self._cluster, "lease", body)
            else:
                body["metadata"] = {
                    "resourceVersion": version,
                    "annotations": {**body["metadata"]["annotations"], ORDER: None},
                }
                objects.patch_version(self._cluster, "lease", self._place, body)
        except Refused as error:
            if error.status == _CONFLICT:
                return False
            raise
        self._renewing = threading.Thread(target=self._renew, name="target's lease", daemon=True)
        self._renewing.start()
        return True

    def _is_stale(self, lease: Mapping[str, Any]) -> bool:
        """At once where its holder was a process of this host, else after it was silent."""
        if holder_of(lease).get("boot") == self._me["boot"]:
            gone = is_gone(holder_of(lease))
            if gone is not None:
                return gone
        seen, since = lease["spec"].get("renewTime"), time.monotonic()
        silence_s = float(lease["spec"].get("leaseDurationSeconds") or self._duration_s)
        while time.monotonic() - since < silence_s:
            time.sleep(min(RENEW_S, silence_s / 5))
            now = objects.get(self._cluster, "lease", self._place)
            if now is None:
                return True
            if now["spec"].get("renewTime") != seen:
                return False
        return True

    def _renew(self) -> None:
        while not self._over.wait(RENEW_S):
            try:
                lease = objects.get(self._cluster, "lease", self._place)
                if lease is None or lease["spec"].get("holderIdentity") != self.token:
                    logger.warning("the Lease %s is no longer ours: another run may begin", NAME)
                    return
                with contextlib.suppress(ValueError):
                    self.order = json.loads(_annotations(lease).get(ORDER) or "null")
                objects.patch(self._cluster, "lease", self._place, {"spec": {"renewTime": _now()}})
            except AftershockError as error:  # the fault may well cut our way to the API
                logger.debug("the lease was not renewed: %s", error)

    def _lease(self) -> dict[str, Any]:
        now = _now()
        return {
            "metadata": {**self._place, "annotations": {HOLDER: json.dumps(self._me)}},
            "spec": {
                "holderIdentity": self.token,
                "leaseDurationSeconds": max(1, round(self._duration_s)),
                "acquireTime": now,
                "renewTime": now,
            },
        }


def held(cluster: Cluster) -> Mapping[str, Any] | None:
    """Who holds the namespace's Lease, or None."""
    lease = objects.get(cluster, "lease", {"namespace": cluster.namespace, "name": NAME})
    return holder_of(lease) if lease else None


def ask(cluster: Cluster, order: Mapping[str, Any]) -> bool:
    """Ask something of whoever holds the Lease; False if nobody does."""
    place = {"namespace": cluster.namespace, "name": NAME}
    told_so = {"metadata": {"annotations": {ORDER: json.dumps(dict(order))}}}
    return objects.patch(cluster, "lease", place, told_so)


def holder_of(lease: Mapping[str, Any]) -> Mapping[str, Any]:
    """Who holds a Lease, as `lock.myself` has it; an empty mapping where it doesn't say."""
    try:
        said = json.loads(_annotations(lease).get(HOLDER) or "{}")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _annotations(lease: Mapping[str, Any]) -> Mapping[str, str]:
    return lease["metadata"].get("annotations") or {}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
