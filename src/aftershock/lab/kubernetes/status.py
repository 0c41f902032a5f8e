"""The API's refusals, in the words a real server uses (they are what clients show their users)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aftershock.lab.kubernetes.resources import Resource


@dataclass(frozen=True, slots=True)
class Cause:
    """One invalid field of an object."""

    reason: str
    message: str
    field: str

    def plain(self) -> dict[str, str]:
        return {"reason": self.reason, "message": self.message, "field": self.field}


class Refusal(Exception):
    """An answer of kind Status with status Failure."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, details

    def status(self) -> dict[str, Any]:
        """The Status object for the answer's body."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            body["reason"] = self.reason
        if self.details is not None:
            body["details"] = dict(self.details)
        return {**body, "code": self.code}


def _details(resource: Resource, name: str, kind: str | None = None) -> dict[str, Any]:
    details = {"name": name} if name else {}
    if resource.group:
        details["group"] = resource.group
    return {**details, "kind": kind or resource.plural}


def not_found(resource: Resource, name: str) -> Refusal:
    """404: no such object."""
    message = f'{resource.qualified} "{name}" not found'
    return Refusal(404, "NotFound", message, _details(resource, name))


def no_such_path() -> Refusal:
    """404: no such resource."""
    message = "the server could not find the requested resource"
    return Refusal(404, "NotFound", message, {})


def method_not_allowed() -> Refusal:
    """405."""
    message = "the server does not allow this method on the requested resource"
    return Refusal(405, "MethodNotAllowed", message, {})


def already_exists(resource: Resource, name: str) -> Refusal:
    """409: the name is taken."""
    message = f'{resource.qualified} "{name}" already exists'
    return Refusal(409, "AlreadyExists", message, _details(resource, name))


def conflict(resource: Resource, name: str, why: str | None = None) -> Refusal:
    """409: the object is no longer what the client thinks."""
    why = why or (
        "the object has been modified; please apply your changes to the latest version and "
        "try again"
    )
    message = f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}'
    return Refusal(409, "Conflict", message, _details(resource, name))


def uid_mismatch(resource: Resource, name: str, wanted: str, actual: str) -> Refusal:
    """409: another object of that name."""
    message = (
        f'Operation cannot be fulfilled on {resource.kind} "{name}": the UID in the precondition '
        f"({wanted}) does not match the UID in record ({actual}). The object might have been "
        "deleted and then recreated"
    )
    return Refusal(409, "Conflict", message, {"name": name, "kind": resource.kind})


def bad_request(message: str) -> Refusal:
    """400, with what could not be read."""
    return Refusal(400, "BadRequest", message)


def namespace_terminating(resource: Resource, name: str, namespace: str) -> Refusal:
    """403: nothing new comes into a dying namespace."""
    message = (
        f'{resource.qualified} "{name}" is forbidden: unable to create new content in namespace '
        f"{namespace} because it is being terminated"
    )
    cause = Cause(
        "NamespaceTerminating", f"namespace {namespace} is being terminated", "metadata.namespace"
    )
    details = {**_details(resource, name), "causes": [cause.plain()]}
    return Refusal(403, "Forbidden", message, details)


def invalid(kind: str, group: str, name: str, causes: Sequence[Cause]) -> Refusal:
    """422: which fields are wrong and how."""
    told = [f"{cause.field}: {cause.message}" for cause in causes]
    what = told[0] if len(told) == 1 else "[" + ", ".join(told) + "]"
    qualified = f"{kind}.{group}" if group else kind
    details: dict[str, Any] = {"name": name} if name else {}
    if group:
        details["group"] = group
    details |= {"kind": kind, "causes": [cause.plain() for cause in causes]}
    return Refusal(422, "Invalid", f'{qualified} "{name}" is invalid: {what}', details)


def unauthorized() -> Refusal:
    """401."""
    return Refusal(401, "Unauthorized", "Unauthorized")


def expired(asked: int, current: int) -> Refusal:
    """410: a version that is no longer remembered."""
    return Refusal(410, "Expired", f"too old resource version: {asked} ({current})")


def not_acceptable() -> Refusal:
    """406."""
    offers = "application/json, application/json;stream=watch"
    message = f"406: Not Acceptable\n\nAvailable representations: {offers}"
    return Refusal(406, "NotAcceptable", message, {})


def unsupported_patch() -> Refusal:
    """415: no known kind of patch."""
    return Refusal(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})


def unsupported_body() -> Refusal:
    """415: no known kind of body."""
    message = (
        "the body of the request was in an unknown format - accepted media types include: "
        "application/json, application/yaml"
    )
    return Refusal(415, "UnsupportedMediaType", message)


def patch_refused() -> Refusal:
    """422: a JSON patch that does not fit."""
    message = "the server rejected our request due to an error in our request"
    return Refusal(422, "Invalid", message, {})


def budget_exceeded(name: str, needed: int, healthy: int) -> Refusal:
    """429 as a real server sends it: without Retry-After."""
    cause = {
        "reason": "DisruptionBudget",
        "message": (
            f"The disruption budget {name} needs {needed} healthy pods and has {healthy} currently"
        ),
    }
    message = "Cannot evict pod as it would violate the pod's disruption budget."
    return Refusal(429, "TooManyRequests", message, {"causes": [cause]})
