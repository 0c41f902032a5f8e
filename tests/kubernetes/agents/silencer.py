"""A line to the API server that goes silent on order: nothing passes, and nothing is closed."""

import re
import socket
import threading
from pathlib import Path
from types import TracebackType

from aftershock.lab.world import Lab


class Silencer:
    """A relay on loopback. While `silent`, what either side sends waits."""

    def __init__(self, lab: Lab) -> None:
        assert lab.kubeconfig
        self._config = Path(lab.kubeconfig)
        found = re.search(r"https://127\.0\.0\.1:(\d+)", self._config.read_text())
        assert found
        self._target = int(found[1])
        self.silent = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._lines: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def kubeconfig(self, folder: Path) -> str:
        """One that leads through here."""
        own = self._server.getsockname()[1]
        text = self._config.read_text().replace(f":{self._target}", f":{own}")
        path = folder / "silencer-kubeconfig"
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            self._lines.append(near)
            far = socket.create_connection(("127.0.0.1", self._target))
            self._lines.append(far)
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while chunk := source.recv(1 << 16):
                while self.silent.is_set():
                    threading.Event().wait(0.02)
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def __enter__(self) -> "Silencer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.silent.clear()
        self._server.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._server.close()
        for line in self._lines:
            line.close()
