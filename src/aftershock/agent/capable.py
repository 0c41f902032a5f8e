"""What this kernel can do, tried in a network namespace that is gone before anybody sees it.

Trying also loads the modules, where the kernel may. A thread of its own goes there: it ends with
the thread, and this process' own namespace is never left.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from typing import Callable, Dict, List, Mapping, Sequence

from . import bpf, netem, resets, rtnl
from .errors import AgentError, Invalid

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_LOOPBACK = 1
_PASS = struct.pack("<BBhiBBhi", 0xB7, 0, 0, -1, 0x95, 0, 0, 0)  # r0 = next; exit
_TINY_TBF = {"kind": "tbf", "rate_bit": 8000, "burst_bytes": 2000, "limit_bytes": 2000}


def capable(wanted: Sequence[str]) -> Dict[str, str]:
    """For each thing wanted, why this kernel can't do it, or nothing."""
    if unknown := set(wanted) - set(_TRIALS):
        raise Invalid(f"no trial of {', '.join(sorted(unknown))}: there are {', '.join(_TRIALS)}")
    return {what: _elsewhere(_TRIALS[what]) for what in wanted}


def _elsewhere(trial: Callable[[], None]) -> str:
    said: List[str] = []

    def work() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_NEW_NETWORK):
            said.append(f"a namespace to try it in: {os.strerror(ctypes.get_errno())}: run as root")
            return
        try:
            trial()
        except (AgentError, OSError) as error:
            said.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return said[0] if said else ""


def _veth() -> None:
    from .detour import make_pair
    from .hooks import netlink

    with netlink() as ip:
        make_pair(ip, "as-trial")


def _tcx() -> None:
    _attached("tcx")


def _cls_bpf() -> None:
    _attached("clsact")


def _attached(hook: str) -> None:
    from .dropping import hook_for

    program = bpf.load(_PASS, "as_trial")
    try:
        end = hook_for(hook, _LOOPBACK, ["ingress"], "trial")
        end.attach({"ingress": program})
        end.detach()
        end.close()
    finally:
        os.close(program)


def _netem() -> None:
    kind, options = netem.encode({"kind": "netem", "delay_ms": 1})
    rtnl.add_root_qdisc(_LOOPBACK, kind, options)


def _tbf() -> None:
    rtnl.add_root_qdisc(_LOOPBACK, *netem.encode(_TINY_TBF))


def _sock_destroy() -> None:
    if why := resets.refusal():
        raise AgentError(why)


_TRIALS: Mapping[str, Callable[[], None]] = {
    "tcx": _tcx,
    "cls_bpf": _cls_bpf,
    "veth": _veth,
    "netem": _netem,
    "tbf": _tbf,
    "sock_destroy": _sock_destroy,
}
