"""What a server refuses to store: 400 for what it cannot read, 422 for what makes no sense."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from zoneinfo import available_timezones

from cronsim import CronSim, CronSimError

from aftershock.lab.kubernetes.resources import Resource
from aftershock.lab.kubernetes.selectors import labels_match
from aftershock.lab.kubernetes.status import Cause, bad_request, invalid

_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_LABEL_KEY = re.compile(r"^([^/]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
_LABEL_VALUE = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")
_NAME_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
    "'.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used "
    "for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_KEY_RULE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end "
    "with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for "
    "validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_POLICIES = ("Always", "OnFailure", "Never")
_ONCE = ("OnFailure", "Never")
_CONCURRENCY = ("Allow", "Forbid", "Replace")
_POD_FROZEN = (
    "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
    "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions"
    " to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it "
    "was previously negative)"
)


def check_shape(resource: Resource, item: Any) -> None:
    """400 when a part has the wrong type: what clients trip over most."""
    if not isinstance(item, dict) or not isinstance(item.get("metadata", {}), dict):
        raise bad_request(f"cannot read a {resource.kind}: the body is no such object")
    for name in ("labels", "annotations"):
        among = item.get("metadata", {}).get(name)
        bad = among is not None and not isinstance(among, dict)
        if bad or any(not isinstance(value, str) for value in (among or {}).values()):
            raise _mistyped(resource, f"ObjectMeta.metadata.{name}", "string")
    spec = item.get("spec")
    if spec is not None and not isinstance(spec, dict):
        raise _mistyped(
            resource, f"{resource.kind}.spec", f"{resource.version}.{resource.kind}Spec"
        )
    replicas = (spec or {}).get("replicas")
    if replicas is not None and (isinstance(replicas, bool) or not isinstance(replicas, int)):
        raise _mistyped(resource, f"{resource.kind}Spec.spec.replicas", "int32")


def _mistyped(resource: Resource, field: str, wanted: str) -> Exception:
    return bad_request(
        f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: '
        f"json: cannot unmarshal value into Go struct field {field} of type {wanted}"
    )


_WORKLOADS = ("daemonsets", "deployments", "replicasets", "statefulsets")


def check(resource: Resource, item: dict[str, Any], before: dict[str, Any] | None = None) -> None:
    """422 with every invalid field of a new object, or of a changed one."""
    causes = [*_metadata(item)]
    if resource.plural == "pods":
        causes += [*_pod_spec(item.get("spec") or {}, "spec")]
    if resource.plural in _WORKLOADS:
        causes += [*_workload(item)]
    if resource.plural == "nodes":
        causes += [*_taints(item.get("spec") or {})]
    if resource.plural == "horizontalpodautoscalers":
        causes += [*_autoscaler(item.get("spec") or {})]
    if resource.plural == "cronjobs":
        causes += [*_cron_job(item.get("spec") or {})]
    if before is not None:
        causes += [*_frozen(resource, before, item)]
    if causes:
        raise invalid(resource.kind, resource.group, item["metadata"].get("name", ""), causes)


def _metadata(item: dict[str, Any]) -> Iterator[Cause]:
    meta = item["metadata"]
    name = meta.get("name")
    if not name:
        message = "Required value: name or generateName is required"
        yield Cause("FieldValueRequired", message, "metadata.name")
    elif len(name) > 253 or not _NAME.match(name):
        message = f'Invalid value: "{name}": {_NAME_RULE}'
        yield Cause("FieldValueInvalid", message, "metadata.name")
    for key, value in (meta.get("labels") or {}).items():
        if not _LABEL_KEY.match(key):
            message = f'Invalid value: "{key}": {_KEY_RULE}'
            yield Cause("FieldValueInvalid", message, "metadata.labels")
        if len(value) > 63 or not _LABEL_VALUE.match(value):
            message = f'Invalid value: "{value}": a valid label must be 63 characters or less'
            yield Cause("FieldValueInvalid", message, "metadata.labels")


def _pod_spec(spec: dict[str, Any], path: str) -> Iterator[Cause]:
    containers = spec.get("containers") or []
    if not containers:
        yield Cause("FieldValueRequired", "Required value", f"{path}.containers")
    seen: set[str] = set()
    for index, container in enumerate(containers):
        where = f"{path}.containers[{index}]"
        name = container.get("name")
        if not name:
            yield Cause("FieldValueRequired", "Required value", f"{where}.name")
        elif name in seen:
            yield Cause("FieldValueDuplicate", f'Duplicate value: "{name}"', f"{where}.name")
        seen.add(name)
        if not container.get("image"):
            yield Cause("FieldValueRequired", "Required value", f"{where}.image")
    policy = spec.get("restartPolicy", "Always")
    if policy not in _POLICIES:
        yield _unsupported(policy, _POLICIES, f"{path}.restartPolicy")


def _unsupported(value: str, among: tuple[str, ...], field: str) -> Cause:
    supported = ", ".join(f'"{one}"' for one in among)
    message = f'Unsupported value: "{value}": supported values: {supported}'
    return Cause("FieldValueNotSupported", message, field)


def _workload(item: dict[str, Any]) -> Iterator[Cause]:
    spec = item.get("spec") or {}
    template = spec.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    if spec.get("replicas", 0) < 0:
        message = f"Invalid value: {spec['replicas']}: must be greater than or equal to 0"
        yield Cause("FieldValueInvalid", message, "spec.replicas")
    if not spec.get("selector"):
        yield Cause("FieldValueRequired", "Required value", "spec.selector")
    elif not labels_match(spec["selector"], labels):
        told = json.dumps(labels, separators=(",", ":"))
        message = f"Invalid value: {told}: `selector` does not match template `labels`"
        yield Cause("FieldValueInvalid", message, "spec.template.metadata.labels")
    yield from _pod_spec(template.get("spec") or {}, "spec.template.spec")


def _cron_job(spec: dict[str, Any]) -> Iterator[Cause]:
    schedule, zone = str(spec.get("schedule", "")), spec.get("timeZone")
    try:
        if len(schedule.split()) != 5:
            raise CronSimError("expected exactly 5 fields")
        CronSim(schedule, datetime.now(UTC))
    except CronSimError as error:
        yield Cause("FieldValueInvalid", f"{_invalid(schedule)}: {error}", "spec.schedule")
    if zone is not None and zone not in available_timezones():
        yield Cause("FieldValueInvalid", f"{_invalid(zone)}: unknown time zone", "spec.timeZone")
    policy = spec.get("concurrencyPolicy", "Allow")
    if policy not in _CONCURRENCY:
        yield _unsupported(policy, _CONCURRENCY, "spec.concurrencyPolicy")
    job = (spec.get("jobTemplate") or {}).get("spec") or {}
    where, pod = "spec.jobTemplate.spec", (job.get("template") or {}).get("spec") or {}
    yield from _pod_spec(pod, f"{where}.template.spec")
    restart = pod.get("restartPolicy", "Always")
    if restart not in _ONCE:
        yield _unsupported(restart, _ONCE, f"{where}.template.spec.restartPolicy")
    if job.get("podFailurePolicy") and restart != "Never":
        message = (
            f'{_invalid(restart)}: only "Never" is supported when podFailurePolicy is specified'
        )
        yield Cause("FieldValueInvalid", message, f"{where}.template.spec.restartPolicy")


def _invalid(value: str) -> str:
    return f'Invalid value: "{value}"'


def _taints(spec: dict[str, Any]) -> Iterator[Cause]:
    for index, taint in enumerate(spec.get("taints") or ()):
        if taint.get("effect") not in _EFFECTS:
            where = f"metadata.taints[{index}].effect"
            yield _unsupported(str(taint.get("effect")), _EFFECTS, where)


def _autoscaler(spec: dict[str, Any]) -> Iterator[Cause]:
    most, least = spec.get("maxReplicas") or 0, spec.get("minReplicas", 1)
    if most < 1:
        message = f"Invalid value: {most}: must be greater than 0"
        yield Cause("FieldValueInvalid", message, "spec.maxReplicas")
    elif most < least:
        message = f"Invalid value: {most}: must be greater than or equal to `minReplicas`"
        yield Cause("FieldValueInvalid", message, "spec.maxReplicas")
    target = spec.get("scaleTargetRef") or {}
    for key in ("kind", "name"):
        if not target.get(key):
            yield Cause("FieldValueRequired", "Required value", f"spec.scaleTargetRef.{key}")
    metrics = spec.get("metrics") or []
    if [metric.get("type") for metric in metrics] != ["Pods"]:
        # A real server takes more; here nothing would ever measure it.
        message = "Forbidden: this emulated server measures exactly one metric, of type Pods"
        yield Cause("FieldValueForbidden", message, "spec.metrics")
    elif not ((metrics[0].get("pods") or {}).get("target") or {}).get("averageValue"):
        where = "spec.metrics[0].pods.target.averageValue"
        yield Cause("FieldValueRequired", "Required value: must specify a positive target", where)


def _frozen(resource: Resource, before: dict[str, Any], item: dict[str, Any]) -> Iterator[Cause]:
    old, new = before.get("spec") or {}, item.get("spec") or {}
    if resource.plural in _WORKLOADS and old["selector"] != new.get("selector"):
        told = json.dumps(new.get("selector"), separators=(",", ":"))
        message = f"Invalid value: {told}: field is immutable"
        yield Cause("FieldValueInvalid", message, "spec.selector")
    if resource.plural == "pods" and _fixed(old) != _fixed(new):
        yield Cause("FieldValueForbidden", _POD_FROZEN, "spec")


def _fixed(spec: dict[str, Any]) -> dict[str, Any]:
    loose = ("tolerations", "activeDeadlineSeconds", "containers")
    fixed = {key: value for key, value in spec.items() if key not in loose}
    return fixed | {
        "containers": [
            {key: value for key, value in container.items() if key != "image"}
            for container in spec.get("containers") or ()
        ]
    }
