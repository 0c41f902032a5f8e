"""`aftershock doctor`: what each host can do, and the command that mends what it can't.

Hosts are asked by the same agent that breaks them, all at once. Nothing is changed by looking:
trials happen in a network namespace that is gone before anybody sees it, and a kernel module that
lies ready is not loaded; should the kernel load one all the same, `loaded_by_looking` names it.

With `--json`, for machines:

    ready     every host can do what the network faults need: the exit status is 0, else 1
    hosts[]   in the inventory's order
      name
      ready   of this host; false when it can't be reached
      error   why it can't be reached, or null; then what follows is empty
      checks[]
        name    privileges, bpf, tcx, cls_bpf, veth, netem, tbf, ifb, sock_destroy, devices,
                dm_delay, dm_flakey, dm_error, cgroup, fio, gpu, clock
        ok      true, false, or null: it could not be tried
        needed  whether the network faults need it
        found   what was found, or what is the matter
        mend    what mends it, a command wherever one does; empty when ok is true
      survey  what the agent told (kernel, machine, system, python, root, devices, gpus, …)
    api[]     what the inventory's Kubernetes API lets us do; empty without one
      name, ok, lacks[] (the rights that are missing), granted_by (the file that has them)
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from aftershock.errors import AftershockError
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.fleet import Ways
from aftershock.inventory import Node
from aftershock.rights import Ability

_AT_ONCE = 16
_SURVEY_S = 60.0
_CLOCK_S = 1.0  # beyond it, logs of two hosts can't be read side by side
_AS_ROOT = "see privileges"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_INSTALL_DRIVER = "apt-get install nvidia-driver"
_INSTALL = {
    "debian": "apt-get install {}",
    "fedora": "dnf install {}",
    "rhel": "dnf install {}",
    "suse": "zypper install {}",
    "alpine": "apk add {}",
    "arch": "pacman -S {}",
}
# What each thing of the kernel is for, and whether the network faults need it.
_KERNEL: Mapping[str, tuple[str, bool]] = {
    "tcx": ("partitions that end with their agent", False),
    "cls_bpf": ("network faults on kernels before 6.6", False),
    "veth": ("leading chosen packets through a queue of ours", True),
    "netem": ("delay, duplication, corruption and reordering", True),
    "tbf": ("bandwidth", True),
    "ifb": ("your own commands that shape what comes in (ours need veth alone)", False),
    "sock_destroy": ("connection resets", True),
    "dm_delay": ("slow storage", False),
    "dm_flakey": ("I/O errors of reads alone, or by turns", False),
    "dm_error": ("I/O errors of all reads and writes", False),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a host can do or not; `ok` is None where it could not be tried."""

    name: str
    ok: bool | None
    needed: bool
    found: str
    mend: str = ""
    short: str = ""

    @property
    def mark(self) -> str:
        """For the table."""
        sign = {True: "✓", False: "✗", None: "?"}[self.ok]
        return f"{sign} {self.short}".rstrip()


@dataclass(frozen=True, slots=True)
class HostReport:
    """What was found on a host, or why it can't be reached."""

    name: str
    error: str | None = None
    survey: Mapping[str, Any] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether it can do what the network faults need."""
        return not self.error and all(check.ok for check in self.checks if check.needed)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as the module's docstring tells."""
        checks = [asdict(check) for check in self.checks]
        for check in checks:
            del check["short"]
        return {
            "name": self.name,
            "ready": self.ready,
            "error": self.error,
            "checks": checks,
            "survey": dict(self.survey),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """All hosts, and what may be done through a cluster's API."""

    hosts: tuple[HostReport, ...]
    api: tuple[Ability, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether every host can do what the network faults need."""
        return all(host.ready for host in self.hosts)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as the module's docstring tells."""
        return {
            "ready": self.ready,
            "hosts": [host.to_dict() for host in self.hosts],
            "api": [one.to_dict() for one in self.api],
        }

    def lines(self) -> list[str]:
        """A table with a line a host, and what is missing with its mend."""
        told = [*_table(self.hosts), *_missing(self.hosts)]
        if loaded := sorted({m for h in self.hosts for m in h.survey.get("loaded_by_looking", ())}):
            told += ["", f"Looking made the kernel load {', '.join(loaded)}."]
        if self.api:
            told += [
                "",
                "Through the Kubernetes API",
                *(ln for one in self.api for ln in one.lines()),
            ]
        few = [host.name for host in self.hosts if not host.ready]
        verdict = f"Not ready for network faults: {', '.join(few)}." if few else "Ready."
        return [*told, "", verdict]


def here() -> Node:
    """This machine; no devices named means all of them."""
    return Node(platform.node() or "localhost", "", (), devices=())


def examine(nodes: Sequence[Node], witness: Node | None = None) -> Report:
    """Ask every host; one that can't be reached has its error in its place.

    Nothing is done to a witness, so it needs no more than to be reached.
    """
    from aftershock.hosts.zipapp import agent_file

    agent_file()  # built once, before several would
    with closing(Ways()) as ways, ThreadPoolExecutor(_AT_ONCE) as pool:
        everyone = [*nodes, *([witness] if witness else [])]
        hosts = list(pool.map(lambda node: _host(ways, node), everyone))
    if witness:
        idle = tuple(replace(check, needed=False) for check in hosts[-1].checks)
        hosts[-1] = replace(hosts[-1], checks=idle)
    return Report(tuple(hosts))


def _host(ways: Ways, node: Node) -> HostReport:
    try:
        channel = ways(node).start()
        try:
            survey = channel.ask("survey", _SURVEY_S, devices=list(node.devices))
            offset_s = _wall_offset_s(channel, survey["clocks"])
        finally:
            channel.close()
    except AftershockError as error:
        return HostReport(node.name, str(error))
    found = checks(survey, offset_s, far=node.is_far)
    return HostReport(node.name, None, survey, tuple(found))


def _wall_offset_s(channel: AgentChannel, clocks: Mapping[str, float]) -> float:
    """How far the host's wall clock is ahead of ours."""
    ago = time.monotonic() - channel.to_monotonic(clocks["boottime"])
    return clocks["wall"] - (time.time() - ago)


def checks(survey: Mapping[str, Any], offset_s: float, far: bool = False) -> list[Check]:
    """What a survey means, in the table's order; `far`: of a host that is reached by SSH."""
    sudo = "" if survey["root"] else "sudo "
    things = survey["things"]
    hooks = [name for name in ("tcx", "cls_bpf") if things[name]["is"] in ("able", "waiting")]
    return [
        _privileges(survey, far),
        _bpf(survey),
        *(_kernel(name, survey, sudo, hooks) for name in _KERNEL),
        _devices(survey),
        _cgroup(survey),
        _fio(survey, sudo),
        _gpu(survey, sudo),
        _clock(offset_s, sudo),
    ]


def _privileges(survey: Mapping[str, Any], far: bool) -> Check:
    if survey["root"]:
        return Check("privileges", True, True, "root")
    ourselves = sys.argv[0] if Path(sys.argv[0]).name == "aftershock" else "aftershock"
    mend = f"sudo {ourselves} doctor"
    if far:
        mend = "let the inventory say `sudo: true` for it, or another `user`"
    return Check("privileges", False, True, "not root: faults change devices", mend)


def _bpf(survey: Mapping[str, Any]) -> Check:
    why = survey["bpf"]
    if not why:
        return Check("bpf", True, True, "programs can be loaded")
    if not survey["root"]:
        return Check("bpf", None, True, why, _AS_ROOT)
    mend = "grant CAP_BPF and CAP_NET_ADMIN, or use Linux 5.8 or newer with CONFIG_BPF_SYSCALL"
    return Check("bpf", False, True, why, mend)


def _kernel(name: str, survey: Mapping[str, Any], sudo: str, hooks: Sequence[str]) -> Check:
    thing, (purpose, needed) = survey["things"][name], _KERNEL[name]
    needed = needed or (name in ("tcx", "cls_bpf") and not hooks)  # one of the two will do
    modules = ", ".join(thing["modules"])
    match thing["is"]:
        case "able":
            return Check(name, True, needed, purpose)
        case "waiting":
            found = f"{purpose}; {modules} is loaded by the first fault, or `{sudo}modprobe"
            return Check(name, True, needed, f"{found} {_unloaded(thing)}`")
        case "untried":
            mend = _AS_ROOT if not survey["root"] else "try it: arm a fault"
            return Check(name, None, needed, f"{purpose}: {thing['why']}", mend)
    return Check(name, False, needed, f"{purpose}: {thing['why']}", _build(name, survey, sudo))


def _unloaded(thing: Mapping[str, Any]) -> str:
    return " ".join(f"-a {name}" for name, state in thing["modules"].items() if state == "ready")


def _build(name: str, survey: Mapping[str, Any], sudo: str) -> str:
    """How a kernel comes by what it lacks."""
    thing, system, kernel = survey["things"][name], survey["system"].split(), survey["kernel"]
    if barred := [module for module, is_ in thing["modules"].items() if is_ == "blacklisted"]:
        return f"{sudo}modprobe {barred[0]}"
    if name == "tcx":
        return "none is needed: cls_bpf is used instead; Linux 6.6 or newer has TCX"
    absent = [module for module, is_ in thing["modules"].items() if is_ == "absent"]
    if not absent:
        return f"{sudo}modprobe -a {' '.join(thing['modules'])}"
    if "ubuntu" in system:
        return f"{sudo}apt-get install linux-modules-extra-{kernel}"
    if {"rhel", "fedora", "centos"}.intersection(system):
        return f"{sudo}dnf install kernel-modules-extra-{kernel}"
    options = " and ".join(f"CONFIG_{option}" for option in thing["options"])
    mend = f"boot a kernel with {options}"
    if "debian" in system and survey["machine"] in _ARCHITECTURES:
        image = f"linux-image-{_ARCHITECTURES[survey['machine']]}"
        mend += f", such as Debian's own: {sudo}apt-get install {image} && {sudo}reboot"
    return mend


def _devices(survey: Mapping[str, Any]) -> Check:
    devices: Mapping[str, Mapping[str, Any]] = survey["devices"]
    if wrong := [told["why"] for told in devices.values() if told["why"]]:
        mend = "name a device that is there as the host's `device` in the inventory"
        return Check("devices", False, True, "; ".join(wrong), mend)
    if rdma := [f"{name}: {told['rdma']}" for name, told in devices.items() if told["rdma"]]:
        found = f"{'; '.join(rdma)}: RDMA bypasses traffic control"
        mend = "name another device, or break its switch port by a command fault"
        return Check("devices", False, True, found, mend)
    return Check("devices", True, True, ", ".join(devices) or "only loopback")


def _cgroup(survey: Mapping[str, Any]) -> Check:
    if version := survey["cgroup"]:  # limits are set by either
        return Check("cgroup", True, False, f"version {version}", short=f"v{version}")
    why = "limits of memory, processes and I/O: no cgroup is mounted"
    return Check("cgroup", False, False, why, "mount -t cgroup2 none /sys/fs/cgroup", "none")


def _fio(survey: Mapping[str, Any], sudo: str) -> Check:
    if path := survey["tools"]["fio"]:
        return Check("fio", True, False, path)
    known = [_INSTALL[word] for word in survey["system"].split() if word in _INSTALL]
    command = f"{sudo}{known[0].format('fio')}" if known else "install the package fio"
    return Check("fio", False, False, "storage latency: there is no fio", command)


def _gpu(survey: Mapping[str, Any], sudo: str) -> Check:
    found = survey["gpus"]["found"]
    if found:
        return Check("gpu", True, False, ", ".join(found), short=str(len(found)))
    if not survey["gpus"]["cards"]:
        mend = "use a host with an NVIDIA GPU"
        return Check("gpu", False, False, "GPU faults: there is no NVIDIA GPU", mend)
    system, mend = survey["system"].split(), "install NVIDIA's driver"
    if "debian" in system:
        install = "ubuntu-drivers install" if "ubuntu" in system else _INSTALL_DRIVER
        mend = f"{sudo}{install}"
    why = survey["gpus"]["why"].partition(": install")[0] or "NVML sees none"
    return Check("gpu", False, False, f"GPU faults: {why}", mend)


def _clock(offset_s: float, sudo: str) -> Check:
    short = f"{offset_s:+.3f} s"
    if abs(offset_s) <= _CLOCK_S:
        return Check("clock", True, False, f"{short} ahead of the controller's", short=short)
    found = f"{short} ahead of the controller's: logs can't be read side by side"
    return Check("clock", False, False, found, f"{sudo}timedatectl set-ntp true", short)


def _table(hosts: Sequence[HostReport]) -> list[str]:
    names = next(([check.name for check in h.checks] for h in hosts if h.checks), [])
    rows = [["host", "kernel", "python", *names]]
    for host in hosts:
        known = [host.survey.get("kernel", ""), host.survey.get("python", "")]
        rows.append([host.name, *known, *(check.mark for check in host.checks)])
        if host.error:
            rows[-1] = [host.name, f"✗ {host.error}"]
    whole = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    widths[0] = max(len(row[0]) for row in rows)
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    ]


def _missing(hosts: Sequence[HostReport]) -> list[str]:
    told: list[str] = []
    for needed, title in ((True, "The network faults need"), (False, "Other faults may need")):
        affected: dict[Check, list[str]] = {}
        for host in hosts:
            for check in host.checks:
                if not check.ok and check.needed is needed and check.mend != _AS_ROOT:
                    affected.setdefault(check, []).append(host.name)
        told += ["", title] if affected else []
        for check, names in affected.items():
            told += [f"  {check.name}: {check.found} ({', '.join(names)})", f"    → {check.mend}"]
    return told
