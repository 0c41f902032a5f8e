"""A service that breaks by itself, in a process of its own, and a look at who is alive."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

LOOPBACK = ip_address("127.0.0.1")


class Service:
    """`service.py` in a process of its own; `events` is what it really did and when."""

    def __init__(self, *before: str, **plan: Any) -> None:
        """`before`: words in front of the command, such as those that enter a namespace."""
        self.events: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [*before, sys.executable, str(Path(__file__).with_name("service.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"port": 0, **plan}) + "\n")
        self.process.stdin.flush()
        self.port = self._next()["port"]
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _next(self) -> dict[str, Any]:
        assert self.process.stdout
        return dict(json.loads(self.process.stdout.readline()))

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def times(self, what: str) -> list[float]:
        return [event[what] for event in self.events if what in event]

    def stop(self) -> None:
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(3)
        self.process.kill()
        self.process.wait()
        self._reader.join(3)
        self.process.stdout.close()


def certificate(folder: Path) -> tuple[str, str]:
    """The files of a certificate for 127.0.0.1 that nobody signed but itself, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(LOOPBACK)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return str(paths[0]), str(paths[1])


def offspring(pid: int | None = None) -> set[int]:
    """All living descendants of a process, ours by default."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: set[int] = set()
    todo = [pid or os.getpid()]
    while todo:
        fresh = set(children.get(todo.pop(), ())) - found
        found |= fresh
        todo += fresh
    return found
