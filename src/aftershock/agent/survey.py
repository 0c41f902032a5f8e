"""What this host could do, for `aftershock doctor`; nothing on it is changed by looking.

What needs the kernel is tried in a network namespace of its own (capable.py). Trying would also
load a module that lies ready: then it isn't tried, and the answer says that it waits.
"""

from __future__ import annotations

import gzip
import os
import platform
import re
import shutil
import socket
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from . import facts
from .capable import capable
from .clock import boottime
from .errors import AgentError

_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
ABLE, WAITING, UNABLE, UNTRIED = "able", "waiting", "unable", "untried"
LOADED, BUILT_IN, READY, BLACKLISTED, ABSENT, UNKNOWN = (
    "loaded",
    "built in",
    "ready",
    "blacklisted",
    "absent",
    "unknown",
)


class Part(NamedTuple):
    """What a thing is made of: modules, and the kernel's options that bring them."""

    modules: Tuple[str, ...]
    options: Tuple[str, ...]


PARTS: Mapping[str, Part] = {
    "tcx": Part((), ()),
    "cls_bpf": Part(("sch_ingress", "cls_bpf"), ("NET_SCH_INGRESS", "NET_CLS_BPF")),
    "veth": Part(("veth",), ("VETH",)),
    "netem": Part(("sch_netem",), ("NET_SCH_NETEM",)),
    "tbf": Part(("sch_tbf",), ("NET_SCH_TBF",)),
    "ifb": Part(("ifb",), ("IFB",)),
    "sock_destroy": Part(("tcp_diag",), ("INET_TCP_DIAG", "INET_DIAG_DESTROY")),
    "dm_delay": Part(("dm_mod", "dm_delay"), ("BLK_DEV_DM", "DM_DELAY")),
    "dm_flakey": Part(("dm_mod", "dm_flakey"), ("BLK_DEV_DM", "DM_FLAKEY")),
    "dm_error": Part(("dm_mod",), ("BLK_DEV_DM",)),
}


def survey(devices: Sequence[str]) -> Dict[str, Any]:
    """Everything `aftershock doctor` wants to know; no devices named means all but loopback."""
    before = _loaded_modules()
    root = os.geteuid() == 0
    kernel = Kernel(Path("/"), platform.release())
    named = list(devices) or [name for _, name in socket.if_nameindex() if name != "lo"]
    told = {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "system": _system(),
        "python": platform.python_version(),
        "root": root,
        "bpf": facts.bpf_refusal(),
        "things": {name: _thing(name, kernel, root) for name in PARTS},
        "devices": {name: _device(name) for name in named},
        "cgroup": _cgroup(),
        "tools": {name: shutil.which(name, path=_path()) or "" for name in ("fio",)},
        "gpus": _gpus(),
        "clocks": {"boottime": boottime(), "wall": time.time()},
    }
    return {**told, "loaded_by_looking": sorted(_loaded_modules() - before)}


def _thing(name: str, kernel: Kernel, root: bool) -> Dict[str, Any]:
    part = PARTS[name]
    modules = {module: kernel.state(module, part) for module in part.modules}
    found, why = answer(name, modules, kernel.lacks(part), root)
    return {"is": found, "why": why, "modules": modules, "options": list(part.options)}


def answer(
    name: str, modules: Mapping[str, str], lacking: Sequence[str], root: bool
) -> Tuple[str, str]:
    """Whether a host can do a thing, and why not."""
    absent = [module for module, state in modules.items() if state == ABSENT]
    barred = [module for module, state in modules.items() if state == BLACKLISTED]
    if barred:
        return UNABLE, f"the module {barred[0]} is blacklisted"
    if lacking:
        return UNABLE, f"this kernel was built without CONFIG_{lacking[0]}"
    if READY in modules.values() and not absent:
        return WAITING, ""
    # To try device-mapper would take a disk, and ifb comes with two devices that nobody asked for.
    if name in ("dm_delay", "dm_flakey", "dm_error", "ifb") or (absent and not root):
        return _by_files(modules, absent)
    if not root:
        return UNTRIED, "it can only be tried as root"
    why = capable([name])[name]
    return (UNABLE if why else ABLE), (f"this kernel has no {absent[0]}" if why and absent else why)


def _by_files(modules: Mapping[str, str], absent: Sequence[str]) -> Tuple[str, str]:
    if absent:
        return UNABLE, f"this kernel has no {absent[0]}"
    if UNKNOWN in modules.values():
        return UNTRIED, "neither the kernel's modules nor its configuration are to be seen"
    return ABLE, ""


class Kernel:
    """What a kernel was built with, as the files below a root tell."""

    def __init__(self, root: Path, release: str) -> None:
        self._root = root
        self._built_in = _module_names(root / "lib/modules" / release / "modules.builtin")
        self._ready = _module_names(root / "lib/modules" / release / "modules.dep")
        self._has_modules = (root / "proc/modules").exists()
        self._blacklisted = set(_blacklist(root))
        self._config = _config(root, release)

    def lacks(self, part: Part) -> List[str]:
        """Options that no module brings, and that the kernel is known to be without."""
        more = part.options[len(part.modules) :] if self._config else ()
        return [option for option in more if self._config.get(option) != "y"]

    def state(self, module: str, part: Part) -> str:
        """Whether a module is there, or could be."""
        if (self._root / "sys/module" / module).exists():
            return LOADED
        option = part.options[part.modules.index(module)]
        if module in self._built_in or self._config.get(option) == "y":
            return BUILT_IN
        if module in self._ready and self._has_modules:
            return BLACKLISTED if module in self._blacklisted else READY
        # One of the two would know of it.
        return ABSENT if self._ready or self._config else UNKNOWN


def _module_names(index: Path) -> "frozenset[str]":
    """The modules of a `modules.dep` or `modules.builtin`; a name's dashes are underscores."""
    try:
        text = index.read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    found = re.findall(r"^\S*?([\w-]+)\.ko(?:\.\w+)?(?=:|$)", text, re.MULTILINE)
    return frozenset(name.replace("-", "_") for name in found)


def _blacklist(root: Path) -> List[str]:
    found: List[str] = []
    for folder in ("etc", "run", "usr/lib", "lib"):
        for path in (root / folder / "modprobe.d").glob("*.conf"):
            text = path.read_text(encoding="utf-8", errors="replace")
            found += re.findall(r"^\s*blacklist\s+(\S+)", text, re.MULTILINE)
    return [name.replace("-", "_") for name in found]


def _config(root: Path, release: str) -> Dict[str, str]:
    """The kernel's options, where it or its package tells them."""
    for path in (root / "proc/config.gz", root / f"boot/config-{release}"):
        try:
            raw = path.read_bytes()
        except OSError:
            continue
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode(errors="replace")
        return dict(re.findall(r"^CONFIG_(\w+)=(\S+)", text, re.MULTILINE))
    return {}


def _loaded_modules() -> "set[str]":
    try:
        lines = Path("/proc/modules").read_text(encoding="ascii").splitlines()
    except OSError:
        return set()
    return {line.split()[0] for line in lines}


def _system() -> str:
    """The words of os-release that tell one family of distributions from another."""
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            text = Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        found = dict(re.findall(r'^(ID|ID_LIKE)="?([^"\n]*)', text, re.MULTILINE))
        return f"{found.get('ID', '')} {found.get('ID_LIKE', '')}".strip()
    return ""


def _device(name: str) -> Dict[str, Any]:
    try:
        told = facts.describe(name)
    except (AgentError, OSError) as error:
        return {"why": str(error)}
    return {"why": "", "rdma": told["rdma"], "ethernet": told["ethernet"]}


def _cgroup() -> int:
    """The version that limits can be set by; 0: none is mounted."""
    versions = {1: 0, 2: 0}
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        kind = rest.split()[0]
        if kind == "cgroup2" and fields.split()[4] == "/sys/fs/cgroup":
            return 2
        versions[1] |= kind == "cgroup"
    return 1 if versions[1] else 0


def _path() -> str:
    """Where root's programs are too, though a plain user's PATH may not name it."""
    return f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}"


def _gpus() -> Dict[str, Any]:
    from .gpu import gpus

    try:
        return {"why": "", "found": [gpu["name"] for gpu in gpus()], "cards": _nvidia_cards()}
    except AgentError as error:
        return {"why": str(error), "found": [], "cards": _nvidia_cards()}


def _nvidia_cards() -> int:
    """Display or compute cards of NVIDIA's on the PCI bus, with a driver or without."""
    found = 0
    for card in Path("/sys/bus/pci/devices").glob("*"):
        try:
            vendor, kind = ((card / name).read_text().strip() for name in ("vendor", "class"))
        except OSError:
            continue
        found += vendor == "0x10de" and kind.startswith("0x03")
    return found
