"""The lab's front door: HAProxy on 127.0.0.1, reaching the servers from the EDGE namespace.

EDGE lies on the bridge: from a node's own namespace HAProxy would connect over loopback and never
see a partition. `config` and `parse_stats` are pure; `read_slots` asks a running HAProxy.
"""

from __future__ import annotations

import csv
import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import StringIO

from aftershock.lab.settings import EDGE, MODEL, SERVER_PORT, LabFailed, LabSettings, Place

STATS_SOCKET = "/dev/shm/haproxy.sock"
BACKEND = "model"

# Without http-no-delay the kernel holds back a small first chunk for 200 ms, hoping for more.
# A connection for each request, so that one into a partition fails while connecting, where it can
# still be sent elsewhere; a kept one would swallow the request.
_RESILIENT = """\
  option http-server-close
  option redispatch 1
  option httpchk GET /health
  retries 3
  retry-on conn-failure empty-response 503
  timeout check 500ms
  default-server check inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions"""
# Who asks for a token learns of an engine that hangs while `/health` answers.
_CANARY = """\
  option http-server-close
  option redispatch 1
  option httpchk
  http-check send meth POST uri /v1/completions hdr Content-Type application/json body "%(body)s"
  http-check expect status 200
  retries 3
  retry-on conn-failure empty-response 503
  timeout check 2s
  default-server check inter 1s fall 2 rise 1 on-marked-down shutdown-sessions"""
_NAIVE = """\
  option http-server-close
  retries 0"""


_ASKED = json.dumps({"model": MODEL, "prompt": "Hi", "max_tokens": 1}).replace('"', '\\"')
_WAYS = {"resilient": _RESILIENT, "canary": _CANARY % {"body": _ASKED}, "naive": _NAIVE}


@dataclass(frozen=True, slots=True)
class Slot:
    """The gateway's view of one server place. Without health checks every place counts as up."""

    node: str
    zone: str
    up: bool
    status: str
    requests_total: int
    sessions: int


def config(settings: LabSettings) -> str:
    """HAProxy's configuration."""
    servers = "\n".join(
        f"  server {place.name} {place.ipv4}:{SERVER_PORT} namespace {EDGE}"
        for place in settings.places()
    )
    return f"""\
global
  nbthread 1
  noreuseport
  hard-stop-after 1s
  stats socket {STATS_SOCKET} mode 600 level admin

defaults
  mode http
  option http-no-delay
  timeout connect {settings.connect_timeout_ms}ms
  timeout client 120s
  timeout server 120s
  timeout http-request 10s
  timeout http-keep-alive 60s
  timeout queue 5s

frontend gateway
  bind 127.0.0.1:{settings.gateway_port}
  default_backend {BACKEND}

backend {BACKEND}
  balance roundrobin
  http-response set-header x-served-by %s
{_WAYS[settings.gateway]}
{servers}
"""


def parse_stats(text: str, zones: Mapping[str, str]) -> tuple[Slot, ...]:
    """The slots in HAProxy's `show stat`; `zones` maps a node to its zone."""
    rows = csv.DictReader(StringIO(text.removeprefix("# ")))
    return tuple(
        Slot(
            node=row["svname"],
            zone=zones[row["svname"]],
            up=row["status"].startswith(("UP", "no check")),
            status=row["status"],
            requests_total=int(row["stot"]),
            sessions=int(row["scur"]),
        )
        for row in rows
        if row["pxname"] == BACKEND and row["svname"] in zones
    )


def read_slots(stats_socket: str, places: Iterable[Place]) -> tuple[Slot, ...]:
    """Ask the HAProxy behind a stats socket; `LabFailed` when it does not answer."""
    try:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(2.0)
            asking.connect(stats_socket)
            asking.sendall(b"show stat\n")
            answer = b"".join(iter(lambda: asking.recv(65536), b""))
    except OSError as why:
        raise LabFailed(f"the lab's gateway does not answer at {stats_socket}: {why}") from why
    return parse_stats(answer.decode(), {place.name: place.zone for place in places})
