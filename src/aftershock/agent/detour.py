"""A step that sends packets through a queueing discipline which isn't their device's own.

              program at the hook                     program at the end
    eth0 egress ──> as-1f3c0a9e0 ═══ veth ═══ as-1f3c0a9e1 ──> eth0 egress ──> eth0's own root qdisc
    eth0 ingress ─> as-1f3c0a9f0 ═══ veth ═══ as-1f3c0a9f1 ──> eth0 ingress ─> the stack
                    └ root qdisc: netem or tbf

Whatever qdisc eth0 has, an mq, a shaped htb, none, it stays: we never look at it, and what isn't a
target meets one program that says "next". Chosen packets leave eth0's hook for one end of a veth
pair of our own, wait in its qdisc, and come back from the other end into the same hook, where
other injections' programs take their turn with them (program.py tells how they know). A pair a
direction: each has its own queue.

The usual way, an ifb with a redirecting filter, serves one fault a device: its packets come back
past all filters. And its filters outlive the agent, whereas here the programs are TCX links: after
SIGKILL packets take the straight way again at once, and the watcher takes the idle pair away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping

from . import bpf, hooks, netem, rtnl
from .classifier import Classifier, check_directions, check_options, new_rank
from .dropping import hook_for
from .errors import CannotDo
from .facts import ETHERNET_LIKE, device_index, link_type
from .hooks import OUR_LINKS
from .program import RETURN_NAME, Detour, assemble_return

_OPTIONS = ("device", "directions", "hook", "match", "qdisc")
_MTU = 65535
_DRAIN_S = 0.5


class Divert:
    """Programs that divert, and the pairs that they divert through."""

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        check_options(options, _OPTIONS)
        check_directions(options["directions"])
        self.rash = False
        self.kind = "divert"
        self.outlives = True
        self.device: str = options["device"]
        self.about = {"device": self.device, "hook": options["hook"]}
        self._qdisc = netem.encode(options["qdisc"])
        self._directions: List[str] = list(options["directions"])
        self._ifindex = device_index(self.device)
        if link_type(self.device) not in ETHERNET_LIKE:
            raise CannotDo(
                f"{self.device} has no Ethernet header, so its packets can't take a detour: "
                "name the device below it"
            )
        self._match, self._hook_kind, self._injection = options["match"], options["hook"], injection
        self._hook = hook_for(options["hook"], self._ifindex, self._directions, injection)
        self._pairs = {way: f"{OUR_LINKS}{secrets.token_hex(4)}" for way in self._directions}
        self._classifier: Any = None
        self._ends: List[Any] = []
        self._programs: List[int] = []
        self._queues: Dict[str, int] = {}

    def intent(self) -> Dict[str, Any]:
        """What undoes it from outside, known before anything is touched."""
        pairs = sorted(self._pairs.values())
        return {**self._hook.intent(), "device": self.device, "pairs": pairs}

    def attach(self) -> Dict[str, Any]:
        """Make the pairs with their qdiscs, then attach; nothing is diverted before the firing."""
        ranks = {}
        with hooks.netlink() as ip:
            for way, name in self._pairs.items():
                ranks[way] = make_pair(ip, name)
                self._queues[way] = device_index(name + "0")
                rtnl.add_root_qdisc(self._queues[way], *self._qdisc)
                self._end(way, name + "1", ranks[way])
                _up(ip, name)
        detours = {way: Detour(queue) for way, queue in self._queues.items()}
        self._classifier = Classifier(self._match, detours, ranks)
        done = dict(self._hook.attach(self._classifier.programs))
        owned = [f"{self.device} {line}" for line in done.pop("owned")]
        names = sorted(self._pairs.values())
        ends = [f"link {name}{end}" for name in names for end in (0, 1)]
        return {"owned": owned + ends, "undo": {**self.intent(), **done}}

    def _end(self, way: str, name: str, rank: int) -> None:
        """The program that sends back what comes out of a pair."""
        program = bpf.load(assemble_return(way, rank, self._ifindex), RETURN_NAME)
        self._programs.append(program)
        end = hook_for(self._hook_kind, device_index(name), ["ingress"], self._injection)
        end.attach({"ingress": program})
        self._ends.append(end)

    def fire(self, until: float) -> None:
        """Let it bite until a time on CLOCK_BOOTTIME."""
        self._classifier.open_gate(until)

    def tick(self) -> None:
        """Nothing comes due."""

    def shut(self) -> None:
        """Divert no more; what waits in the queues still comes out."""
        if self._classifier:
            self._classifier.shut_gate()

    def observe(self) -> Dict[str, Any]:
        """What was diverted so far, and what the kernel says of the queues, by direction."""
        counts = self._classifier.counts() if self._classifier else {}
        queues = {}
        for way, queue in self._queues.items():
            with contextlib.suppress(OSError):
                queues[way] = rtnl.qdisc_counts(queue)
        return {"kind": self.kind, "device": self.device, "counts": counts, "qdisc": queues}

    def detach(self) -> List[str]:
        """Let the queues run dry, for a moment, and take it all off."""
        until = time.monotonic() + _DRAIN_S
        while self._waiting() and time.monotonic() < until:
            time.sleep(0.002)
        left = [f"{self.device} {line}" for line in self._hook.detach()]
        for end in self._ends:
            end.detach()
        remove_pairs(self._pairs.values())
        self._queues = {}
        return left

    def _waiting(self) -> bool:
        with contextlib.suppress(OSError):
            return any(
                rtnl.qdisc_counts(queue).get("backlog_packets") for queue in self._queues.values()
            )
        return False

    def close(self) -> None:
        """Give up what is left in memory."""
        for hook in (self._hook, *self._ends):
            hook.close()
        for program in self._programs:
            os.close(program)
        if self._classifier:
            self._classifier.close()


def undo(intent: Mapping[str, Any]) -> List[str]:
    """Remove what a `Divert` recorded, from any process there; twice is fine."""
    adopted = [f"{intent['device']} {line}" for line in hooks.undo(dict(intent))]
    remove_pairs(intent.get("pairs", ()))
    return adopted


def remove_pairs(names: Any) -> None:
    """Delete veth pairs of ours; one end takes the other along."""
    from pyroute2.netlink.exceptions import NetlinkError

    with hooks.netlink() as ip:
        for name in names:
            for index in ip.link_lookup(ifname=name + "0"):
                try:
                    ip.link("del", index=index)
                except NetlinkError as error:
                    if error.code != errno.ENODEV:
                        raise


def make_pair(ip: Any, name: str) -> int:
    """A veth pair that nobody configures; the number of its end, which is the detour's rank."""
    from pyroute2.netlink.exceptions import NetlinkError

    rank = new_rank()
    while True:
        peer = {"ifname": name + "0", "mtu": _MTU}
        try:
            ip.link("add", ifname=name + "1", index=rank, kind="veth", mtu=_MTU, peer=peer)
        except NetlinkError as error:
            if error.code == errno.EOPNOTSUPP:
                raise CannotDo("this kernel has no veth: load the module veth") from None
            if error.code not in (errno.EEXIST, errno.EBUSY) or ip.link_lookup(ifname=name + "0"):
                raise
            rank += 1
            continue
        if device_index(name + "1") != rank:  # packets would go round in circles
            raise CannotDo("this kernel doesn't number devices as asked: use Linux 3.7 or newer")
        return rank


def _up(ip: Any, name: str) -> None:
    """No addresses, no neighbours, no words of its own: only what is sent through it."""
    for end in (name + "0", name + "1"):
        for setting in ("disable_ipv6", "accept_ra"):
            switch = Path(f"/proc/sys/net/ipv6/conf/{end}/{setting}")
            with contextlib.suppress(OSError):
                switch.write_text("1" if setting == "disable_ipv6" else "0", encoding="ascii")
        index = device_index(end)
        ip.link("set", index=index, flags=0x80, change=0x80)  # IFF_NOARP
        ip.link("set", index=index, state="up")
