"""Label and field selectors: which objects a list or a watch is about."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from aftershock.lab.kubernetes.resources import Resource
from aftershock.lab.kubernetes.status import bad_request

Matcher = Callable[[Mapping[str, Any]], bool]

_SET = re.compile(r"^(?P<key>\S+)\s+(?P<op>in|notin)\s+(?P<values>.*)$")
_EQUALS = re.compile(r"^(?P<key>[^=!\s]+)\s*(?P<op>==|=|!=)\s*(?P<value>[^=!\s]*)$")
_KEY = re.compile(r"^(?P<not>!?)\s*(?P<key>[A-Za-z0-9][-A-Za-z0-9_./]*)$")

_FIELDS: dict[str, tuple[str, ...]] = {
    "pods": (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.podIP",
    ),
    "nodes": ("spec.unschedulable",),
    "namespaces": ("status.phase",),
    "secrets": ("type",),
    "services": ("spec.clusterIP", "spec.type"),
    "replicasets": ("status.replicas",),
}
_ABOUT = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
_EVENT_FIELDS = ("type", "reason", "source", "reportingComponent")


def labels_match(selector: Mapping[str, Any] | None, labels: Mapping[str, str] | None) -> bool:
    """Whether a LabelSelector object (matchLabels, matchExpressions) picks these labels."""
    if selector is None:
        return False
    have = labels or {}
    if any(have.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for expression in selector.get("matchExpressions") or ():
        key, wanted = expression["key"], expression.get("values") or ()
        met = {
            "In": have.get(key) in wanted,
            "NotIn": have.get(key) not in wanted,
            "Exists": key in have,
            "DoesNotExist": key not in have,
        }
        if not met[expression["operator"]]:
            return False
    return True


def labels_of(item: Mapping[str, Any]) -> Mapping[str, str]:
    """An object's labels."""
    labels: Mapping[str, str] = item["metadata"].get("labels") or {}
    return labels


def parse_labels(text: str) -> Matcher:
    """A matcher for `a=b,c!=d,e in (f,g),h,!i`."""
    parts = re.split(r",(?![^(]*\))", text) if text.strip() else []
    tests = [_label_test(part.strip()) for part in parts]
    return lambda item: all(test(labels_of(item)) for test in tests)


def _label_test(part: str) -> Callable[[Mapping[str, str]], bool]:
    if match := _SET.match(part):
        key, among = match["key"], match["values"].strip()
        if not (among.startswith("(") and among.endswith(")")):
            raise bad_request(f"unable to parse requirement: found '{among}' expected: '('")
        values = {value.strip() for value in among[1:-1].split(",")}
        if match["op"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if match := _EQUALS.match(part):
        key, value = match["key"], match["value"]
        if match["op"] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if match := _KEY.match(part):
        key = match["key"]
        if match["not"]:
            return lambda labels: key not in labels
        return lambda labels: key in labels
    found = "=" if "=" in part else part
    raise bad_request(f"unable to parse requirement: found '{found}', expected: identifier")


def parse_fields(text: str, resource: Resource) -> Matcher:
    """A matcher for `metadata.name=x,status.phase!=Running`; an unknown field is refused."""
    tests: list[tuple[str, bool, str]] = []
    for part in filter(None, text.split(",")):
        match = re.match(r"^\s*([^=!\s]+)\s*(==|=|!=)(.*)$", part)
        if match is None:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        _check_field(match[1], resource)
        tests.append((match[1], match[2] != "!=", match[3].strip()))
    return lambda item: all((_field(item, path) == want) is equal for path, equal, want in tests)


def _check_field(path: str, resource: Resource) -> None:
    known = {"metadata.name", *_FIELDS.get(resource.plural, ())}
    if resource.namespaced:
        known.add("metadata.namespace")
    if resource.plural == "events":
        about = "regarding" if resource.group else "involvedObject"
        known |= {f"{about}.{name}" for name in _ABOUT} | set(_EVENT_FIELDS)
    if path not in known:
        raise bad_request(f"field label not supported: {path}")


def _field(item: Mapping[str, Any], path: str) -> str:
    value: Any = item
    for step in path.replace("regarding.", "involvedObject.").split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    if path == "spec.unschedulable":
        return "true" if value else "false"
    return "" if value is None else str(value)
