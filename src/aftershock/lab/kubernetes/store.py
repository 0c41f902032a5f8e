"""What the cluster is: objects, their versions, and a log of changes that watches follow.

Objects in the store are never changed in place: every write puts a new one there. So whoever got
one (a watch, a controller) may keep it, and must copy it before changing it.
"""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aftershock.lab.kubernetes.resources import Resource
from aftershock.lab.kubernetes.status import already_exists, expired, not_found

Object = dict[str, Any]

_LOG_LENGTH = 4000
# Versions begin here, so that a watch from 1 is too old, as on any server that has lived a while.
_FIRST_VERSION = 100


@dataclass(frozen=True, slots=True)
class Change:
    """One write: `before` is None for a creation, `after` for a removal."""

    version: int
    resource: str
    before: Object | None
    after: Object | None
    last: Object | None = None


def timestamp(moment: datetime | None = None) -> str:
    """A moment as the API writes it: whole seconds, UTC."""
    return (moment or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """Objects by resource, namespace and name."""

    def __init__(self) -> None:
        self.version = _FIRST_VERSION
        self._objects: dict[str, dict[tuple[str, str], Object]] = {}
        self._log: deque[Change] = deque(maxlen=_LOG_LENGTH)
        self._compacted = _FIRST_VERSION
        self._watchers: list[tuple[str, asyncio.Queue[Change]]] = []
        self._listeners: list[Callable[[Change], None]] = []

    def listen(self, listener: Callable[[Change], None]) -> None:
        """Call `listener` after every write, in the order of the writes."""
        self._listeners.append(listener)

    def find(self, resource: Resource, namespace: str, name: str) -> Object | None:
        return self._objects.get(resource.key, {}).get((namespace, name))

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        found = self.find(resource, namespace, name)
        if found is None:
            raise not_found(resource, name)
        return found

    def all_of(self, resource: Resource, namespace: str = "") -> list[Object]:
        """The objects of a resource, by namespace and name; all namespaces when none is given."""
        items = self._objects.get(resource.key, {})
        return [items[key] for key in sorted(items) if not namespace or key[0] == namespace]

    def create(self, resource: Resource, fresh: Object) -> Object:
        """Add an object, giving it uid, version and time of creation."""
        meta = fresh["metadata"]
        place = (meta.get("namespace", ""), meta["name"])
        items = self._objects.setdefault(resource.key, {})
        if place in items:
            raise already_exists(resource, meta["name"])
        item = self._stamped(self.born(resource, fresh))
        items[place] = item
        self._publish(Change(self.version, resource.key, None, item))
        return item

    @staticmethod
    def born(resource: Resource, fresh: Object) -> Object:
        """The object with what a creation adds to its metadata, in the order clients know."""
        meta = {k: v for k, v in fresh["metadata"].items() if v is not None}
        first = {key: meta.pop(key) for key in ("name", "generateName", "namespace") if key in meta}
        for server_owned in ("uid", "resourceVersion", "generation", "creationTimestamp"):
            meta.pop(server_owned, None)
        born: Object = {**first, "uid": str(uuid.uuid4()), "resourceVersion": ""}
        if resource.has_generation:
            born["generation"] = 1
        born |= {"creationTimestamp": timestamp(), **meta}
        rest = {k: v for k, v in fresh.items() if k not in ("kind", "apiVersion", "metadata")}
        head = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": born}
        return copy.deepcopy({**head, **rest})

    def update(self, resource: Resource, changed: Object, keep_generation: bool = False) -> Object:
        """Replace an object.

        A change that changes nothing is no write: no new version, no event. One that takes the last
        finalizer off a deleted object removes it.
        """
        meta = changed["metadata"]
        place = (meta.get("namespace", ""), meta["name"])
        before = self.get(resource, *place)
        changed = copy.deepcopy(changed)
        changed["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
        if changed == before:
            return before
        respecified = changed.get("spec") != before.get("spec")
        if resource.has_generation and respecified and not keep_generation:
            changed["metadata"]["generation"] = before["metadata"].get("generation", 0) + 1
        item = self._stamped(changed)
        self._objects[resource.key][place] = item
        self._publish(Change(self.version, resource.key, before, item))
        if _is_finished(item):
            self.remove(resource, *place)
        return item

    def remove(self, resource: Resource, namespace: str, name: str) -> Object:
        """Take an object away; the answer carries the version of the removal."""
        before = self.get(resource, namespace, name)
        del self._objects[resource.key][namespace, name]
        self.version += 1
        last = {**before, "metadata": {**before["metadata"], "resourceVersion": str(self.version)}}
        self._publish(Change(self.version, resource.key, before, None, last))
        return last

    def _stamped(self, item: Object) -> Object:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        return item

    def _publish(self, change: Change) -> None:
        if len(self._log) == _LOG_LENGTH:
            self._compacted = self._log[0].version
        self._log.append(change)
        for key, queue in self._watchers:
            if key == change.resource:
                queue.put_nowait(change)
        for listener in self._listeners:
            listener(change)

    def follow(self, resource: Resource, since: int | None) -> asyncio.Queue[Change]:
        """A queue of the changes after version `since` (None: from now on); `unfollow` ends it."""
        queue: asyncio.Queue[Change] = asyncio.Queue()
        if since is not None:
            if since < self._compacted:
                raise expired(since, self.version)
            for change in self._log:
                if change.resource == resource.key and change.version > since:
                    queue.put_nowait(change)
        self._watchers.append((resource.key, queue))
        return queue

    def compact(self) -> None:
        """Forget all changes so far, as a server does every few minutes: older watches get 410."""
        self._log.clear()
        self._compacted = self.version

    def unfollow(self, queue: asyncio.Queue[Change]) -> None:
        self._watchers = [entry for entry in self._watchers if entry[1] is not queue]


def _is_finished(item: Object) -> bool:
    meta = item["metadata"]
    if "deletionTimestamp" not in meta or meta.get("finalizers"):
        return False
    # A namespace goes when it is empty, any other object when its grace period is over.
    if item["kind"] == "Namespace":
        return not bool((item.get("spec") or {}).get("finalizers"))
    return bool(meta.get("deletionGracePeriodSeconds", 0) == 0)
