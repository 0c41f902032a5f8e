"""The two ways a program gets onto a device, and off it again.

`Tcx` is held by the kernel: the link's last reference is ours, so even SIGKILL detaches it.
`Clsact` outlives its process, which is why a detached watcher holds the undo beside the agent. But
its filters bite no more: they go on to our programs by a table that the kernel empties then.
"""

from __future__ import annotations

import errno
import os
import random
import struct
from typing import Any, Dict, List, Tuple

from . import bpf, rtnl
from .errors import CannotDo
from .lean import iproute
from .program import NAMES, assemble_tied

PARENT = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
CLSACT_LINE = "qdisc clsact ffff0000"
_ETH_P_ALL = 3
_USUAL_PRIORITY = 1000
_HANDLES = 0xAF000000
# A filter's name says, for as long as one is there, whether the qdisc came with us: the last one
# of several injections takes it along, in whatever order and process they end.
OUR_LINKS = "as-"  # how the names of devices of ours begin
OUR_PROCESS = " of Aftershock"  # how a line ends that tells of a process of ours
_MAKER, _GUEST = "aftershock+", "aftershock:"


class Tcx:
    """Links that end with this process."""

    kind = "tcx"

    def __init__(self, ifindex: int, directions: List[str]) -> None:
        self._ifindex = ifindex
        self._directions = directions
        self._links: List[int] = []

    def intent(self) -> Dict[str, Any]:
        """What would be needed to undo this from outside: nothing."""
        return {}

    def attach(self, programs: Dict[str, int]) -> Dict[str, Any]:
        """Attach each direction's program; what is ours now, in a fingerprint's words."""
        for direction in self._directions:
            self._links.append(bpf.link(programs[direction], self._ifindex, direction))
        owned: List[str] = [_tcx_line(way, bpf.describe(programs[way])) for way in self._directions]
        return {"owned": owned}

    def detach(self) -> List[str]:
        """Take ours off; a device that is gone has taken them along."""
        while self._links:
            link = self._links.pop()
            try:
                bpf.detach(link)
            except OSError as error:
                if error.errno not in (errno.ENOLINK, errno.ENODEV):
                    raise
            finally:
                os.close(link)
        return []

    def close(self) -> None:
        """Nothing is open but links, which `detach` takes off."""


class Clsact:
    """Direct-action filters with handles of their own, at the front of the device's filters."""

    kind = "clsact"

    def __init__(self, ifindex: int, directions: List[str], injection: str) -> None:
        self._ifindex = ifindex
        self._injection = injection
        self._files: List[int] = []
        filters, ours = _plan(ifindex, directions)
        self._intent: Dict[str, Any] = {"ifindex": ifindex, "filters": filters, "made_clsact": ours}

    def intent(self) -> Dict[str, Any]:
        """What `undo` needs, known before anything is touched."""
        return self._intent

    def attach(self, programs: Dict[str, int]) -> Dict[str, Any]:
        """Attach each direction's program; what is ours now, in a fingerprint's words."""
        filters: List[Dict[str, Any]] = self._intent["filters"]
        tied = {one["direction"]: self._tied(programs, one["direction"]) for one in filters}
        if self._intent["made_clsact"] and not rtnl.add_clsact(self._ifindex):
            with netlink() as ip:
                self._intent["made_clsact"] = _made_by_us(ip, self._ifindex)
        mark = _MAKER if self._intent["made_clsact"] else _GUEST
        rtnl.add_filters(
            self._ifindex, [_filter(one, tied, mark + self._injection) for one in filters]
        )
        return {**self._intent, "owned": self._owned()}

    def _tied(self, programs: Dict[str, int], way: str) -> int:
        """What to attach for a program, so that it ends with this process."""
        table = bpf.create_map(bpf.PROG_ARRAY, 4, 4, 1)
        self._files.append(table)
        bpf.update(table, struct.pack("<I", 0), struct.pack("<I", programs[way]))
        self._files.append(bpf.load(assemble_tied(table), NAMES[way]))
        return self._files[-1]

    def _owned(self) -> List[str]:
        filters: List[Dict[str, Any]] = self._intent["filters"]
        lines = [_filter_line(one["direction"], "bpf", one) for one in filters]
        return lines + ([CLSACT_LINE] if self._intent["made_clsact"] else [])

    def detach(self) -> List[str]:
        """Take ours off and nothing else; what had to be left to others is in the answer."""
        return undo(self._intent)

    def close(self) -> None:
        """Filters that are still there, by a detach that failed, bite no more."""
        while self._files:
            os.close(self._files.pop())


def _plan(ifindex: int, directions: List[str]) -> Tuple[List[Dict[str, Any]], bool]:
    """Where our filters will be, and whether the qdisc that they need is ours to make."""
    if not _has_clsact(ifindex):
        return [_free(way) for way in directions], True
    with netlink() as ip:
        return [_place(ip, ifindex, way) for way in directions], _made_by_us(ip, ifindex)


def _filter(one: Dict[str, Any], programs: Dict[str, int], name: str) -> rtnl.Filter:
    way = one["direction"]
    return rtnl.Filter(PARENT[way], one["priority"], one["handle"], programs[way], name)


def undo(intent: Dict[str, Any]) -> List[str]:
    """Remove what a `Clsact` recorded, from any process there; twice is fine.

    A clsact qdisc that we made stays when others have moved in; it is named in the answer.
    """
    if not intent.get("filters"):
        return []
    with netlink() as ip:
        for one in intent["filters"]:
            if _is_ours(ip, intent["ifindex"], one):
                _unless_gone(ip.tc, "del-filter", "bpf", intent["ifindex"], **_at(one))
        if not intent["made_clsact"] or not _is_there(ip, intent["ifindex"]):
            return []
        if not _is_empty_clsact(ip, intent["ifindex"]):
            return [CLSACT_LINE]
        _unless_gone(ip.tc, "del", "clsact", intent["ifindex"])
    return []


def netlink() -> Any:
    """A netlink socket in this namespace. pyroute2 costs a tenth of a second to import."""
    return iproute()()


def device_lines(ip: Any, ifindex: int) -> List[str]:
    """A device's traffic control, a line a thing, without counters."""
    lines = []
    for qdisc in ip.get_qdiscs(ifindex):
        lines.append(f"qdisc {qdisc.get_attr('TCA_KIND')} {qdisc['handle']:x}{_options(qdisc)}")
    if _has_clsact(ifindex):
        for direction in PARENT:
            lines += [_filter_line(direction, *found) for found in _filters(ip, ifindex, direction)]
    for direction in PARENT:
        try:
            programs = bpf.attached(ifindex, direction)
        except OSError:
            programs = []
        lines += [_tcx_line(direction, program) for program in programs]
    return sorted(lines)


def is_ours(line: str) -> bool:
    """Whether a fingerprint's line speaks of something that Aftershock made."""
    ours = (*NAMES.values(), f" handle {_HANDLES >> 24:x}", f"link {OUR_LINKS}")
    return line.endswith(OUR_PROCESS) or any(words in line for words in ours)


def _tcx_line(direction: str, program: bpf.Program) -> str:
    return f"tcx {direction} program {program.id} {program.name}"


def _filter_line(direction: str, kind: str, one: Dict[str, Any]) -> str:
    return f"filter {direction} {kind} priority {one['priority']} handle {one['handle']:x}"


def _options(message: Any) -> str:
    options = message.get_attr("TCA_OPTIONS")
    attributes = options.get("attrs") if hasattr(options, "get") else None
    return f" {sorted(map(str, attributes))}" if attributes else ""


def _has_clsact(ifindex: int) -> bool:
    kind = rtnl.qdiscs(ifindex).get(rtnl.CLSACT_HANDLE)
    if kind not in (None, "clsact"):
        raise CannotDo(
            "the device has an old-style ingress qdisc, beside which no clsact fits: "
            "remove it, or use a kernel with TCX (6.6 or newer)"
        )
    return kind is not None


def _made_by_us(ip: Any, ifindex: int) -> bool:
    places = [place for way in PARENT for _, place in _filters(ip, ifindex, way)]
    return any(place["name"].startswith(_MAKER) for place in places)


def _is_there(ip: Any, ifindex: int) -> bool:
    return any(link["index"] == ifindex for link in ip.get_links())


def _is_empty_clsact(ip: Any, ifindex: int) -> bool:
    if not _has_clsact(ifindex):
        return True
    return not any(_filters(ip, ifindex, direction) for direction in PARENT)


def _filters(ip: Any, ifindex: int, direction: str) -> List[Any]:
    """Pairs of kind and place of each filter; what has no handle is only a head."""
    found = []
    for one in ip.get_filters(index=ifindex, parent=PARENT[direction]):
        if one["handle"]:
            options = one.get_attr("TCA_OPTIONS")
            name = options.get_attr("TCA_BPF_NAME") if hasattr(options, "get_attr") else None
            place = {"priority": one["info"] >> 16, "handle": one["handle"], "name": name or ""}
            found.append((one.get_attr("TCA_KIND"), place))
    return found


def _place(ip: Any, ifindex: int, direction: str) -> Dict[str, Any]:
    """A priority before everyone's, since a terminal verdict there would bypass ours."""
    others = _filters(ip, ifindex, direction)
    first = min((place["priority"] for _, place in others), default=_USUAL_PRIORITY + 1)
    if first > 1:
        return {**_free(direction), "priority": first - 1}
    if any(kind != "bpf" for kind, place in others if place["priority"] == 1):
        raise CannotDo(
            f"a filter of another kind holds the first {direction} priority and would see packets "
            "before ours: move it to priority 2, or use a kernel with TCX (6.6 or newer)"
        )
    return {**_free(direction), "priority": 1}  # a newer bpf filter of one priority comes first


def _free(direction: str) -> Dict[str, Any]:
    handle = _HANDLES | random.SystemRandom().getrandbits(24)
    return {"direction": direction, "priority": _USUAL_PRIORITY, "handle": handle}


def _at(one: Dict[str, Any]) -> Dict[str, Any]:
    place = {"parent": PARENT[one["direction"]], "prio": one["priority"], "handle": one["handle"]}
    return {**place, "protocol": _ETH_P_ALL}


def _is_ours(ip: Any, ifindex: int, one: Dict[str, Any]) -> bool:
    if not _is_there(ip, ifindex) or not _has_clsact(ifindex):
        return False
    return any(
        (place["priority"], place["handle"]) == (one["priority"], one["handle"])
        and kind == "bpf"
        and place["name"].startswith((_MAKER, _GUEST))
        for kind, place in _filters(ip, ifindex, one["direction"])
    )


def _unless_gone(action: Any, *words: Any, **options: Any) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        action(*words, **options)
    except NetlinkError as error:
        if error.code not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
            raise
