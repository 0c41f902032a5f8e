"""Steps that use up a host: processor time and memory, by children that end with the agent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, List, Mapping

from . import cgroups, vitals
from .classifier import check_options
from .errors import AgentError, Invalid
from .hogs import Hog

_CPU = ("cores", "cpus", "nice", "cgroup")
_MEMORY = ("bytes", "available_bytes", "of", "folder", "reserve_bytes")
_TAKEN_S = 30.0
_LEAST_RESERVE = 64 << 20


class Hogs:
    """What both have in common: children that stand ready, go, and are ended."""

    kind = ""

    def __init__(self) -> None:
        self.outlives = self.rash = False
        self.about: Dict[str, Any] = {}
        self._hogs: List[Hog] = []
        self._asked: List[Dict[str, Any]] = []

    def intent(self) -> Dict[str, Any]:
        """What undoes it: the agent's end, by which the kernel ends them all."""
        return {}

    def attach(self) -> Dict[str, Any]:
        """They stand ready, and use nothing."""
        for words in self._asked:
            self._hogs.append(self._begin(words))
        for hog in self._hogs:
            hog.stand_ready()
        return {"owned": [], "undo": {}}

    def _begin(self, words: Dict[str, Any]) -> Hog:
        return Hog(words)

    def fire(self, until: float) -> None:
        """All of them begin."""
        for hog in self._hogs:
            hog.go(until)

    def tick(self) -> None:
        """They go on by themselves."""

    def shut(self) -> None:
        """End them."""
        for hog in self._hogs:
            hog.end()

    def observe(self) -> Dict[str, Any]:
        """How many of them run."""
        there = [hog.pid for hog in self._hogs if hog.is_there()]
        return {"kind": self.kind, "counts": {}, "children": there, "asked": len(self._asked)}

    def detach(self) -> List[str]:
        """They are gone."""
        self.shut()
        return []

    def close(self) -> None:
        """Whatever became of it, no child stays."""
        self.shut()
        self._hogs = []


class CpuStress(Hogs):
    """`cores` processors' worth of time, on some `cpus` or any, perhaps within a cgroup.

    A child for each processor; where they are pinned, each to its own in turn.
    """

    kind = "cpu-stress"

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        super().__init__()
        check_options(options, _CPU)
        allowed = sorted(os.sched_getaffinity(0))
        cpus = list(options["cpus"])
        if absent := sorted(set(cpus) - set(range(os.cpu_count() or 1))):
            raise Invalid(f"cpu-stress: no CPU {absent[0]} here: there are {os.cpu_count()}")
        most = len(cpus) or len(allowed)
        if not 0 < options["cores"] <= most:
            raise Invalid(
                f"cpu-stress: {options['cores']:g} cores: more than 0, at most {most} here"
            )
        folders = _folders(options["cgroup"])
        whole = int(options["cores"])
        shares = [1.0] * whole + ([options["cores"] - whole] if options["cores"] > whole else [])
        self.about = {"cores": options["cores"], "cgroup": options["cgroup"]}
        for number, share in enumerate(shares):
            pinned = [cpus[number % len(cpus)]] if cpus else []
            words = {"kind": "cpu", "share": share, "cpus": pinned, "nice": options["nice"]}
            self._asked.append({**words, "cgroups": folders})

    def observe(self) -> Dict[str, Any]:
        """How many run, and the processor seconds that the kernel counted for them so far."""
        seen = super().observe()
        return {**seen, "used_s": sum(_used_s(pid) for pid in seen["children"])}


class MemoryPressure(Hogs):
    """Memory taken until only `available_bytes` are left, or `bytes` of it; never the reserve."""

    kind = "memory-pressure"

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        super().__init__()
        check_options(options, _MEMORY)
        if options["of"] not in ("anonymous", "page-cache"):
            raise Invalid(f"memory-pressure: of {options['of']!r}: anonymous or page-cache")
        if options["reserve_bytes"] < _LEAST_RESERVE:
            raise Invalid(f"memory-pressure: a reserve of at least {_LEAST_RESERVE >> 20} MB")
        self._options = dict(options)
        self.about = {"of": options["of"]}
        self._told: Dict[str, Any] = {}

    def attach(self) -> Dict[str, Any]:
        """How much it will be is known by now; the host must keep its reserve."""
        free, options = vitals.memory()["available"], self._options
        size = options["bytes"] or free - options["available_bytes"]
        if size <= 0:
            raise AgentError(
                f"memory-pressure: {free >> 20} MB are available here, and so many are to be left: "
                "nothing would happen"
            )
        if free - size < options["reserve_bytes"]:
            raise AgentError(
                f"memory-pressure: taking {size >> 20} MB of {free >> 20} MB would leave less than "
                f"the reserve of {options['reserve_bytes'] >> 20} MB: take less"
            )
        self.about["bytes"] = size
        words = {"kind": "memory", "of": options["of"], "bytes": size, "adj": 1000}
        more = {"folder": options["folder"], "reserve": options["reserve_bytes"]}
        if options["of"] == "page-cache" and not Path(options["folder"]).is_dir():
            raise Invalid(f"memory-pressure: {options['folder']!r} is no folder here")
        self._asked = [{**words, **more}]
        return super().attach()

    def observe(self) -> Dict[str, Any]:
        """How much was taken by now, as the child says, and as the kernel counts it."""
        for hog in self._hogs:
            if not self._told and hog.is_there():
                self._told = hog.hear(0.0) or {}
        resident = sum(_resident(hog.pid) for hog in self._hogs if hog.is_there())
        return {**super().observe(), **self._told, "resident_bytes": resident}


def _folders(path: str) -> List[str]:
    """The folders of a cgroup for the processor, of either version; none for no cgroup."""
    if not path:
        root = os.environ.get("AFTERSHOCK_HOST_CGROUP", "")  # a host that is a cgroup itself
        return _folders(f"{root}/host") if root else []
    found = [cgroups.find(name, path).folder for name in ("cpu", "cpuacct")]
    return sorted({str(folder) for folder in found})


def _resident(pid: int) -> int:
    """What of a process is in memory, pages of files too, in bytes."""
    try:
        text = Path(f"/proc/{pid}/statm").read_text(encoding="ascii")
    except OSError:
        return 0
    return int(text.split()[1]) * os.sysconf("SC_PAGESIZE")


def _used_s(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return 0.0
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
