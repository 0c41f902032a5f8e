"""The reaper: a Job that takes our changes in the API back when we are gone.

It is created first, on a node that nothing is done to, and looks at a Lease that we renew
(`reaping.py` is what it runs). ConfigMap and Job belong to the Lease, so one deletion ends all
three. A Lease that is gone though we didn't delete it was the reaper's doing: it healed before it
was ordered to.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from aftershock.capacity.reaping import LEASE_S, WATCHING
from aftershock.cluster import Cluster, objects
from aftershock.cluster.permissions import Permission
from aftershock.errors import AftershockError, HostUnreachable, NotApplied, NotReverted
from aftershock.ledger import Ledger, undoes

NAMESPACE = ACCOUNT = "aftershock"
RENEW_S = 2.0
READY_S = 60.0
_ENDS_S = 10.0
_SPARE_S = 900  # for a reaper that has to wait for its API
_LABELS = {"app.kubernetes.io/managed-by": "aftershock", "app.kubernetes.io/name": "reaper"}
# What we need for it; what it needs itself is in deploy/reaper.yaml.
PERMISSIONS = tuple(
    Permission(verb, resource, NAMESPACE, group)
    for group, resource, verbs in (
        ("coordination.k8s.io", "leases", ("create", "get", "patch", "delete")),
        ("", "configmaps", ("create", "get", "patch", "delete")),
        ("batch", "jobs", ("create", "delete")),
        ("", "pods", ("list", "delete")),
    )
    for verb in verbs
)

Change = dict[str, Any]


class Reaper:
    """One Lease, and the Job that watches it, for all that a run changes in an API.

    `image`: any that has python3. `grace_s`: how long we may be silent. `avoid`: nodes on which
    it must not be.
    """

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        image: str,
        *,
        grace_s: float = 10.0,
        namespace: str = NAMESPACE,
    ) -> None:
        self._cluster, self._ledger, self._image = cluster, ledger, image
        self._grace_s, self._namespace = grace_s, namespace
        self.name = f"reaper-{ledger.run_id}".lower()[:58].rstrip("-._")
        self._place = {"namespace": namespace, "name": self.name}
        self._changes: dict[str, Change] = {}
        self._avoid: dict[str, set[str]] = {}  # by the change that is made there
        self._owner: list[objects.Plain] = []
        self._entry = ""
        self._born = 0.0
        self._until_s = 0.0
        self._ended = threading.Event()
        self._beating: threading.Thread | None = None

    def guard(self, entry: str, change: Change, lease_s: float, avoid: Sequence[str]) -> None:
        """See to it that a change is taken back without us, before it is made.

        `NotApplied` when no reaper gets ready: a change that nobody would take back isn't made.
        """
        first = not self._changes
        self._changes[entry] = change
        self._avoid[entry] = set(avoid)
        try:
            if first:
                self._create(lease_s)
            else:
                self._extend(lease_s)
        except BaseException:
            self.release(entry)
            raise

    def release(self, entry: str) -> None:
        """A change was taken back; with the last one the reaper goes. Idempotent."""
        self._avoid.pop(entry, None)
        if self._changes.pop(entry, None) is None:
            return
        if self._changes:
            with contextlib.suppress(HostUnreachable):  # it would be taken back twice: harmless
                self._write_changes()
            return
        self._ended.set()
        if self._beating:
            self._beating.join()
        end(self._cluster, self._place)
        self._ledger.undone(self._entry)

    def has_healed(self) -> bool:
        """Whether it took our changes back on its own."""
        return bool(self._changes) and objects.get(self._cluster, "lease", self._place) is None

    def _create(self, lease_s: float) -> None:
        undo = {"kubeconfig": self._cluster.kubeconfig, "emulated": self._cluster.emulated}
        self._entry = self._ledger.intend_undo("reaper", {**undo, **self._place})
        self._ended.clear()
        self._born, self._until_s = time.monotonic(), lease_s
        lease = objects.create(self._cluster, "lease", self._lease())
        self._owner = [_owner(lease)]
        objects.create(self._cluster, "config_map", self._config_map())
        objects.create(self._cluster, "job", self._job())
        self._beating = threading.Thread(target=self._beat, name="reaper's lease", daemon=True)
        self._beating.start()
        self._wait_until_it_watches()

    def _extend(self, lease_s: float) -> None:
        self._write_changes()
        self._until_s = max(self._until_s, time.monotonic() - self._born + lease_s)
        objects.patch(
            self._cluster, "lease", self._place, {"metadata": {"annotations": self._age()}}
        )
        avoid = self._avoided()
        if any(pod["spec"].get("nodeName") in avoid for pod in self._pods()):
            self._move()

    def _avoided(self) -> set[str]:
        return set().union(*self._avoid.values())

    def _move(self) -> None:
        """Off a node that is to be broken, too."""
        unsaid = {"metadata": {"annotations": {WATCHING: None}}}
        _end_job(self._cluster, self._place)
        objects.patch(self._cluster, "lease", self._place, unsaid)
        objects.create(self._cluster, "job", self._job())
        self._wait_until_it_watches()

    def _pods(self) -> list[objects.Plain]:
        return objects.listed(self._cluster, "pod", self._namespace, f"job-name={self.name}")

    def _age(self) -> dict[str, str]:
        return {LEASE_S: f"{self._until_s:.0f}"}

    def _wait_until_it_watches(self) -> None:
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            lease = objects.get(self._cluster, "lease", self._place)
            if lease and WATCHING in (lease["metadata"].get("annotations") or {}):
                return
            time.sleep(0.1)
        raise NotApplied(
            f"the reaper {self._namespace}/{self.name} was not ready within {READY_S:g} s"
            f"{self._why_not()}: give it an image with python3 that the nodes can pull, and the "
            "rights of deploy/reaper.yaml"
        )

    def _why_not(self) -> str:
        with contextlib.suppress(AftershockError):
            for pod in self._pods():
                states = pod["status"].get("containerStatuses") or ()
                for state in states:
                    if waiting := state.get("state", {}).get("waiting"):
                        return f" ({waiting.get('reason')}: {waiting.get('message', '')})"
                conditions = pod["status"].get("conditions") or ()
                told = [one["message"] for one in conditions if one.get("message")]
                return f" (its pod is {': '.join([pod['status'].get('phase'), *told[:1]])})"
            return " (it has no pod)"
        return ""

    def _beat(self) -> None:
        while not self._ended.wait(RENEW_S):
            with contextlib.suppress(HostUnreachable):
                objects.patch(self._cluster, "lease", self._place, {"spec": {"renewTime": _now()}})

    def _write_changes(self) -> None:
        objects.patch(self._cluster, "config_map", self._place, {"data": self._data()})

    def _data(self) -> dict[str, str]:
        return {"undo": json.dumps(list(self._changes.values()))}

    def _meta(self, **more: Any) -> dict[str, Any]:
        return {**self._place, "labels": _LABELS, **more}

    def _lease(self) -> dict[str, Any]:
        spec = {
            "holderIdentity": self._ledger.run_id,
            "leaseDurationSeconds": max(1, round(self._grace_s)),
            "renewTime": _now(),
        }
        return {"metadata": self._meta(annotations=self._age()), "spec": spec}

    def _config_map(self) -> dict[str, Any]:
        return {"metadata": self._meta(ownerReferences=self._owner), "data": self._data()}

    def _job(self) -> dict[str, Any]:
        script = files("aftershock.capacity").joinpath("reaping.py").read_text(encoding="utf-8")
        container = {
            "name": "reaper",
            "image": self._image,
            "command": ["python3", "-c", script, self._namespace, self.name],
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
        }
        pod: dict[str, Any] = {
            "containers": [container],
            "restartPolicy": "OnFailure",
            "serviceAccountName": ACCOUNT,
        }
        if avoid := self._avoided():  # without fields a selector's term would match no node
            pod["affinity"] = _elsewhere(sorted(avoid))
        spec = {
            "template": {"metadata": {"labels": _LABELS}, "spec": pod},
            "backoffLimit": 20,
            "activeDeadlineSeconds": round(self._until_s + self._grace_s) + _SPARE_S,
            "ttlSecondsAfterFinished": 60,
        }
        return {"metadata": self._meta(ownerReferences=self._owner), "spec": spec}


def end(cluster: Cluster, place: Mapping[str, str]) -> None:
    """Delete the Lease and what belongs to it, and see that it is gone; twice is fine.

    NotReverted names what stays.
    """
    _end_job(cluster, place)
    for kind in ("config_map", "lease"):
        objects.delete(cluster, kind, place)
        if objects.get(cluster, kind, place):
            raise NotReverted(f"the {kind} of the reaper {place['name']} is still there")


def _end_job(cluster: Cluster, place: Mapping[str, str]) -> None:
    objects.delete(cluster, "job", place)
    until = time.monotonic() + _ENDS_S
    while left := objects.listed(cluster, "pod", place["namespace"], f"job-name={place['name']}"):
        for pod in left:  # it has nothing to finish: don't wait for its grace period
            meta = pod["metadata"]
            objects.delete(cluster, "pod", {"namespace": meta["namespace"], "name": meta["name"]})
        if time.monotonic() > until:
            names = ", ".join(pod["metadata"]["name"] for pod in left)
            raise NotReverted(f"the reaper's pod is still there: {names}")
        time.sleep(0.1)


@undoes("reaper")
def undo_reaper(undo: Mapping[str, Any]) -> str:
    """End what a dead run's reaper left (for `recover`, which has taken back the rest by then)."""
    try:
        cluster = Cluster(undo["kubeconfig"], undo["namespace"])
        try:
            end(cluster, {"namespace": undo["namespace"], "name": undo["name"]})
        finally:
            cluster.close()
    except HostUnreachable:
        if not undo.get("emulated"):
            raise
        return "the lab is gone, and the reaper with it"
    return f"ended the reaper {undo['name']}"


def _owner(lease: Mapping[str, Any]) -> dict[str, Any]:
    meta = lease["metadata"]
    named = {"name": meta["name"], "uid": meta["uid"]}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **named}


def _elsewhere(nodes: Sequence[str]) -> dict[str, Any]:
    """By the nodes' names: their label of a host name may be another."""
    fields = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]
    required = {"nodeSelectorTerms": [{"matchFields": fields}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
