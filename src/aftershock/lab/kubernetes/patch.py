"""The three kinds of patch: JSON merge, strategic merge and JSON patch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from aftershock.lab.kubernetes.status import bad_request, patch_refused

# Lists that a strategic patch merges by a key. Every other list is replaced, a node's `taints` too,
# as on a real server.
_MERGE_KEYS = {
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "ports": ("containerPort", "port"),
    "conditions": ("type",),
    "addresses": ("type",),
    "ownerReferences": ("uid",),
    "imagePullSecrets": ("name",),
}
_PLAIN_LISTS = ("finalizers",)


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386: null removes, objects merge, everything else replaces."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    merged = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def strategic(target: Any, patch: Any, name: str = "") -> Any:
    """A merge patch that knows which lists are maps in disguise."""
    if isinstance(patch, Mapping):
        return _strategic_map(target, patch)
    if isinstance(patch, list):
        return _strategic_list(target, patch, name)
    return copy.deepcopy(patch)


def _strategic_map(target: Any, patch: Mapping[str, Any]) -> Any:
    if patch.get("$patch") == "replace":
        return {key: copy.deepcopy(value) for key, value in patch.items() if key != "$patch"}
    merged = dict(target) if isinstance(target, Mapping) else {}
    if "$retainKeys" in patch:
        merged = {key: value for key, value in merged.items() if key in patch["$retainKeys"]}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.split("/", 1)[1]
            merged[name] = [kept for kept in merged.get(name) or [] if kept not in value]
        elif key.startswith("$"):
            continue
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = strategic(merged.get(key), value, key)
    return merged


def _strategic_list(target: Any, patch: Sequence[Any], name: str) -> list[Any]:
    have = list(target) if isinstance(target, list) else []
    if name in _PLAIN_LISTS:
        return have + [entry for entry in patch if entry not in have]
    entries = [entry for entry in patch if isinstance(entry, Mapping)]
    key = next((k for k in _MERGE_KEYS.get(name, ()) if all(k in e for e in entries)), None)
    replaces = any(entry.get("$patch") == "replace" for entry in entries)
    if key is None or replaces or len(entries) != len(patch):
        return [
            copy.deepcopy(entry)
            for entry in patch
            if not (isinstance(entry, Mapping) and "$patch" in entry)
        ]
    for entry in entries:
        place = next((i for i, old in enumerate(have) if old.get(key) == entry[key]), None)
        if entry.get("$patch") == "delete":
            have = [old for old in have if old.get(key) != entry[key]]
        elif place is None:
            have.append(strategic({}, entry))
        else:
            have[place] = strategic(have[place], entry)
    return have


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902, without `move` and `copy` onto a child of the source."""
    if not isinstance(operations, list):
        raise bad_request("error decoding patch: json: cannot unmarshal object into a JSON patch")
    result = copy.deepcopy(target)
    for operation in operations:
        try:
            result = _operate(result, operation)
        except (KeyError, IndexError, ValueError, TypeError):
            raise patch_refused() from None
    return result


def _operate(whole: Any, operation: Mapping[str, Any]) -> Any:
    kind, path = operation["op"], _steps(operation["path"])
    if kind == "test":
        if _read(whole, path) != operation["value"]:
            raise ValueError("test failed")
        return whole
    if kind in ("move", "copy"):
        source = _steps(operation["from"])
        value = copy.deepcopy(_read(whole, source))
        if kind == "move":
            _remove(whole, source)
        return _add(whole, path, value)
    if kind == "remove":
        _remove(whole, path)
        return whole
    if kind == "replace":
        _read(whole, path)
        if path:
            _remove(whole, path)
        return _add(whole, path, copy.deepcopy(operation["value"]))
    if kind == "add":
        return _add(whole, path, copy.deepcopy(operation["value"]))
    raise ValueError(f"unknown operation {kind}")


def _steps(pointer: str) -> list[str]:
    if pointer and not pointer.startswith("/"):
        raise ValueError(f"no JSON pointer: {pointer}")
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]


def _read(whole: Any, path: Sequence[str]) -> Any:
    for step in path:
        whole = whole[int(step)] if isinstance(whole, list) else whole[step]
    return whole


def _add(whole: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value
    parent = _read(whole, path[:-1])
    if isinstance(parent, list):
        place = len(parent) if path[-1] == "-" else int(path[-1])
        if place > len(parent):
            raise IndexError(place)
        parent.insert(place, value)
    else:
        parent[path[-1]] = value
    return whole


def _remove(whole: Any, path: Sequence[str]) -> None:
    parent = _read(whole, path[:-1])
    if isinstance(parent, list):
        del parent[int(path[-1])]
    else:
        del parent[path[-1]]
