"""Bodies that clients send as protobuf, with no second try as JSON: `kubectl create KIND` mostly.

An envelope (`runtime.Unknown`, after four magic bytes) holds the kind and the object. Field numbers
are those of k8s.io/api's generated.proto, as far as kubectl's generators fill them in; any other
field is refused by name, never dropped. Answers may be JSON all the same.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

from aftershock.lab.kubernetes.status import bad_request

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
_TYPE_META, _RAW = 1, 2
# A message a line: a number, a name, and its type, text without one. `*`: repeated; `?`: a pointer,
# so that zero is a value; `-`: what a server fills in itself, and a client's word doesn't count.
_SCHEMA = """
ObjectMeta: 1 name, 2 generateName, 3 namespace, 4 -, 5 -, 6 -, 7 -, 8 -, 11 labels map,
  12 annotations map, 14 finalizers *
LabelSelector: 1 matchLabels map, 2 matchExpressions *Requirement
Requirement: 1 key, 2 operator, 3 values *
Namespace: 1 metadata ObjectMeta, 2 spec NamespaceSpec, 3 -
NamespaceSpec: 1 finalizers *
ConfigMap: 1 metadata ObjectMeta, 2 data map, 3 binaryData bytes-map, 4 immutable bool?
Secret: 1 metadata ObjectMeta, 2 data bytes-map, 3 type, 4 stringData map, 5 immutable bool?
ServiceAccount: 1 metadata ObjectMeta
Service: 1 metadata ObjectMeta, 2 spec ServiceSpec, 3 -
ServiceSpec: 1 ports *ServicePort, 2 selector map, 3 clusterIP, 4 type, 5 externalIPs *,
  7 sessionAffinity, 8 loadBalancerIP, 10 externalName, 11 externalTrafficPolicy,
  12 healthCheckNodePort int, 13 publishNotReadyAddresses bool
ServicePort: 1 name, 2 protocol, 3 port int, 4 targetPort IntOrString, 5 nodePort int
Deployment: 1 metadata ObjectMeta, 2 spec DeploymentSpec, 3 -
DeploymentSpec: 1 replicas int?, 2 selector LabelSelector, 3 template PodTemplate,
  4 strategy Strategy, 5 minReadySeconds int, 6 revisionHistoryLimit int?, 7 paused bool,
  9 progressDeadlineSeconds int?
Strategy: 1 type, 2 rollingUpdate RollingUpdate
RollingUpdate: 1 maxUnavailable IntOrString?, 2 maxSurge IntOrString?
PodTemplate: 1 metadata ObjectMeta, 2 spec PodSpec
PodSpec: 2 containers *Container, 3 restartPolicy, 4 terminationGracePeriodSeconds int?,
  5 activeDeadlineSeconds int?, 6 dnsPolicy, 7 nodeSelector map, 8 serviceAccountName,
  9 serviceAccount, 10 nodeName, 11 hostNetwork bool, 12 hostPID bool, 13 hostIPC bool,
  14 securityContext Empty, 16 hostname, 17 subdomain, 19 schedulerName, 24 priorityClassName
Container: 1 name, 2 image, 3 command *, 4 args *, 5 workingDir, 6 ports *ContainerPort,
  7 env *EnvVar, 8 resources Empty, 13 terminationMessagePath, 14 imagePullPolicy, 16 stdin bool,
  17 stdinOnce bool, 18 tty bool, 20 terminationMessagePolicy
ContainerPort: 1 name, 2 hostPort int, 3 containerPort int, 4 protocol, 5 hostIP
EnvVar: 1 name, 2 value
Empty:
Job: 1 metadata ObjectMeta, 2 spec JobSpec, 3 -
JobSpec: 1 parallelism int?, 2 completions int?, 3 activeDeadlineSeconds int?,
  6 template PodTemplate, 7 backoffLimit int?, 8 ttlSecondsAfterFinished int?
CronJob: 1 metadata ObjectMeta, 2 spec CronJobSpec, 3 -
CronJobSpec: 1 schedule, 2 startingDeadlineSeconds int?, 3 concurrencyPolicy, 4 suspend bool?,
  5 jobTemplate JobTemplate, 6 successfulJobsHistoryLimit int?, 7 failedJobsHistoryLimit int?,
  8 timeZone ?
JobTemplate: 1 metadata ObjectMeta, 2 spec JobSpec
PodDisruptionBudget: 1 metadata ObjectMeta, 2 spec BudgetSpec, 3 -
BudgetSpec: 1 minAvailable IntOrString?, 2 selector LabelSelector, 3 maxUnavailable IntOrString?
SelfSubjectAccessReview: 1 -, 2 spec AccessSpec, 3 -
AccessSpec: 1 resourceAttributes Attributes, 2 nonResourceAttributes PathAttributes
Attributes: 1 namespace, 2 verb, 3 group, 4 version, 5 resource, 6 subresource, 7 name
PathAttributes: 1 path, 2 verb
SelfSubjectRulesReview: 1 -, 2 spec RulesSpec, 3 -
RulesSpec: 1 namespace
"""
_Field = tuple[str, str]


def _read(schema: str) -> dict[str, dict[int, _Field]]:
    found: dict[str, dict[int, _Field]] = {}
    for line in schema.strip().replace(",\n ", ",").splitlines():
        name, _, fields = line.partition(":")
        found[name] = {}
        for words in filter(None, map(str.split, fields.split(","))):
            number, field, *kind = words
            found[name][int(number)] = (field, kind[0] if kind else "")
    return found


_MESSAGES = _read(_SCHEMA)


def decode(raw: bytes) -> dict[str, Any]:
    """An object as JSON would have it, with its kind."""
    if not raw.startswith(_MAGIC):
        raise bad_request("the body is no Kubernetes protobuf: it does not begin with k8s\\x00")
    try:
        envelope = dict(_fields(raw.removeprefix(_MAGIC)))
        named = dict(_fields(envelope[_TYPE_META]))
        version, kind = named[1].decode(), named[2].decode()
        if kind not in _MESSAGES:
            raise bad_request(f"this emulated server reads no {kind} as protobuf: send JSON")
        return {"apiVersion": version, "kind": kind, **_message(kind, envelope[_RAW])}
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise bad_request(f"the body can't be decoded as protobuf: {error!r}") from None


def _message(name: str, raw: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, value in _fields(raw):
        if number not in _MESSAGES[name]:
            if not value:  # a client that knows nothing of it writes its zero
                continue
            told = f"field {number} of {name} is not known to this emulated server as protobuf"
            raise bad_request(
                f"{told}: send JSON (`--dry-run=client -o json | kubectl create -f -`)"
            )
        field, kind = _MESSAGES[name][number]
        if field == "-":
            continue
        if kind.startswith("*"):
            found.setdefault(field, []).append(_value(kind[1:], value))
        elif kind.endswith("map"):
            entry = dict(_fields(value))
            content = _value(kind.removesuffix("map").rstrip("-"), entry.get(2, b""))
            found.setdefault(field, {})[entry.get(1, b"").decode()] = content
        elif (plain := _value(kind.rstrip("?"), value)) or kind.endswith("?"):
            found[field] = plain
    return found


def _value(kind: str, value: Any) -> Any:
    if kind in _PLAIN:
        return _PLAIN[kind](value)
    return _message(kind, value)


def _int_or_string(raw: bytes) -> int | str:
    found = dict(_fields(raw))
    return str(found[3].decode()) if found.get(1) else _signed(found.get(2, 0))


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


_PLAIN: dict[str, Callable[[Any], Any]] = {
    "": lambda value: value.decode(),
    "int": _signed,
    "bool": bool,
    "bytes": lambda value: base64.b64encode(value).decode(),
    "IntOrString": _int_or_string,
}


def _fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """The numbers and contents of a message's fields: bytes, or a whole number."""
    at = 0
    while at < len(raw):
        key, at = _number(raw, at)
        if key & 7 == 0:
            number, at = _number(raw, at)
            yield key >> 3, number
        elif key & 7 == 2:
            size, at = _number(raw, at)
            if at + size > len(raw):
                raise ValueError("a field is cut short")
            yield key >> 3, raw[at : at + size]
            at += size
        else:
            raise ValueError(f"unexpected wire type {key & 7}")


def _number(raw: bytes, at: int) -> tuple[int, int]:
    """A varint, and where it ends."""
    found = shift = 0
    while True:
        byte = raw[at]
        found |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return found, at
