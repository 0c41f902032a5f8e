"""The agent by itself: its words, its refusals, and the interpreters and worlds it runs in."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from wires import World, arrives, cut_off, is_gone, lost, wait_for

from aftershock.agent.clock import identity
from aftershock.errors import HostUnreachable, InvalidInput, NotApplied, Unsupported
from aftershock.faults.partition import TOTAL_LOSS
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.fleet import Fleet
from aftershock.hosts.local import LocalHost
from aftershock.hosts.zipapp import agent_file
from aftershock.injection import Injection
from aftershock.inventory import Node
from aftershock.ledger import Ledger

HERE = Node("here", "none", ("127.0.0.1",), devices=("lo",))
PYTHONS = ("python3.9", "python3.10", "python3.11", "python3.12", "python3.13")


def found(name: str) -> str:
    """A real interpreter: on the PATH, or beside ours as version managers lay them out."""
    beside = sorted(Path(sys.base_prefix).parent.glob(f"*/bin/{name}"))
    for candidate in filter(None, [shutil.which(name), *map(str, beside)]):
        command = [candidate, "-c", "import sys; print(sys.executable)"]
        asked = subprocess.run(command, capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            return asked.stdout.strip()
    pytest.skip(f"no {name} on the PATH that starts, nor beside {sys.base_prefix}")


@pytest.fixture
def here() -> Iterator[AgentChannel]:
    channel = LocalHost(HERE).start()
    yield channel
    channel.close()


def steps(peers: Sequence[str] = ("192.0.2.0/24",), **changes: object) -> list[dict[str, object]]:
    usual = {"kind": "drop", "device": "lo", "directions": ["ingress"], "hook": "tcx"}
    anything = {"spare": [], "protocols": [], "peer_ports": [], "local_ports": []}
    return [{**usual, "match": {"peers": peers, **anything}, "loss": TOTAL_LOSS, **changes}]


def test_unknown_words_are_errors(here: AgentChannel) -> None:
    with pytest.raises(
        InvalidInput, match=r"here: unknown operation 'explode': known are arm, ask, asked, beat"
    ):
        here.ask("explode")
    with pytest.raises(InvalidInput, match="reach has no option speed"):
        here.ask("reach", address="127.0.0.1", speed=1)
    with pytest.raises(InvalidInput, match="reach needs address"):
        here.ask("reach")
    with pytest.raises(InvalidInput, match="no injection nothing"):
        here.ask("fire", injection="nothing")
    with pytest.raises(InvalidInput, match="bogus"):
        here.ask("arm", injection="x", steps=steps(bogus=3), lease_s=5)
    with pytest.raises(InvalidInput, match="letters"):
        here.ask("record", injection="../../etc/passwd")
    with pytest.raises(InvalidInput, match="lease_s"):
        here.ask("arm", injection="x", steps=steps(), lease_s=-5)
    assert here.ask("clock") > 0


@pytest.mark.root
def test_it_fires_at_a_moment_but_waits_for_none_that_is_far(here: AgentChannel) -> None:
    for ahead_s, least_s, most_s in ((0.15, 0.15, 2.0), (-5.0, 0.0, 0.15), (60.0, 0.2, 2.0)):
        here.ask("arm", injection="x", steps=steps(), lease_s=30)
        now = here.ask("clock")
        fired = here.ask("fire", injection="x", at=now + ahead_s)["fired_at"]
        here.ask("revert", injection="x")
        here.ask("forget", injection="x")
        assert least_s <= fired - now < most_s


def test_an_earlier_agent_is_ended_by_who_it_is(here: AgentChannel) -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    who = {**identity(bystander.pid), "started": 1}
    assert here.ask("end", process=who) is False, "another process has its number by now"
    assert bystander.poll() is None
    assert here.ask("end", process=identity(bystander.pid)) is True
    assert bystander.wait(5) == -signal.SIGTERM


def test_noise_on_the_channel_is_answered_and_survived(here: AgentChannel) -> None:
    here._transport.requests.write(b"this is not JSON\n[]\n\n")
    here._transport.requests.flush()
    assert here.ask("hello")["pid"]


def test_an_agent_leads_a_session_of_its_own(here: AgentChannel) -> None:
    assert os.getsid(here.pid) == here.pid == here.hello["pid"]


def test_the_clocks_offset_is_known(here: AgentChannel) -> None:
    true = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    assert abs(here.offset.seconds - true) <= here.offset.error_s + 1e-4
    assert here.offset.error_s < 0.05


def test_reach_tells_what_answers(here: AgentChannel) -> None:
    if os.geteuid() == 0:
        assert here.ask("reach", address="127.0.0.1", timeout_s=1)["answered"] is True
        assert here.ask("reach", address="::1", timeout_s=1)["answered"] is True
    refused = here.ask("reach", address="127.0.0.1", timeout_s=1, port=9)
    assert refused["answered"] is True, "a refusal is an answer"
    with pytest.raises(InvalidInput, match="nonsense"):
        here.ask("reach", address="nonsense", timeout_s=1)


@pytest.mark.root
def test_a_slow_question_does_not_hold_up_others(wires: World, fleet: Fleet) -> None:
    channel = fleet.fresh(wires["a"])
    slow = channel.post("reach", address="10.99.0.77", timeout_s=2)
    begin = time.monotonic()
    channel.ask("clock")
    assert time.monotonic() - begin < 1 and not slow.done()


def test_without_a_driver_gpu_names_the_mend(here: AgentChannel) -> None:
    try:
        gpus = here.ask("gpu")
    except Unsupported as error:
        assert "install NVIDIA's driver" in str(error)
    else:
        assert {"index", "uuid", "name", "memory_used_mib"} <= set(gpus[0])


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs cc to build the emulated GPU")
def test_gpu_reads_what_the_nodes_environment_names(tmp_path: Path) -> None:
    from aftershock.lab import gpu

    node = replace(HERE, env=gpu.environment(str(gpu.build()), str(tmp_path / "card")))
    channel = LocalHost(node).start()
    try:
        (card,) = channel.ask("gpu")
    finally:
        channel.close()
    assert card["index"] == 0 and card["uuid"] and card["name"]
    assert 0 <= card["memory_used_mib"] < card["memory_total_mib"] == 80 * 1024
    assert 0 <= card["utilisation_percent"] <= 100


def test_an_agent_that_cannot_start_says_why() -> None:
    with pytest.raises(HostUnreachable, match=r"here: .*no-such-python"):
        LocalHost(HERE, python="no-such-python").start()
    with pytest.raises(HostUnreachable, match="here: the agent did not start"):
        LocalHost(HERE, python=shutil.which("false") or "false").start()
    with pytest.raises(HostUnreachable, match="no network namespace"):
        LocalHost(replace(HERE, netns="/run/netns/as-tnone")).start()


def test_one_host_that_cannot_start_ends_the_others(fleet: Fleet) -> None:
    gone = replace(HERE, name="gone", netns="/run/netns/as-tnone")
    with pytest.raises(HostUnreachable, match="gone: no network namespace"):
        fleet.channels([HERE, gone])


def test_the_agents_file_is_built_once_and_knows_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = agent_file()
    before = first.stat()
    assert agent_file() == first and first.stat() == before
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_starting_is_cheap() -> None:
    """Start and facts of six agents at once; the bound is wide for a machine that is shared."""
    fleet = Fleet()
    agent_file()
    before = os.times()
    begin = time.monotonic()
    channels = fleet.channels([replace(HERE, name=f"here{number}") for number in range(6)])
    for channel in channels.values():
        channel.ask("facts", devices=["lo"])
    took = time.monotonic() - begin
    fleet.close()
    spent = os.times().children_user + os.times().children_system
    assert (spent - before.children_user - before.children_system) / 6 < 0.5
    assert took < 3


@pytest.mark.root
@pytest.mark.parametrize("python", PYTHONS)
def test_a_partition_under_another_interpreter(wires: World, ledger: Ledger, python: str) -> None:
    executable = found(python)
    fleet = Fleet(lambda node: LocalHost(node, executable))
    try:
        for hook in ("tcx", "clsact"):
            fault = cut_off(wires, hook=hook)
            injection = Injection(fault, [wires["a"]], lease_s=20, ledger=ledger, fleet=fleet)
            injection.arm()
            injection.fire()
            assert lost(wires["w"], wires["a"])
            injection.revert()
            assert arrives(wires["w"], wires["a"]) and injection.to_dict()["clean"] is True
        version = fleet.fresh(wires["a"]).hello["python"]
        assert python.removeprefix("python") in version
    finally:
        fleet.close()


@pytest.fixture
def inner_world() -> Iterator[int]:
    """PID 1 of a small world of its own: PIDs, mounts, and a namespace only it can name."""
    names = "mount -t tmpfs none /run/netns 2>/dev/null || mkdir -p /run/netns"
    script = (
        f"{names}; mount -t tmpfs none /run/netns; ip netns add as-tinner; echo up; exec sleep 60"
    )
    words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]
    with subprocess.Popen([*words, script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "up\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        yield int(children.split()[0])
        process.kill()


@pytest.mark.root
def test_an_agent_joins_a_world_and_ends_with_it(inner_world: int, fleet: Fleet) -> None:
    node = Node(
        "inside",
        "none",
        (),
        devices=("lo",),
        netns=f"/proc/{inner_world}/root/run/netns/as-tinner",
        enter_pid=inner_world,
        env={"AFTERSHOCK_TEST_INSIDE": "yes"},
    )
    channel = fleet.fresh(node)
    agent = channel.pid
    assert agent != channel.hello["pid"], "it counts in its own PID namespace"
    assert b"AFTERSHOCK_TEST_INSIDE=yes" in Path(f"/proc/{agent}/environ").read_bytes()
    assert channel.ask("facts", devices=["lo"])["devices"][0]["tcx"] in (True, False)
    os.kill(inner_world, 9)
    assert wait_for(lambda: is_gone(agent))
    assert wait_for(lambda: not channel.is_open)
    with pytest.raises(HostUnreachable, match="inside: clock: the agent's channel is closed"):
        channel.ask("clock")


@pytest.mark.root
def test_arming_twice_under_one_name_is_refused(wires: World, fleet: Fleet) -> None:
    channel = fleet.fresh(wires["a"])
    channel.ask("arm", injection="one", steps=steps(device="eth0"), lease_s=5)
    with pytest.raises(InvalidInput, match="here already"):
        channel.ask("arm", injection="one", steps=steps(device="eth0"), lease_s=5)
    with pytest.raises(InvalidInput, match="not over"):
        channel.ask("forget", injection="one")
    assert channel.ask("revert", injection="one")["ordered"] is True
    channel.ask("forget", injection="one")


@pytest.mark.root
def test_a_lease_that_is_over_cannot_be_fired(wires: World, fleet: Fleet) -> None:
    channel = fleet.fresh(wires["a"])
    channel.ask("arm", injection="late", steps=steps(device="eth0"), lease_s=0.2)
    time.sleep(0.4)
    with pytest.raises((InvalidInput, NotApplied)):
        channel.ask("fire", injection="late")
    record = channel.ask("record", injection="late")
    assert (record["ended_by"], record["ordered"]) == ("deadline", False)


@pytest.mark.root
def test_thousands_of_prefixes_are_armed_at_once(wires: World, fleet: Fleet) -> None:
    channel = fleet.fresh(wires["a"])
    many = [f"10.{i >> 8}.{i & 255}.0/24" for i in range(5000)]
    begin = time.monotonic()
    channel.ask("arm", injection="many", steps=steps(many, device="eth0"), lease_s=5)
    assert time.monotonic() - begin < 3
    channel.ask("revert", injection="many")


def test_this_interpreter_is_the_default() -> None:
    assert LocalHost(HERE)._command()[0] == sys.executable
