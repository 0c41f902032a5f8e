"""Reviews of one's own rights as kubectl sends them: protobuf, with no second try as JSON.

An envelope (`runtime.Unknown`, after four magic bytes) holds the kind and the object. Field numbers
are those of k8s.io/api/authorization/v1/generated.proto. Answers may be JSON all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aftershock.lab.kubernetes.status import bad_request

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
_RAW, _SPEC = 2, 2
_RESOURCE = ("namespace", "verb", "group", "version", "resource", "subresource", "name")
_NON_RESOURCE = ("path", "verb")


def access_review(raw: bytes) -> dict[str, Any]:
    """A SelfSubjectAccessReview, as JSON would have it."""
    spec = _spec(raw)
    found: dict[str, Any] = {}
    if 1 in spec:
        found["resourceAttributes"] = _texts(spec[1], _RESOURCE)
    if 2 in spec:
        found["nonResourceAttributes"] = _texts(spec[2], _NON_RESOURCE)
    return {"spec": found}


def rules_review(raw: bytes) -> dict[str, Any]:
    """A SelfSubjectRulesReview, as JSON would have it."""
    return {"spec": {"namespace": _spec(raw).get(1, b"").decode()}}


def _spec(raw: bytes) -> dict[int, bytes]:
    if not raw.startswith(_MAGIC):
        raise bad_request("the body is no Kubernetes protobuf: it does not begin with k8s\\x00")
    try:
        envelope = dict(_fields(raw.removeprefix(_MAGIC)))
        return dict(_fields(dict(_fields(envelope[_RAW]))[_SPEC]))
    except (KeyError, IndexError, ValueError) as error:
        raise bad_request(f"the body can't be decoded as protobuf: {error!r}") from None


def _texts(raw: bytes, names: tuple[str, ...]) -> dict[str, str]:
    found = dict(_fields(raw))
    return {
        name: found[number].decode() for number, name in enumerate(names, 1) if found.get(number)
    }


def _fields(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """The numbers and contents of a message's length-delimited fields; numbers are passed over."""
    at = 0
    while at < len(raw):
        key, at = _number(raw, at)
        if key & 7 == 0:
            _, at = _number(raw, at)
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
