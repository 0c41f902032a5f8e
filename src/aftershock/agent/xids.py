"""A step that tells monitoring of an Xid which never was: by DCGM, and perhaps in the kernel's log.

DCGM forgets what was injected when it reads the field anew: so it is told again, twice a second.
"""

from __future__ import annotations

import subprocess
from typing import Any, Dict, List, Mapping, Sequence

from . import cardstate, gpu, kernellog
from .classifier import check_options
from .errors import AgentError, Invalid
from .programs import ends_with_us, host_program

_OPTIONS = ("gpus", "xid", "kernel_log")
INJECTED = "injected by Aftershock: nothing is wrong with the GPU"
_FIELD = "230"  # DCGM_FI_DEV_XID_ERRORS
_LONGEST_S = 10.0


class Xid:
    """Some GPUs' last Xid, as monitoring is told."""

    kind = "gpu-xid"

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        check_options(options, _OPTIONS)
        if not 1 <= options["xid"] <= 999:
            raise Invalid(f"gpu-xid: xid {options['xid']}: 1 to 999")
        self.outlives, self.rash = True, False
        self.about: Dict[str, Any] = {
            "xid": options["xid"],
            "gpus": list(options["gpus"]),
            "looks": ["gpus", "xids"],
        }
        self._options, self._injection = dict(options), injection
        self._indexes: List[int] = []
        self._places: List[str] = []
        self._on = False

    def intent(self) -> Dict[str, Any]:
        """What undoes it from outside: that DCGM is told of none."""
        return {"indexes": self._indexes}

    def attach(self) -> Dict[str, Any]:
        """The GPUs must be there, and DCGM able to be told."""
        cards, xid = gpu.find(self._options["gpus"]), self._options["xid"]
        self._indexes = [card["index"] for card in cards]
        self._places = [f"PCI:{card['pci']}" if card["pci"] else "no PCI" for card in cards]
        shown = last_xids(self._indexes)
        # What was shown before we came is nothing of ours.
        new = [card["uuid"] for card in cards if shown[card["index"]] != xid]
        owned = [cardstate.xid_line(uuid, xid) for uuid in new]
        return {"owned": [cardstate.BLIND, *owned], "undo": self.intent()}

    def fire(self, until: float) -> None:
        """Tell DCGM; and the kernel's log, where a line says that it was injected."""
        self._on = True
        self.tick()
        if self._options["kernel_log"]:
            for place in self._places:
                kernellog.write(f"NVRM: Xid ({place}): {self._options['xid']}, {INJECTED}")

    def tick(self) -> None:
        """Tell it again."""
        for index in self._indexes if self._on else ():
            _tell(index, self._options["xid"], bound=True)

    def shut(self) -> None:
        """Tell of none."""
        if self._on:
            self._on = False
            for index in self._indexes:
                _tell(index, 0)

    def observe(self) -> Dict[str, Any]:
        """What DCGM shows."""
        shown = {str(index): xid for index, xid in last_xids(self._indexes).items()}
        return {"kind": self.kind, "counts": {}, "shown": shown, "xid": self._options["xid"]}

    def detach(self) -> List[str]:
        """DCGM shows it no more."""
        self.shut()
        return []

    def close(self) -> None:
        """Nothing is held."""


def undo(intent: Mapping[str, Any]) -> List[str]:
    """Tell DCGM that there is none."""
    for index in intent["indexes"]:
        _tell(index, 0)
    return []


def last_xids(indexes: Sequence[int]) -> Dict[int, int]:
    """GPUs' last Xids as `dcgmi` shows them, all at once: each time takes it a second."""
    if not indexes:
        return {}
    named = ",".join(str(index) for index in indexes)
    said = _dcgmi("dmon", "-e", _FIELD, "-c", "1", "-i", named)
    found = dict.fromkeys(indexes, 0)  # N/A: there never was one
    for line in said.splitlines():
        words = line.split()
        if words[:1] == ["GPU"] and words[-1].isdecimal():
            found[int(words[1])] = int(words[-1])
    return found


def _tell(index: int, xid: int, bound: bool = False) -> None:
    words = ["test", "--inject", "--gpuid", str(index), "-f", _FIELD, "-v", str(xid)]
    _dcgmi(*words, bound=bound)


def _dcgmi(*words: str, bound: bool = False) -> str:
    before = ends_with_us() if bound else []
    command = [*before, *host_program("dcgmi", "datacenter-gpu-manager"), *words]
    pipes: Dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        done = subprocess.run(command, check=False, timeout=_LONGEST_S, **pipes)
    except subprocess.TimeoutExpired:
        raise AgentError("gpu-xid: dcgmi does not answer: does nv-hostengine run?") from None
    said: str = done.stdout.decode(errors="replace").strip()
    if done.returncode:
        raise AgentError(f"gpu-xid: {' '.join(words)}: {said or 'dcgmi failed'}")
    return said
