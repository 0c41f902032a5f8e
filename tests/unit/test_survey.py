"""What a survey of a host means, and the command that mends what it lacks."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from aftershock.agent.survey import PARTS, Kernel, answer
from aftershock.doctor import Check, HostReport, Report, checks

RELEASE = "6.1.0-test"
NETEM = PARTS["netem"]


def survey(system: str = "debian", root: bool = True, **things: dict[str, Any]) -> dict[str, Any]:
    """A host that can do everything, but for what is said of it."""
    able = {
        name: {"is": "able", "why": "", "modules": {}, "options": list(part.options)}
        for name, part in PARTS.items()
    }
    return {
        "kernel": RELEASE,
        "machine": "x86_64",
        "system": system,
        "python": "3.9.2",
        "root": root,
        "bpf": "",
        "things": {name: {**able[name], **things.get(name, {})} for name in able},
        "devices": {"eth0": {"why": "", "rdma": "", "ethernet": True}},
        "cgroup": 2,
        "tools": {"fio": "/usr/bin/fio"},
        "gpus": {"why": "", "found": ["H100"], "cards": 1},
        "loaded_by_looking": [],
    }


def check(name: str, plain: dict[str, Any], offset_s: float = 0.0) -> Check:
    return next(one for one in checks(plain, offset_s) if one.name == name)


def no(module: str, state: str = "absent") -> dict[str, Any]:
    return {"is": "unable", "why": "it is so", "modules": {module: state}}


def test_a_host_that_can_do_everything_is_ready() -> None:
    host = HostReport("h", None, survey(), tuple(checks(survey(), 0.0)))
    assert host.ready and all(one.ok for one in host.checks)
    assert [line for line in Report((host,)).lines() if "→" in line] == []


@pytest.mark.parametrize(
    ("system", "things", "mend"),
    [
        ("ubuntu debian", no("sch_netem"), f"apt-get install linux-modules-extra-{RELEASE}"),
        (
            "rocky rhel centos fedora",
            no("sch_netem"),
            f"dnf install kernel-modules-extra-{RELEASE}",
        ),
        ("debian", no("sch_netem"), "apt-get install linux-image-amd64 && reboot"),
        ("alpine", no("sch_netem"), "boot a kernel with CONFIG_NET_SCH_NETEM"),
        ("debian", no("sch_netem", "blacklisted"), "modprobe sch_netem"),
        ("debian", no("sch_netem", "unknown"), "modprobe -a sch_netem"),
    ],
)
def test_a_kernel_without_netem_is_mended_as_its_system_does_it(
    system: str, things: dict[str, Any], mend: str
) -> None:
    found = check("netem", survey(system, netem=things))
    assert (found.ok, found.needed) == (False, True)
    assert found.mend.endswith(mend) and "sudo" not in found.mend
    plain = survey(system, root=False, netem=things)
    assert mend == "boot a kernel with CONFIG_NET_SCH_NETEM" or "sudo" in check("netem", plain).mend


def test_a_module_that_lies_ready_is_no_obstacle_and_is_told() -> None:
    found = check("netem", survey(netem={"is": "waiting", "modules": {"sch_netem": "ready"}}))
    assert found.ok and "`modprobe -a sch_netem`" in found.found


@pytest.mark.parametrize("version", [1, 2])
def test_either_version_of_cgroups_will_do(version: int) -> None:
    found = check("cgroup", {**survey(), "cgroup": version})
    assert found.ok is True and found.mark == f"✓ v{version}"


def test_one_of_the_two_hooks_is_enough() -> None:
    old = survey(tcx=no("x"))
    assert check("tcx", old).ok is False and check("tcx", old).needed is False
    neither = survey(tcx=no("x"), cls_bpf=no("cls_bpf"))
    assert check("tcx", neither).needed and check("cls_bpf", neither).needed


@pytest.mark.parametrize(
    ("name", "change", "found", "mend"),
    [
        ("fio", {"tools": {"fio": ""}}, "no fio", "apt-get install fio"),
        ("cgroup", {"cgroup": 0}, "no cgroup is mounted", "mount -t cgroup2"),
        ("gpu", {"gpus": {"why": "x", "found": [], "cards": 0}}, "no NVIDIA GPU", "use a host"),
        ("gpu", {"gpus": {"why": "no NVML", "found": [], "cards": 2}}, "no NVML", "nvidia-driver"),
        ("devices", {"devices": {"e": {"why": "no device e"}}}, "no device e", "name a device"),
        ("devices", {"devices": {"e": {"why": "", "rdma": "RoCE"}}}, "RDMA", "command fault"),
        ("bpf", {"bpf": "refused"}, "refused", "CAP_BPF"),
    ],
)
def test_what_is_missing_has_its_mend(
    name: str, change: dict[str, Any], found: str, mend: str
) -> None:
    one = check(name, {**survey(), **change})
    assert one.ok is False and found in one.found and mend in one.mend


def test_who_is_not_root_becomes_it_by_sudo_here_and_by_the_inventory_there() -> None:
    here, there = (checks(survey(root=False), 0.0, far)[0] for far in (False, True))
    assert here.ok is False and here.mend.startswith("sudo ")
    assert there.ok is False and "inventory" in there.mend


def test_a_clock_that_is_off_is_told_and_keeps_nothing() -> None:
    assert check("clock", survey(), 0.3).ok is True
    off = check("clock", survey(), -42.5)
    assert (off.ok, off.needed) == (False, False) and "-42.500 s" in off.found
    assert "timedatectl" in off.mend


def test_a_table_has_a_line_a_host_and_says_each_thing_once() -> None:
    lacking = survey(netem=no("sch_netem"))
    hosts = [HostReport(n, None, lacking, tuple(checks(lacking, 0.0))) for n in ("one", "two")]
    lines = Report((*hosts, HostReport("three", "no route to host"))).lines()
    assert lines[3].startswith("three") and "✗ no route to host" in lines[3]
    column = lines[0].index("netem")
    assert lines[1][column] == lines[2][column] == "✗"
    assert sum("(one, two)" in line for line in lines) == 1
    assert lines[-1] == "Not ready for network faults: one, two, three."


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine's files: modules can be loaded, none is."""
    for folder in ("lib/modules/" + RELEASE, "proc", "sys/module", "etc/modprobe.d", "boot"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "proc/modules").touch()
    return tmp_path


def listed(root: Path, index: str, *lines: str) -> None:
    (root / "lib/modules" / RELEASE / f"modules.{index}").write_text("\n".join(lines))


def state(root: Path) -> str:
    return Kernel(root, RELEASE).state("sch_netem", NETEM)


def test_a_modules_state_is_read_from_files(root: Path) -> None:
    assert state(root) == "unknown"
    listed(root, "dep", "kernel/net/sched/sch_htb.ko.xz:")
    assert state(root) == "absent"
    listed(root, "dep", "kernel/net/sched/sch-netem.ko.zst: kernel/lib/x.ko")
    assert state(root) == "ready"
    (root / "etc/modprobe.d/no.conf").write_text("# why\nblacklist sch_netem\n")
    assert state(root) == "blacklisted"
    listed(root, "builtin", "kernel/net/sched/sch_netem.ko")
    assert state(root) == "built in"
    (root / "sys/module/sch_netem").mkdir()
    assert state(root) == "loaded"


@pytest.mark.parametrize("packed", [True, False])
def test_a_kernels_configuration_is_read(root: Path, packed: bool) -> None:
    text = b"CONFIG_NET_SCH_NETEM=y\n# CONFIG_INET_DIAG_DESTROY is not set\n"
    if packed:
        (root / "proc/config.gz").write_bytes(gzip.compress(text))
    else:
        (root / f"boot/config-{RELEASE}").write_bytes(text)
    kernel = Kernel(root, RELEASE)
    assert kernel.state("sch_netem", NETEM) == "built in"
    assert kernel.lacks(PARTS["sock_destroy"]) == ["INET_DIAG_DESTROY"]
    assert kernel.lacks(NETEM) == []


def test_what_lies_ready_is_not_tried() -> None:
    """This machine may well have none: were it tried, the answer would be another."""
    assert answer("netem", {"sch_netem": "ready"}, [], root=True) == ("waiting", "")
    assert answer("netem", {"sch_netem": "blacklisted"}, [], root=True)[0] == "unable"
    assert answer("netem", {"sch_netem": "absent"}, [], root=False)[0] == "unable"
    assert answer("netem", {"sch_netem": "loaded"}, [], root=False)[0] == "untried"
    assert (
        answer("dm_delay", {"dm_mod": "loaded", "dm_delay": "absent"}, [], root=True)[0] == "unable"
    )
