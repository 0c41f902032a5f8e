"""Pod Security: what a namespace's label lets in of pods that reach for their node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aftershock.lab.kubernetes.resources import PODS
from aftershock.lab.kubernetes.status import Refusal

_LABEL = "pod-security.kubernetes.io/enforce"


def check_security(namespace: Mapping[str, Any], pod: Mapping[str, Any]) -> None:
    """403 where the namespace enforces `baseline` or `restricted` and the pod wants more.

    Of `restricted` only what `baseline` forbids, too: no pod of the lab's can be told apart by it.
    """
    level = (namespace["metadata"].get("labels") or {}).get(_LABEL, "privileged")
    if level == "privileged" or not (wants := list(_wants(pod["spec"]))):
        return
    name = pod["metadata"]["name"]
    told = f'violates PodSecurity "{level}:latest": {", ".join(wants)}'
    message = f'pods "{name}" is forbidden: {told}'
    raise Refusal(403, "Forbidden", message, {"name": name, "kind": PODS.plural})


def _wants(spec: Mapping[str, Any]) -> Iterator[str]:
    shared = [name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    if shared:
        yield f"host namespaces ({', '.join(f'{name}=true' for name in shared)})"
    for container in spec["containers"]:
        if (container.get("securityContext") or {}).get("privileged"):
            what = f'container "{container["name"]}" must not set securityContext.privileged=true'
            yield f"privileged ({what})"
