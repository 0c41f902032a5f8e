"""The API server: HTTPS on loopback, a bearer token, and the paths that clients ask for."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from aftershock.lab.kubernetes import discovery, fields, protobuf, status
from aftershock.lab.kubernetes.authorization import Rights, kind_of_review, review
from aftershock.lab.kubernetes.cluster import Cluster
from aftershock.lab.kubernetes.credentials import kubeconfig, server_credentials, write_private
from aftershock.lab.kubernetes.requests import Call, Target, answer, parse_target
from aftershock.lab.kubernetes.status import Refusal
from aftershock.lab.kubernetes.streams import serve_exec
from aftershock.lab.kubernetes.verbs import PATCHES
from aftershock.lab.kubernetes.watches import serve_watch

_log = logging.getLogger(__name__)
_HEADERS = {"Cache-Control": "no-cache, private"}
_OPEN = ("version", "healthz", "readyz", "livez")
_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_LONGEST_BODY = 3 * 1024 * 1024


class ApiServer:
    """Serves a cluster on 127.0.0.1; `start` gives the server itself, with `url` and `token`.

    `inside`: a listening socket on which pods reach it, where they don't have our loopback device.
    """

    def __init__(
        self,
        cluster: Cluster,
        token: str | None = None,
        port: int = 0,
        host: str = "127.0.0.1",
        inside: socket.socket | None = None,
    ) -> None:
        self._cluster = cluster
        self.token = token or secrets.token_urlsafe(24)
        self._host, self._port = host, port
        self._inside = inside
        own = {host: 0, **({inside.getsockname()[0]: 0} if inside else {})}
        self._context, self.ca = server_credentials(*own)
        self._runner: web.AppRunner | None = None
        self._watching: set[asyncio.Task[Any]] = set()
        self.users: dict[str, Rights] = {}  # by token; that of `token` may do everything

    @property
    def url(self) -> str:
        return f"https://{self._host}:{self._port}"

    async def start(self) -> ApiServer:
        """Listen; a port of 0 is replaced by the one that was free."""
        app = web.Application(client_max_size=_LONGEST_BODY)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port, ssl_context=self._context)
        try:
            await site.start()
            if self._inside:
                await web.SockSite(self._runner, self._inside, ssl_context=self._context).start()
        except OSError:
            await self._runner.cleanup()
            raise
        self._port = self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        """End all watches and close the port."""
        for task in self._watching:
            task.cancel()
        if self._runner is None:
            return
        # A client that keeps its connection would hold a TLS shutdown up for half a minute.
        for connection in self._runner.server.connections if self._runner.server else ():
            if connection.transport:
                connection.transport.abort()
        await self._runner.cleanup()

    def write_kubeconfig(
        self,
        path: str | Path,
        namespace: str = "default",
        name: str = "aftershock-lab",
        rights: Rights | None = None,
    ) -> Path:
        """Write the kubeconfig that leads here, readable by its owner alone, and the CA beside it.

        `rights`: it is that of a user who may do this much. Given the CA within the kubeconfig, the
        `kubernetes` client would write it into a file of its own in /tmp, which stays there when
        its process is killed.
        """
        place = Path(path).absolute()
        authority = place.with_name(f"{place.name}-ca.pem")
        write_private(authority, self.ca.decode())
        token = self.token
        if rights is not None:
            token = secrets.token_urlsafe(24)
            self.users[token] = rights
        write_private(place, kubeconfig(self.url, authority, token, name, namespace))
        return place

    def write_account(self, folder: Path) -> None:
        """Write what a pod finds of its service account, and tell the pods where it is.

        A real one finds it at a fixed place in its own file system; ours have none of their own.
        """
        folder.mkdir(mode=0o700)
        write_private(folder / "token", self.token)
        write_private(folder / "ca.crt", self.ca.decode())
        host, port = self._inside.getsockname() if self._inside else (self._host, self._port)
        self._cluster.environment |= {
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": str(port),
            "AFTERSHOCK_SERVICE_ACCOUNT": str(folder),
        }

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._route(request)
        except Refusal as refusal:
            return _json(refusal.status(), refusal.code)
        except (web.HTTPException, ConnectionError):
            raise
        except Exception:
            _log.exception("%s %s failed", request.method, request.path)
            broken = Refusal(500, "InternalError", "Internal error occurred: see the lab's log")
            return _json(broken.status(), 500)

    async def _route(self, request: web.Request) -> web.StreamResponse:  # noqa: PLR0911
        parts = [part for part in request.path.split("/") if part]
        first = parts[0] if parts else ""
        rights = self._rights(request) if first not in _OPEN else None
        if (kind := kind_of_review(parts)) and request.method == "POST":
            return _json(review(kind, await _body(request), rights), 201)
        if (document := self._document(request, parts)) is not None:
            return document
        target = parse_target(parts)
        if target is None:
            return _text("404 page not found\n", 404)
        watches = target.watches or request.query.get("watch") in ("1", "true", "True")
        if rights is not None:
            rights.check(request.method, target, watches)
        if watches:
            if request.method != "GET" or target.subresource:
                raise status.method_not_allowed()
            return await self._watch(request, target)
        if target.subresource == "exec" and request.method in ("GET", "POST"):
            store, kubelets = self._cluster.store, self._cluster.kubelets
            return await serve_exec(request, store, kubelets, target.namespace, target.name)
        body = (
            await _body(request) if request.method in ("POST", "PUT", "PATCH", "DELETE") else None
        )
        if request.query.get("fieldValidation") == "Strict" and not target.subresource:
            await asyncio.to_thread(fields.models)
            fields.check_fields(target.resource, body)
        call = Call(request.method, request.query, request.headers, body)
        code, content = answer(self._cluster.store, self._cluster.verbs, target, call)
        if isinstance(content, str):
            return _text(content, code)
        return _json(content, code)

    async def _watch(self, request: web.Request, target: Target) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._watching.add(task)
        try:
            return await serve_watch(request, self._cluster.store, target, _HEADERS)
        finally:
            self._watching.discard(task)

    def _rights(self, request: web.Request) -> Rights | None:
        """The rights of whoever asks; None: all."""
        given = request.headers.get("Authorization", "").encode()
        if secrets.compare_digest(given.lower()[:7] + given[7:], f"bearer {self.token}".encode()):
            return None
        for token, rights in self.users.items():
            if secrets.compare_digest(given, f"Bearer {token}".encode()):
                return rights
        raise status.unauthorized()

    def _document(self, request: web.Request, parts: list[str]) -> web.Response | None:  # noqa: PLR0911, PLR0912
        """Health, version, discovery and OpenAPI; None: the path is none of these."""
        if parts and parts[0] in ("healthz", "readyz", "livez"):
            known = len(parts) == 1 or parts[1:] == ["ping"]
            return _text("ok") if known else _text("404 page not found\n", 404)
        asked = request.headers.get("Accept", "")
        # Older clients ask for v2beta1 of it first, which no server of this version has.
        merged = "v=v2;as=APIGroupDiscoveryList" in asked
        match parts:
            case []:
                return _json({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/version"]})
            case ["version"]:
                return _json(discovery.VERSION)
            case ["api"] if merged:
                return _json(discovery.aggregated(core=True), kind=_AGGREGATED)
            case ["api"]:
                return _json(discovery.api_versions(f"{self._host}:{self._port}"))
            case ["apis"] if merged:
                return _json(discovery.aggregated(core=False), kind=_AGGREGATED)
            case ["apis"]:
                return _json(discovery.group_list())
            case ["api", version]:
                return _found(discovery.resource_list("", version))
            case ["apis", name]:
                group = discovery.group(name)
                return _json(group) if group else _text("404 page not found\n", 404)
            case ["apis", name, version]:
                if discovery.group(name) is None:
                    return _text("404 page not found\n", 404)
                return _found(discovery.resource_list(name, version))
            case ["openapi", "v2"] if discovery.OPENAPI_V2 in asked:
                told = discovery.openapi_v2_packed()
                return web.Response(body=told, headers={"Content-Type": discovery.PACKED_V2})
            case ["openapi", "v2"]:
                return _json(discovery.openapi_v2())
            case ["openapi", "v3"]:
                return _json(discovery.openapi_paths())
            case ["openapi", "v3", "api", version]:
                return _found(discovery.openapi_document("", version))
            case ["openapi", "v3", "apis", name, version]:
                return _found(discovery.openapi_document(name, version))
        return None


async def _body(request: web.Request) -> Any:
    """The body's content; a DELETE without one has none."""
    raw = await request.read()
    if not raw:
        return None
    kind = request.content_type
    if request.method == "PATCH" and kind not in PATCHES:
        raise status.unsupported_patch()
    if request.method == "PATCH" and kind == "application/apply-patch+yaml":
        return yaml.safe_load(raw)
    if request.method in ("POST", "PUT"):
        if kind == "application/yaml":
            return yaml.safe_load(raw)
        if kind == protobuf.MEDIA_TYPE:
            return protobuf.decode(raw)
        if kind not in ("application/json", "application/octet-stream"):
            raise status.unsupported_body()
    try:
        return json.loads(raw)
    except ValueError as error:
        what = "error decoding patch" if request.method == "PATCH" else "couldn't get version/kind"
        raise status.bad_request(f"{what}; json parse error: {error}") from None


def _found(document: Mapping[str, Any] | None) -> web.Response:
    if document is None:
        raise status.no_such_path()
    return _json(document)


def _json(body: Any, code: int = 200, kind: str = "application/json") -> web.Response:
    text = json.dumps(body, separators=(",", ":")).encode() + b"\n"
    return web.Response(body=text, status=code, headers={**_HEADERS, "Content-Type": kind})


def _text(text: str, code: int = 200) -> web.Response:
    return web.Response(text=text, status=code, headers=_HEADERS, content_type="text/plain")
