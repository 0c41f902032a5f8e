"""Users' commands on a host whose agent is in a container find the host's own programs."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.root
CODE = """
import os
from aftershock.agent.commands import run
here = os.readlink("/proc/self/ns/mnt")
there = run(["readlink", "/proc/self/ns/mnt"], 5.0, bound=True).said
print(here, os.readlink("/proc/1/ns/mnt"), there)
print(run(["nosuch-program"], 5.0).tell(5.0))
"""


@pytest.mark.parametrize("root", ["", "/proc/1/root"])
def test_commands_run_in_the_host_s_mounts(root: str) -> None:
    host = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    words = [*host, "sh", "-c", 'unshare --mount "$@"; true', "sh", sys.executable, "-c", CODE]
    env = {**os.environ, "AFTERSHOCK_HOST_ROOT": root}
    said = subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout
    here, first, there = said.splitlines()[0].split()
    assert here != first and there == (first if root else here)
    assert "No such file or directory: nosuch-program" in said
