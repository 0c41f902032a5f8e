"""What we may do in a cluster, asked before anything is done (SelfSubjectAccessReview)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from aftershock.cluster.api import Cluster
from aftershock.cluster.refusals import Refused
from aftershock.errors import AftershockError

logger = logging.getLogger("chaostoolkit")
_AT_ONCE = 8


class NotPermitted(AftershockError):
    """Something that an action needs is forbidden; nothing was touched."""


@dataclass(frozen=True, slots=True, order=True)
class Permission:
    """A verb on a resource, as rules of a Role have it; no namespace: in all of them."""

    verb: str
    resource: str
    namespace: str = ""
    group: str = ""

    def __str__(self) -> str:
        name = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {name}{f' in namespace {self.namespace}' if self.namespace else ''}"


def missing(cluster: Cluster, wanted: Iterable[Permission]) -> list[Permission]:
    """Those that we don't have. Where a cluster lets nobody ask, none is missing."""
    asked = sorted(set(wanted))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        allowed = list(pool.map(lambda one: _is_allowed(cluster, one), asked))
    return [one for one, granted in zip(asked, allowed, strict=True) if not granted]


def require(cluster: Cluster, wanted: Iterable[Permission]) -> None:
    """`NotPermitted` names each permission that is missing."""
    if lacking := missing(cluster, wanted):
        # Who may not ask for namespaces is told of missing rights where there is none of that name.
        other = "context or namespace" if any(one.namespace for one in lacking) else "context"
        raise NotPermitted(
            f"{cluster.access.place} does not let us {'; '.join(map(str, lacking))}: grant it "
            f"(deploy/rbac-pods.yaml, deploy/rbac-nodes.yaml), or name another {other}"
        )


def _is_allowed(cluster: Cluster, one: Permission) -> bool:
    from kubernetes import client

    resource, _, subresource = one.resource.partition("/")
    attributes = client.V1ResourceAttributes(
        verb=one.verb,
        group=one.group,
        resource=resource,
        subresource=subresource or None,
        namespace=one.namespace or None,
    )
    spec = client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
    ask = client.AuthorizationV1Api(cluster.api_client).create_self_subject_access_review
    try:
        answer = cluster.call(ask, client.V1SelfSubjectAccessReview(spec=spec))
    except Refused as error:
        logger.debug("not known whether we may %s: %s", one, error)
        return True
    return bool(answer.status.allowed)
