"""Plain JSON from a Kubernetes API, by the ways in of the `kubernetes` client.

The client makes an object with a hundred fields of every pod: 5,000 of them take seconds and
hundreds of megabytes. What is asked often is read as JSON, in pages.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from aftershock.cluster.refusals import answered
from aftershock.errors import HostUnreachable

if TYPE_CHECKING:
    from aftershock.cluster.api import Cluster

TIMEOUT_S = 5.0
PAGE = 500

Json = dict[str, Any]


class Rest:
    """GETs on one cluster's API, over connections of its own. Safe from several threads."""

    def __init__(self, cluster: Cluster, retries: int = 2) -> None:
        from kubernetes import client
        from urllib3.util import Retry

        self.namespace = cluster.namespace
        self.kubeconfig = cluster.kubeconfig
        self.zone_label = cluster.zone_label
        settings = copy.copy(cluster.api_client.configuration)
        settings.retries = Retry(retries, backoff_factor=0.1)
        way_in = self._way_in = client.ApiClient(settings)
        self.core = client.CoreV1Api(way_in)
        self.version = client.VersionApi(way_in)
        self.discovery = client.DiscoveryV1Api(way_in)
        self.policy = client.PolicyV1Api(way_in)
        self.autoscaling = client.AutoscalingV2Api(way_in)
        self._error = client.ApiException

    def close(self) -> None:
        """Let go of the connections."""
        self._way_in.rest_client.pool_manager.clear()

    def get(self, call: Any, /, *arguments: Any, **named: Any) -> Json:
        """What a function of the client answers, as JSON; `HostUnreachable`, `Refused`."""
        answer = self.open(call, *arguments, **{"_request_timeout": TIMEOUT_S, **named})
        with self._reaching(call), contextlib.closing(answer):
            content: Json = json.loads(answer.data)
        return content

    def pages(self, call: Any, /, *arguments: Any, **named: Any) -> Iterator[Json]:
        """The pages of a list, one in memory at a time. `Expired` when it took the reader long."""
        rest = None
        while True:
            more: dict[str, Any] = {"_continue": rest} if rest else {}
            page = self.get(call, *arguments, limit=PAGE, **named, **more)
            yield page
            rest = page["metadata"].get("continue")
            if not rest:
                return

    def items(self, call: Any, /, *arguments: Any, **named: Any) -> Iterator[Json]:
        """The objects of a list, page by page."""
        for page in self.pages(call, *arguments, **named):
            yield from page["items"]

    def open(self, call: Any, /, *arguments: Any, **named: Any) -> Any:
        """The response as urllib3 gives it, its body still to be read; errors as `get` has them."""
        with self._reaching(call):
            answer = call(*arguments, _preload_content=False, **named)
            if answer.status >= 400:
                with contextlib.closing(answer):
                    self._refuse(call, answer.status, answer.data)
        return answer

    @contextlib.contextmanager
    def _reaching(self, call: Any) -> Iterator[None]:
        from urllib3.exceptions import HTTPError

        try:
            yield
        except self._error as error:
            if not error.status:  # TLS: the server was not even spoken to
                raise self._unreachable(call, error) from error
            self._refuse(call, error.status, error.body or error.reason or "")
        except (HTTPError, OSError, ValueError) as error:
            raise self._unreachable(call, error) from error

    def _unreachable(self, call: Any, error: Exception) -> HostUnreachable:
        return HostUnreachable(
            f"the Kubernetes API does not answer {call.__name__} ({type(error).__name__}): "
            f"check the kubeconfig {self.kubeconfig}"
        )

    @staticmethod
    def _refuse(call: Any, status: int, body: bytes | str) -> None:
        text = body.decode(errors="replace") if isinstance(body, bytes) else body
        with contextlib.suppress(ValueError, AttributeError):
            text = json.loads(text).get("message") or text
        raise answered(call.__name__, int(status), text.strip()[:300])
