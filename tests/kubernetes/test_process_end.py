"""A process ends as it is told to, whatever its threads are asking an API that doesn't answer."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import yaml

SCRIPT = """
import sys, threading, time
from aftershock.cluster import Cluster
from aftershock.errors import AftershockError

cluster = Cluster(sys.argv[1])

def ask_on():
    while True:
        try:
            cluster.is_cordoned("node-a")
        except AftershockError:
            pass

threading.Thread(target=ask_on, daemon=True).start()
time.sleep(0.5)
sys.exit(3)
"""


def test_a_thread_in_the_midst_of_a_call_does_not_abort_the_process(tmp_path: Path) -> None:
    """The client's validation is native code, through which Python can't end a thread."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        server = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        path = tmp_path / "config"
        entry = {"name": "x", "cluster": {"server": server}}
        context = {"name": "x", "context": {"cluster": "x", "user": "x"}}
        users = [{"name": "x", "user": {}}]
        told = {"clusters": [entry], "contexts": [context], "users": users}
        path.write_text(yaml.safe_dump({**told, "current-context": "x"}))
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 3, (done.returncode, done.stderr)
    assert done.stderr == ""
