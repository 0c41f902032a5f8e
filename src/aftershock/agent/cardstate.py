"""What of this host's GPUs can outlast a fault, in a fingerprint's lines.

Settings that live in the driver, and processes of ours that have a card. Others' processes come and
go as services do: they are no line. Xids are what DCGM tells, which takes it a second.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

from . import gpu, mig
from .clock import identity, start_ticks
from .errors import AgentError, CannotDo
from .hooks import OUR_PROCESS

LOCKS_BLIND = "cuda: the driver answers no more, so nobody knows whose CUDA is locked"
BLIND = "gpu: NVML or DCGM answers no more, so nobody knows what is left on the cards"
CLOCKS_SET = gpu.USERS_CLOCKS


def card_lines() -> List[str]:
    """A line a setting, and one for each process of ours."""
    try:
        return [line for card in gpu.looked_at() for line in _of_card(card)]
    except CannotDo:
        return [BLIND]


def xid_lines() -> List[str]:
    """The Xid that DCGM shows for each card, where it shows one."""
    from .xids import last_xids

    try:
        uuids = {card["index"]: card["uuid"] for card in gpu.gpus() if not card["lost"]}
        shown = last_xids(list(uuids))
    except AgentError:
        return [BLIND]
    return [xid_line(uuids[index], xid) for index, xid in shown.items() if xid]


def locked_lines() -> List[str]:
    """A line for each process that uses a GPU and whose CUDA is locked, or may be."""
    from . import checkpoint

    try:
        users = {one["pid"] for card in gpu.looked_at() for one in card["processes"]}
        told = checkpoint.ask("look", [identity(pid) for pid in sorted(users)])
    except AgentError:
        return [LOCKS_BLIND]
    locked = {one["pid"]: lock_lines_of(one) for one in told}
    return [
        locked[one["pid"]][bool(one["failed"])]
        for one in told
        if one["failed"] or one["state"] not in (None, checkpoint.RUNNING)
    ]


LOOKS: Mapping[str, Callable[[], List[str]]] = {
    "gpus": card_lines,
    "xids": xid_lines,
    "cuda-locks": locked_lines,
}


def _of_card(card: Dict[str, Any]) -> Iterator[str]:
    if card["lost"]:
        yield f"gpu {card['index']} is lost"
        return
    uuid = card["uuid"]
    for name in ("compute_mode", "persistence"):
        if card[name] is not None:
            yield f"gpu {uuid} {name.replace('_', ' ')} {card[name]}"
    if card["power_set_w"] is not None:
        yield power_line(uuid, card["power_set_w"])
    if CLOCKS_SET in card["throttled_by"]:
        yield clocks_line(uuid)
    on_instances = {one["pid"] for part in card["instances"] for one in part["processes"]}
    for user in mig.with_instances([card]):
        for one in user["processes"]:
            told_twice = user is card and one["pid"] in on_instances
            if gpu.is_child_of_ours(one["command"]) and not told_twice:
                yield process_line(user["uuid"], one["pid"], start_ticks(one["pid"]))


def power_line(uuid: str, watts: float) -> str:
    """A card's power limit."""
    return f"gpu {uuid} power limit {watts:g} W"


def clocks_line(uuid: str) -> str:
    """That a card's clocks are not the driver's own choice; it doesn't tell whose."""
    return f"gpu {uuid} {CLOCKS_SET}"


def process_line(uuid: str, pid: int, started: Optional[int]) -> str:
    """That a child of an agent has a card."""
    return f"gpu {uuid} process {pid} begun {started}{OUR_PROCESS}"


def lock_lines_of(process: Mapping[str, Any]) -> Tuple[str, str]:
    """That a process' CUDA is locked; that the driver doesn't tell whether it is."""
    who = f"process {process['pid']} begun {process['started']}"
    return f"cuda: {who} is locked", f"cuda: {who} may be locked: the driver does not say"


def xid_line(uuid: str, xid: int) -> str:
    """What monitoring is told of a card."""
    return f"gpu {uuid} DCGM shows Xid {xid}"
