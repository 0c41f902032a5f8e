"""A TCP relay before an API server: its connections can be cut, or go silent, and it can refuse."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml


class Relay:
    """Listens on loopback and passes bytes on, while it is let."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        server = urlsplit(cluster["server"])
        self._server = (server.hostname or "", server.port or 443)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        cluster |= {
            "server": f"https://127.0.0.1:{port}",
            "tls-server-name": cluster.get("tls-server-name", server.hostname),
        }
        self.kubeconfig = folder / "through-relay"
        self.kubeconfig.write_text(yaml.safe_dump(config))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._silent = threading.Event()
        self._refusing = threading.Event()
        self._holding = threading.Event()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept)

    def cut(self) -> None:
        """Reset every connection and take no new ones."""
        self._refusing.set()
        self.reset()

    def reset(self) -> None:
        """Reset every connection."""
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RDWR)

    def silence(self) -> None:
        """Swallow what comes, as a network that drops everything."""
        self._silent.set()

    def hold_back(self) -> None:
        """Pass nothing on and lose nothing, as TCP over a network that drops for a while."""
        self._holding.set()

    def release(self) -> None:
        """Pass on what was held back."""
        self._holding.clear()

    def mend(self) -> None:
        """New connections go through again; those that were silent stay lost."""
        self._silent.clear()
        self._refusing.clear()

    def close(self) -> None:
        self._ended.set()
        self._listener.close()
        self.reset()
        for thread in self._threads:
            thread.join(5)

    def _spawn(self, job: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=job, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            if not select.select([self._listener], [], [], 0.1)[0]:
                continue
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing.is_set():
                near.close()
                continue
            far = socket.create_connection(self._server)
            self._pairs.append((near, far))
            self._spawn(self._pass, near, far)

    def _pass(self, near: socket.socket, far: socket.socket) -> None:
        other = {near: far, far: near}
        with near, far:
            while not self._ended.is_set():
                try:
                    for end in select.select([near, far], [], [], 0.1)[0]:
                        if self._silent.is_set():
                            self._ended.wait(0.05)
                            if self._silent.is_set():
                                return self._hold(near, far)
                        while self._holding.is_set() and not self._ended.wait(0.02):
                            pass
                        if not (data := end.recv(65536)):
                            return None
                        other[end].sendall(data)
                except OSError:
                    return None
        return None

    def _hold(self, near: socket.socket, far: socket.socket) -> None:
        """Say nothing any more, not even that it is over."""
        while not self._ended.wait(0.1) and near.fileno() >= 0:
            pass
