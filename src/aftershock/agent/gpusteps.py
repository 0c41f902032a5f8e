"""Steps that press a host's GPUs, by a child of the agent for each, which ends with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Dict, List, Mapping

from . import cardstate, gpu, gpuroom, mig
from .classifier import check_options
from .clock import end_process, identity, is_there
from .errors import AgentError, Invalid, NotUndone
from .hogs import Hog
from .stress import Hogs

_MIB = 1 << 20
_WHOM = ("gpus", "used_by", "anyone")
_COMPUTE = (*_WHOM, "duty", "bound")
_MEMORY = (*_WHOM, "take_bytes", "free_bytes", "share", "keep", "steps", "over_s", "block_bytes")
_MOST_BLOCKS = 65_536
_LEAST_BLOCK = 2 << 20


class _OnGpus(Hogs, ABC):
    """Children that stand ready with a context on a GPU each."""

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.about = {"gpus": list(options["gpus"]), "level": "", "looks": ["gpus"]}
        self._options = dict(options)
        self._cards: List[Dict[str, Any]] = []
        self._told: Dict[int, Dict[str, Any]] = {}
        self._children: List[Dict[str, Any]] = []

    def intent(self) -> Dict[str, Any]:
        """The kernel ends them with the agent, and the driver frees what they hold: who they are,
        for whoever wants to see that they are gone."""
        return {"children": self._children}

    def attach(self) -> Dict[str, Any]:
        """Which GPUs it is, and that they may be touched, is known by now."""
        self._cards = gpu.find(self._options["gpus"])
        for card in self._cards:
            self._check(card)
        self._asked = [self._words(card) for card in self._cards]
        self.about["gpus"] = [card["uuid"] for card in self._cards]
        self.about["level"] = self._cards[0]["level"]
        super().attach()
        self._children = [identity(hog.pid) for hog in self._hogs]
        owned = [
            cardstate.process_line(card["uuid"], child["pid"], child["started"])
            for card, child in zip(self._cards, self._children)
        ]
        return {"owned": [cardstate.BLIND, *owned], "undo": self.intent()}

    def _check(self, card: Dict[str, Any]) -> None:
        which = f"GPU {card['index']}"
        if card["lost"]:
            raise AgentError(f"{self.kind}: {which} is lost: reset it, or restart the host")
        mig.check_not_whole(card, self.kind)
        if card["compute_mode"] not in (None, "default"):
            raise Invalid(
                f"{self.kind}: {which} is in {card['compute_mode']} mode, where two processes "
                "can't share it: set it to default "
                f"(nvidia-smi -i {card.get('parent', card['index'])} -c 0)"
            )
        gpu.check_users(card, self._options["used_by"], self._options["anyone"], self.kind)

    @abstractmethod
    def _words(self, card: Dict[str, Any]) -> Dict[str, Any]:
        """What the child of a GPU is told; refuses what is not there."""

    def _begin(self, words: Dict[str, Any]) -> Hog:
        # By UUID: CUDA numbers GPUs by speed unless told otherwise, NVML by their bus.
        return Hog(words, {"CUDA_VISIBLE_DEVICES": words["uuid"]})

    def observe(self) -> Dict[str, Any]:
        """For each GPU: what its child was told, who it is, and what it says it did."""
        cards = []
        for number, (hog, words) in enumerate(zip(self._hogs, self._asked)):
            if number not in self._told and hog.is_there() and (told := hog.hear(0.0)):
                self._told[number] = told
            cards.append({**words, "pid": hog.pid, **self._told.get(number, {})})
        return {**super().observe(), "cards": cards, "level": self.about["level"]}


class GpuMemory(_OnGpus):
    """Memory of GPUs, held: `take_bytes`, or all but `free_bytes`, or until `share` is used.

    With `block_bytes` in blocks of that size, with as much free between them.
    """

    kind = "gpu-memory"

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        check_options(options, _MEMORY)
        super().__init__(injection, options)

    def attach(self) -> Dict[str, Any]:
        """Of a GPU that is to be fragmented it is known by now how large an allocation can be."""
        told = super().attach()
        for words in self._asked:
            if words["block"]:
                words["before"] = gpuroom.largest(words["uuid"])
        return told

    def _words(self, card: Dict[str, Any]) -> Dict[str, Any]:
        """What the child of a GPU is told; refuses what is not there."""
        options, which = self._options, f"GPU {card['index']}"
        free, total = (int(card[f"memory_{key}_mib"] * _MIB) for key in ("free", "total"))
        leave = options["free_bytes"]
        if options["share"]:
            leave = int(total * (1 - options["share"]))
        wanted = options["take_bytes"] or free - leave
        if wanted <= 0:
            raise AgentError(
                f"gpu-memory: {which} has {free // _MIB} MiB free, and {leave // _MIB} MiB are to "
                "be left: nothing would happen"
            )
        if wanted > free:
            raise AgentError(
                f"gpu-memory: {which} has {free // _MIB} MiB free of {total // _MIB}, not "
                f"{wanted // _MIB}: take less"
            )
        if options["block_bytes"]:
            wanted = in_blocks(which, wanted, free, options["block_bytes"])
        return {
            "kind": self.kind,
            "uuid": card["uuid"],
            "index": card["index"],
            "bytes": options["take_bytes"],
            "leave": leave,
            "asked": wanted,
            "keep": options["keep"],
            "steps": options["steps"],
            "over_s": options["over_s"],
            "block": options["block_bytes"],
        }


def in_blocks(which: str, wanted: int, free: int, block: int) -> int:
    """What is held of it in whole blocks, twice which is taken first; refuses what can't be."""
    held, free_mib = wanted // block * block, free // _MIB
    if not held:
        raise AgentError(
            f"gpu-memory: blocks of {block // _MIB} MiB on {which}, and only {wanted // _MIB} MiB "
            "are to be held: say a smaller block_mib"
        )
    if 2 * held > _MOST_BLOCKS * block:
        least = -(-2 * wanted // (_MOST_BLOCKS * _LEAST_BLOCK)) * _LEAST_BLOCK // _MIB
        raise AgentError(
            f"gpu-memory: {2 * held // block} blocks of {block // _MIB} MiB on {which}, and "
            f"{_MOST_BLOCKS} at most: say block_mib {least} or more"
        )
    if 2 * held > free:
        raise AgentError(
            f"gpu-memory: {which} has {free_mib} MiB free, and holding {held // _MIB} in every "
            f"other block takes twice as much at first: hold {free_mib // 2} at most"
        )
    if free - 2 * held >= (free - held) / 2:
        raise AgentError(
            f"gpu-memory: {which} has {free_mib} MiB free; with {held // _MIB} held in every "
            f"other block {(free - 2 * held) // _MIB} would stay in one piece, too large to fail: "
            f"hold more than a third of it, {free_mib // 3}, and {free_mib // 2} at most"
        )
    return held


class GpuCompute(_OnGpus):
    """Processors of GPUs kept busy for a share of the time, or the wires to their memory."""

    kind = "gpu-compute"

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        check_options(options, _COMPUTE)
        super().__init__(injection, options)

    def _check(self, card: Dict[str, Any]) -> None:
        if card.get("mig"):
            raise Invalid(
                f"gpu-compute: GPU {card['index']} is split by MIG, and NVML tells nobody how busy "
                "that is, so no effect could be seen: name a GPU that isn't split"
            )
        super()._check(card)

    def _words(self, card: Dict[str, Any]) -> Dict[str, Any]:
        """What the child of a GPU is told."""
        return {
            "kind": self.kind,
            "uuid": card["uuid"],
            "index": card["index"],
            "duty": self._options["duty"],
            "bound": self._options["bound"],
        }


def undo(intent: Mapping[str, Any]) -> List[str]:
    """See that the children are gone, which end with their agent; one that isn't is ended."""
    children = intent.get("children", ())
    for child in children:
        end_process(child)
    if left := [child["pid"] for child in children if is_there(child)]:
        raise NotUndone(f"process {left[0]} of ours doesn't end: does the GPU's driver hang?")
    return []
