"""Processes of a host, chosen by PID, pattern and cgroup: frozen while they serve, and killed."""

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cgroups import group, running
from held import HERE
from wires import wait_for

from aftershock.errors import InvalidFault, InvalidInput, NotApplied
from aftershock.faults.freeze import Freeze
from aftershock.faults.kill import Kill
from aftershock.faults.processes import Processes
from aftershock.hosts.fleet import Fleet

pytestmark = pytest.mark.root

# A server with a child of its own that answers; both must freeze.
SERVER = """
import http.server, os, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *_): pass
made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
if os.fork():
    print(made.server_port, flush=True)
    os.wait()
else:
    made.serve_forever()
"""
# Like systemd: whatever it runs is started anew.
KEEPER = """
import subprocess, sys
print("up", flush=True)
while True:
    subprocess.call(["sleep", sys.argv[1]])
"""


@contextmanager
def server(mark: str) -> Iterator[tuple[int, int]]:
    """PID and port."""
    words = [sys.executable, "-c", SERVER, mark]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout
        yield process.pid, int(process.stdout.readline())
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def answers(port: int) -> bool:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=0.3)
    try:
        line.request("GET", "/")
        return line.getresponse().status == 200
    except OSError:
        return False
    finally:
        line.close()


def test_a_tree_frozen_while_it_serves_goes_on_after_the_heal(make: Any) -> None:
    with server("mark-tree") as (pid, port):
        injection = make(Freeze(processes=(Processes(pid=pid),)), fire=False)
        assert answers(port), "armed, yet nothing is felt"
        injection.fire()
        assert not answers(port), "the child of the one that was named is frozen, too"
        assert injection.observe()["bit"] is True, injection.evidence
        injection.revert()
        assert wait_for(lambda: answers(port))
        assert injection.to_dict()["clean"] and injection.to_dict()["ordered"]


def test_what_is_frozen_goes_on_when_the_agent_is_killed(make: Any, fleet: Fleet) -> None:
    with server("mark-thaw") as (_, port):
        injection = make(Freeze(processes=(Processes(pattern="mark-thaw", count=2),)))
        assert not answers(port)
        os.kill(fleet.fresh(HERE).pid, signal.SIGKILL)
        assert wait_for(lambda: answers(port))
        injection.revert()
        assert injection.to_dict()["healed_early"] is True


def test_a_cgroup_is_frozen_with_all_that_is_in_it(make: Any) -> None:
    with group("freezer") as made, server("mark-group") as (pid, port):
        for one in (pid, *children(pid)):
            made.join(one)
        injection = make(Freeze(processes=(Processes(cgroup=made.path),)))
        assert not answers(port) and injection.observe()["bit"] is True
        injection.revert()
        assert wait_for(lambda: answers(port))


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_who_must_not_be_touched_is_refused_by_name(
    make: Any, fleet: Fleet, tmp_path: Path
) -> None:
    daemon = tmp_path / "sshd"
    daemon.symlink_to("/bin/sleep")
    gone = subprocess.Popen(["true"])
    gone.wait()
    agent = fleet.fresh(HERE).pid
    with (
        running("sh", "-c", f"echo up; exec {daemon} 77") as secure,
        running("sh", "-c", "echo up; exec sleep 7654") as twin,
        running("sh", "-c", "echo up; exec sleep 7654"),
    ):
        wait_for(lambda: Path(f"/proc/{secure.pid}/comm").read_text().strip() == "sshd")
        refusals: list[tuple[dict[str, Any], str]] = [
            ({"pid": gone.pid}, f"no process {gone.pid} here: has it ended"),
            ({"pid": agent}, "which is our own"),
            ({"pid": os.getpid()}, "which is our own"),
            ({"pid": os.getppid()}, "which is our own"),
            ({"pid": secure.pid}, r"the SSH daemon \(sshd\)"),
            ({"pid": 2}, "kernel thread|no process 2 here|which is our own"),
            ({"pattern": "sleep 7654"}, "matches 2 processes, not 1"),
            ({"pattern": "sleep 7654", "count": 3}, "matches 2 processes, not 3"),
            ({"pattern": "no-such-words"}, "no process of pattern no-such-words"),
            ({"cgroup": "/no/such"}, "no process of cgroup /no/such"),
        ]
        for words, said in refusals:
            which = Processes(**words)
            fault = (
                Kill(which) if words.keys() & {"count", "cgroup"} else Freeze(processes=(which,))
            )
            with pytest.raises((InvalidInput, NotApplied), match=said):
                make(fault)
        assert twin.poll() is None and secure.poll() is None
        assert "t" not in Path(f"/proc/{twin.pid}/stat").read_text().rpartition(")")[2].split()[0]


# It joins a cgroup after all the others, and means the processes in there to be hurt.
JOINER = """
import os, sys
from aftershock.agent import chosen, limits, throttling
from aftershock.agent.errors import Invalid
for procs in sys.argv[2:]:
    open(procs, "w").write(str(os.getpid()))
choice = {"cgroup": sys.argv[1]}
for hurt in (
    lambda: chosen.find_exactly(choice),
    lambda: limits.group_of(choice, "memory"),
    lambda: throttling._spare(set(chosen.find(choice)), "it"),
):
    try:
        hurt()
    except Invalid as why:
        print(why)
"""


def test_a_cgroup_of_ours_is_refused_as_ours_whoever_else_is_in_it(tmp_path: Path) -> None:
    daemon = tmp_path / "sshd"
    daemon.symlink_to("/bin/sleep")
    with group("memory") as made, running("sh", "-c", f"echo up; exec {daemon} 77") as secure:
        wait_for(lambda: Path(f"/proc/{secure.pid}/comm").read_text().strip() == "sshd")
        made.join(secure.pid)
        procs = [str(folder / "cgroup.procs") for folder in made.folders.values()]
        refused = subprocess.run(
            [sys.executable, "-c", JOINER, made.path, *procs],
            capture_output=True,
            text=True,
            check=True,
        )
    assert refused.stdout.count("which is our own") == 3, refused.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({}, "named by nothing"),
        ({"pid": 1}, "the host lives by it"),
        ({"pid": 5, "pattern": "x"}, "named by pid and pattern"),
        ({"pattern": "("}, "unterminated"),
        ({"pattern": ".*"}, "matches everything"),
        ({"pattern": "x", "count": 0}, "count 0"),
        ({"cgroup": "/"}, "below the root"),
        ({"cgroup": "system.slice"}, "a path as /proc/PID/cgroup shows it"),
    ],
)
def test_nonsense_is_refused(words: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidFault, match=said):
        Processes(**words)


def test_a_pid_is_killed_once() -> None:
    with pytest.raises(InvalidFault, match="name it by a pattern"):
        Kill(Processes(pid=99), times=2)


def test_a_killed_process_is_gone_and_armed_ones_live(make: Any) -> None:
    with (
        running("sh", "-c", "echo up; exec sleep 8801") as one,
        running("sh", "-c", "echo up; exec sleep 8802") as other,
    ):
        injection = make(Kill(Processes(pid=one.pid)), fire=False)
        time.sleep(0.1)
        assert one.poll() is None, "armed, yet nothing is done"
        injection.fire()
        assert one.wait(5) == -signal.SIGKILL and other.poll() is None
        assert injection.observe()["bit"] is True
        injection.revert()
        assert injection.to_dict()["ordered"] and injection.to_dict()["clean"]


def test_a_number_that_is_anothers_by_now_is_never_hit(make: Any) -> None:
    """The process that was armed for ends; whoever has its number at the firing lives on."""
    first = subprocess.Popen(["sleep", "8803"])
    injection = make(Kill(Processes(pid=first.pid)), fire=False)
    first.kill()
    first.wait()
    with stranger_with(first.pid) as other:
        with pytest.raises(NotApplied, match="have ended since the arming"):
            injection.fire()
        assert other.poll() is None


@contextmanager
def stranger_with(pid: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that was given just this number, as the kernel lets root choose it."""
    last = Path("/proc/sys/kernel/ns_last_pid")
    for _ in range(200):
        last.write_text(str(pid - 1))
        process = subprocess.Popen(["sleep", "8804"])
        if process.pid == pid:
            break
        process.kill()
        process.wait()
    else:
        pytest.skip("the number was not given out again")
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_process_is_killed_again_each_time_it_is_started_anew(make: Any, fleet: Fleet) -> None:
    with running(sys.executable, "-c", KEEPER, "8805") as keeper:
        assert wait_for(lambda: bool(children(keeper.pid)))
        seen: set[int] = set()
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.01):
                seen.update(children(keeper.pid))

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            injection = make(Kill(Processes(pattern="^sleep 8805"), times=3, every_s=1))
            assert injection.observe()["bit"] is True
            assert wait_for(lambda: len(seen) >= 4, 20), "three were killed, a fourth came"
            injection.revert()
            (step,) = injection.to_dict()["per_host"]["here"]["seen"]
            assert step["turns"] == step["killed"] == 3
        finally:
            done.set()
            watching.join()


def test_killing_ends_with_the_agent(make: Any, fleet: Fleet) -> None:
    with running(sys.executable, "-c", KEEPER, "8806") as keeper:
        assert wait_for(lambda: bool(children(keeper.pid)))
        make(Kill(Processes(pattern="^sleep 8806"), times=100, every_s=1))
        os.kill(fleet.fresh(HERE).pid, signal.SIGKILL)
        assert wait_for(lambda: bool(children(keeper.pid)))
        left = children(keeper.pid)
        time.sleep(1.7)
        assert children(keeper.pid) == left
