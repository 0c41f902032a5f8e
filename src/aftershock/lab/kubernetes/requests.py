"""From a path and a method to an answer: everything but watches."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aftershock.lab.kubernetes import status
from aftershock.lab.kubernetes.events import modern
from aftershock.lab.kubernetes.resources import NAMESPACES, NEW_EVENTS, Resource, by_path
from aftershock.lab.kubernetes.selectors import Matcher, parse_fields, parse_labels
from aftershock.lab.kubernetes.store import Object, Store
from aftershock.lab.kubernetes.tables import partial, table
from aftershock.lab.kubernetes.verbs import Verbs

Answer = tuple[int, Object | str]


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    watches: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """A request, apart from its path."""

    method: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any = None

    @property
    def dry_run(self) -> bool:
        return self.query.get("dryRun") == "All"

    @property
    def content_type(self) -> str:
        return self.headers.get("Content-Type", "").split(";")[0].strip()


def parse_target(parts: list[str]) -> Target | None:
    """Read a path below /api or /apis; None: it is none. An unknown resource is refused."""
    if parts[:1] == ["api"]:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[:1] == ["apis"] and len(parts) > 2:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    watches = rest[:1] == ["watch"]
    rest = rest[1:] if watches else rest
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    resource = by_path(group, version, rest[0]) if rest else None
    if resource is None or len(rest) > 3 or (namespace and not resource.namespaced):
        raise status.no_such_path()
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    if subresource and subresource not in resource.subresources():
        raise status.no_such_path()
    return Target(resource, namespace, name, subresource, watches)


def answer(store: Store, verbs: Verbs, target: Target, call: Call) -> Answer:
    """Carry a request out."""
    _check_accept(call)
    if target.subresource:
        code, content = _subresource(store, verbs, target, call)
    elif target.name:
        code, content = _item(store, verbs, target, call)
    else:
        code, content = _collection(store, verbs, target, call)
    if isinstance(content, str):
        return code, content
    return code, _presented(target, call, content)


def _check_accept(call: Call) -> None:
    accept = call.headers.get("Accept", "*/*")
    if "json" not in accept and "*/*" not in accept and "application/*" not in accept:
        raise status.not_acceptable()


def _item(store: Store, verbs: Verbs, target: Target, call: Call) -> Answer:
    place = (target.resource, target.namespace, target.name)
    match call.method:
        case "GET":
            return 200, store.get(*place)
        case "PUT":
            return 200, verbs.replace(*place, _whole(call), dry_run=call.dry_run)
        case "PATCH":
            patched = verbs.patch(*place, call.content_type, call.body, dry_run=call.dry_run)
            return 200, patched
        case "DELETE":
            return 200, verbs.delete(*place, options(call), dry_run=call.dry_run)
    raise status.method_not_allowed()


def _whole(call: Call) -> Object:
    if not isinstance(call.body, dict):
        raise status.bad_request("the body is no object")
    return call.body


def options(call: Call) -> dict[str, Any]:
    """DeleteOptions from the body and the query."""
    asked = dict(call.body or {}) if isinstance(call.body or {}, dict) else {}
    if "gracePeriodSeconds" in call.query:
        asked["gracePeriodSeconds"] = number(call.query["gracePeriodSeconds"])
    if "propagationPolicy" in call.query:
        asked["propagationPolicy"] = call.query["propagationPolicy"]
    return asked


def number(text: str) -> int:
    """A number from a query; anything else is refused."""
    try:
        return int(text)
    except ValueError:
        message = f'strconv.ParseInt: parsing "{text}": invalid syntax'
        raise status.bad_request(message) from None


def matcher(target: Target, query: Mapping[str, str]) -> Matcher:
    """Whether an object is among those a list or a watch is about."""
    labels = parse_labels(query.get("labelSelector", ""))
    fields = parse_fields(query.get("fieldSelector", ""), target.resource)

    def matches(item: Mapping[str, Any]) -> bool:
        meta = item["metadata"]
        if target.namespace and meta.get("namespace") != target.namespace:
            return False
        return (not target.name or meta["name"] == target.name) and labels(item) and fields(item)

    return matches


def _collection(store: Store, verbs: Verbs, target: Target, call: Call) -> Answer:
    match call.method:
        case "GET":
            return 200, listed(store, target, call.query)
        case "POST":
            body = _whole(call)
            made = verbs.create(target.resource, target.namespace, body, dry_run=call.dry_run)
            return 201, made
        case "DELETE":
            if "deletecollection" not in target.resource.verbs:
                raise status.method_not_allowed()
            found = listed(store, target, call.query)
            for item in found["items"]:
                meta = item["metadata"]
                place = (target.resource, meta.get("namespace", ""), meta["name"])
                if store.find(*place):
                    verbs.delete(*place, options(call), dry_run=call.dry_run)
            return 200, found
    raise status.method_not_allowed()


def listed(store: Store, target: Target, query: Mapping[str, str]) -> Object:
    """The list of what matches, in pages when a limit is given."""
    _check_version(query.get("resourceVersion", ""))
    matches = matcher(target, query)
    found = [item for item in store.all_of(target.resource, target.namespace) if matches(item)]
    start, limit = _continued(query), number(query.get("limit") or "0")
    found = [item for item in found if _place(item) > start] if start else found
    meta: dict[str, Any] = {"resourceVersion": str(store.version)}
    if 0 < limit < len(found):
        token = {"v": "meta.k8s.io/v1", "rv": store.version, "start": _place(found[limit - 1])}
        meta["continue"] = base64.urlsafe_b64encode(json.dumps(token).encode()).decode()
        if not query.get("labelSelector") and not query.get("fieldSelector"):
            meta["remainingItemCount"] = len(found) - limit
        found = found[:limit]
    resource = target.resource
    head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": meta}
    return {**head, "items": found}


def _place(item: Mapping[str, Any]) -> str:
    meta = item["metadata"]
    return f"{meta.get('namespace', '')}/{meta['name']}"


def _continued(query: Mapping[str, str]) -> str:
    token = query.get("continue")
    if not token:
        return ""
    try:
        return str(json.loads(base64.urlsafe_b64decode(token))["start"])
    except (ValueError, KeyError, TypeError):
        message = "invalid continue token: continue key is not valid"
        raise status.bad_request(message) from None


def _check_version(text: str) -> None:
    if text and not text.isdigit():
        raise status.bad_request(
            f'invalid resource version: resourceVersion: Invalid value: "{text}": '
            f'strconv.ParseUint: parsing "{text}": invalid syntax'
        )


def _subresource(store: Store, verbs: Verbs, target: Target, call: Call) -> Answer:  # noqa: PLR0911
    resource, place = target.resource, (target.resource, target.namespace, target.name)
    allowed = {"GET": "get", "PUT": "update", "PATCH": "patch", "POST": "create"}
    if allowed.get(call.method) not in resource.subresources()[target.subresource][3]:
        raise status.method_not_allowed()
    match target.subresource, call.method:
        case "scale", "GET":
            return 200, verbs.scale(*place)
        case "scale", _:
            kind = call.content_type if call.method == "PATCH" else ""
            return 200, verbs.rescale(*place, call.body, kind, dry_run=call.dry_run)
        case "eviction", _:
            return 201, verbs.evict(*place[1:], _whole(call), dry_run=call.dry_run)
        case "log", _:
            store.get(*place)
            return 200, ""
        case "finalize", _:
            return 200, _finalize(store, target, _whole(call))
        case _, "GET":
            return 200, store.get(*place)
        case _, "PUT":
            return 200, verbs.replace(*place, _whole(call), "status", call.dry_run)
    return 200, verbs.patch(*place, call.content_type, call.body, "status", call.dry_run)


def _finalize(store: Store, target: Target, body: Object) -> Object:
    before = store.get(NAMESPACES, "", target.name)
    return store.update(NAMESPACES, {**before, "spec": body.get("spec") or {}})


def _presented(target: Target, call: Call, content: Object) -> Object:
    """The content as the client wants it: whole, as a Table, or its metadata alone."""
    accept = call.headers.get("Accept", "")
    items = content.get("items") if content["kind"].endswith("List") else None
    if content["kind"] in ("Status", "Scale"):
        return content
    if "as=Table" in accept:
        one = {"resourceVersion": content["metadata"].get("resourceVersion", "")}
        meta = one if items is None else content["metadata"]
        shown = [content] if items is None else items
        return table(target.resource, shown, meta, call.query.get("includeObject", "Metadata"))
    if "as=PartialObjectMetadata" in accept:
        if items is None:
            return partial(content)
        head = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}
        return {**head, "metadata": content["metadata"], "items": [partial(i) for i in items]}
    if items is None:
        return whole(target.resource, content)
    kept = [whole(target.resource, item) for item in items]
    return {**content, "items": [_headless(item) for item in kept]}


def whole(resource: Resource, item: Object) -> Object:
    """The object as this version of its group shows it."""
    return modern(item) if resource is NEW_EVENTS else item


def _headless(item: Object) -> Object:
    return {key: value for key, value in item.items() if key not in ("kind", "apiVersion")}
