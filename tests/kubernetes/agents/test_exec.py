"""Commands in the lab's pods: `exec` as kubectl and the Python client ask for it."""

import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from aftershock.lab.world import Lab
from tests.kubernetes.conftest import needs_kubectl

pytestmark = pytest.mark.root


@pytest.fixture
def pod(core: Any) -> str:
    pods = core.list_namespaced_pod("inference").items
    return next(str(one.metadata.name) for one in pods if one.spec.node_name == "node-a-1")


def kubectl(
    lab: Lab, pod: str, *words: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    command = ["kubectl", "--kubeconfig", str(lab.kubeconfig), "exec", *words]
    env = {**os.environ, "KUBECACHEDIR": str(lab.lab_dir / "cache")}
    return subprocess.run(
        command, input=stdin, capture_output=True, check=False, env=env, timeout=20
    )


@needs_kubectl
def test_kubectl_exec(lab: Lab, pod: str) -> None:
    done = kubectl(lab, pod, pod, "--", "ip", "-br", "-4", "addr", "show", "eth0")
    assert done.returncode == 0 and b"10.97.1.1/16" in done.stdout, "it is in the pod's network"
    done = kubectl(lab, pod, pod, "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout) == (3, b"out\n") and b"err\n" in done.stderr
    every = bytes(range(256)) * 1000
    done = kubectl(lab, pod, "-i", pod, "--", "cat", stdin=every)
    same = done.stdout == every  # not in the assertion: the difference of such texts takes minutes
    assert done.returncode == 0 and same, "its input ends, and nothing is changed"
    done = kubectl(lab, pod, "nosuch", "--", "true")
    assert done.returncode == 1 and b'pods "nosuch" not found' in done.stderr


@needs_kubectl
def test_kubectl_exec_on_a_terminal(lab: Lab, pod: str) -> None:
    command = ["kubectl", "--kubeconfig", str(lab.kubeconfig), "exec", "-it", pod, "--"]
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [*command, "sh", "-c", "tty; read line; echo got $line"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    said = b""
    with suppress(OSError):
        while chunk := os.read(ours, 4096):
            said += chunk
            if b"/dev/pts" in chunk:
                os.write(ours, b"hello\n")
    os.close(ours)
    assert child.wait(10) == 0 and b"got hello" in said


CLIENT = """
import sys, time
from pathlib import Path
from kubernetes import client, config
from kubernetes.stream import stream
config.load_kube_config(sys.argv[1])
core = client.CoreV1Api()
for protocol in ("v4.channel.k8s.io", "v5.channel.k8s.io"):
    core.api_client.set_default_header("sec-websocket-protocol", protocol)
    mark = Path(sys.argv[3], protocol)
    command = ["sh", "-c", f"cat >/dev/null; echo over; echo over >{mark}"]
    way = stream(
        core.connect_get_namespaced_pod_exec, sys.argv[2], "inference", command=command, stdin=True,
        stdout=True, stderr=True, tty=False, binary=True, _preload_content=False)
    assert way.subprotocol == protocol
    way.write_stdin(b"x" * 100_000)
    time.sleep(0.1)
    assert not mark.exists()
    if protocol.startswith("v5"):
        way.close_channel(0)
        way.run_forever(timeout=5)
        assert way.read_stdout() == b"over\\n" and way.returncode == 0
    way.close()
    while not mark.exists():
        time.sleep(0.01)
"""


def test_the_input_ends_with_its_client(lab: Lab, pod: str, tmp_path: Path) -> None:
    """Only v5 can close it alone; on both a client that goes away ends it, not the command.

    By the Python client in a process of its own, since it leaves a socket to the collector.
    """
    words = [sys.executable, "-c", CLIENT, str(lab.kubeconfig), pod, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
