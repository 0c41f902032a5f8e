"""Users with rules of their own, as Roles have them, and what they ask of their rights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aftershock.lab.kubernetes import status
from aftershock.lab.kubernetes.requests import Target

_REVIEWS = ["apis", "authorization.k8s.io", "v1"]
_ACCESS, _RULES = "selfsubjectaccessreviews", "selfsubjectrulesreviews"
_OPEN_TO_ALL = ("/api", "/apis", "/healthz", "/livez", "/openapi", "/readyz", "/version")
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True)
class Rights:
    """What a user may do: rules by namespace; those of the namespace "" hold everywhere."""

    user: str
    rules: Mapping[str, Iterable[Mapping[str, Any]]] = field(default_factory=dict)

    def allows(self, verb: str, group: str, resource: str, namespace: str) -> bool:
        """Whether a rule grants it; `resource` may have a subresource after a slash."""
        rules = [*self.rules.get("", ()), *(self.rules.get(namespace, ()) if namespace else ())]
        return any(
            _has(rule.get("verbs"), verb)
            and _has(rule.get("apiGroups"), group)
            and _has(rule.get("resources"), resource)
            for rule in rules
        )

    def check(self, method: str, target: Target, watches: bool) -> None:
        """Refuse (403) what no rule grants, in the words of a real server."""
        resource = target.resource
        plural = "/".join(filter(None, (resource.plural, target.subresource)))
        # A namespace is asked for within itself: a Role there may grant it.
        within = target.namespace or (target.name if resource.plural == "namespaces" else "")
        verb = _verb(method, target, watches)
        if self.allows(verb, resource.group, plural, within):
            return
        where = f'in the namespace "{within}"' if within else "at the cluster scope"
        name = f' "{target.name}"' if target.name else ""
        message = (
            f'{resource.qualified}{name} is forbidden: User "{self.user}" cannot {verb} resource '
            f'"{plural}" in API group "{resource.group}" {where}'
        )
        details: dict[str, Any] = {"name": target.name} if target.name else {}
        details |= {"group": resource.group} if resource.group else {}
        raise status.Refusal(403, "Forbidden", message, {**details, "kind": resource.plural})


def kind_of_review(parts: list[str]) -> str:
    """The kind of review that is asked for at a path; nothing where it is none."""
    return parts[3] if len(parts) == 4 and parts[:3] == _REVIEWS and parts[3] in _ANSWERED else ""


def review(kind: str, body: Any, rights: Rights | None) -> dict[str, Any]:
    """Answer a review of one's own rights; without any of its own a user may do everything."""
    spec = body.get("spec") if isinstance(body, Mapping) else None
    if not isinstance(spec, Mapping):
        raise status.bad_request("spec: Required value")
    name, answer = _ANSWERED[kind]
    return {
        "kind": name,
        "apiVersion": "authorization.k8s.io/v1",
        "metadata": {},
        "spec": spec,
        "status": answer(spec, rights),
    }


def _access(spec: Mapping[str, Any], rights: Rights | None) -> dict[str, Any]:
    asked, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if isinstance(path, Mapping):
        to_all = path.get("verb") == "get" and str(path.get("path")).startswith(_OPEN_TO_ALL)
        return {"allowed": rights is None or to_all}
    if not isinstance(asked, Mapping):
        raise status.bad_request("spec.resourceAttributes: Required value")
    plural = "/".join(filter(None, (asked.get("resource"), asked.get("subresource"))))
    allowed = rights is None or rights.allows(
        asked.get("verb", ""), asked.get("group", ""), plural, asked.get("namespace", "")
    )
    return {"allowed": allowed}


def _rules(spec: Mapping[str, Any], rights: Rights | None) -> dict[str, Any]:
    everything: dict[str, Any] = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
    found = [everything]
    if rights is not None:
        namespace = spec.get("namespace", "")
        found = [dict(one) for name in {"", namespace} for one in rights.rules.get(name, ())]
    open_to_all = {"verbs": ["get"], "nonResourceURLs": list(_OPEN_TO_ALL)}
    return {"resourceRules": found, "nonResourceRules": [open_to_all], "incomplete": False}


_ANSWERED = {
    _ACCESS: ("SelfSubjectAccessReview", _access),
    _RULES: ("SelfSubjectRulesReview", _rules),
}


def _verb(method: str, target: Target, watches: bool) -> str:
    if method == "GET":
        return "watch" if watches else "get" if target.name else "list"
    if method == "DELETE" and not target.name:
        return "deletecollection"
    return _VERBS.get(method, method.lower())


def _has(granted: Any, wanted: str) -> bool:
    return "*" in (granted or ()) or wanted in (granted or ())
