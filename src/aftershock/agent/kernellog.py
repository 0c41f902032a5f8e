"""Xids as the kernel's log has them: NVIDIA's driver writes a line for each, whoever else listens.

A record's number tells what came since, and its facility who wrote it: what a process writes to
/dev/kmsg never has the kernel's own.
"""

from __future__ import annotations

import os
import re
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional

KMSG = "/dev/kmsg"
_LARGEST = 8192  # more than any record
# "(PCI:0000:3b:00)" since driver 340, "(0000:03:00)" before.
_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([^)]*)\): (\d+),?\s*(.*)")


class Line(NamedTuple):
    """A record of the log."""

    number: int
    by_kernel: bool
    text: str


def parse(record: bytes) -> Line:
    """A record as /dev/kmsg gives it: priority, number, time, flags; the text; more lines."""
    head, _, rest = record.decode(errors="replace").partition(";")
    priority, number = head.split(",")[:2]
    return Line(int(number), int(priority) >> 3 == 0, rest.split("\n", 1)[0])


def xids_of(lines: Iterable[Line]) -> List[Dict[str, Any]]:
    """Those that are told: xid, pci (domain:bus:device, as NVML names cards), said, by_driver."""
    found = []
    for line in lines:
        if match := _XID.match(line.text):
            pci, xid, said = match.groups()
            told = {"pci": pci.lower(), "xid": int(xid), "said": said.strip()}
            found.append({**told, "by_driver": line.by_kernel})
    return found


def read(after: Optional[int] = None) -> Dict[str, Any]:
    """Xids since the record `after`; none where it is None. What to ask `after` next is `at`.

    `missed`: whether some records since were overwritten by now. `why`: why the log can't be read.
    """
    told: Dict[str, Any] = {"at": after, "xids": [], "missed": False, "why": ""}
    try:
        lines = list(_lines())
    except OSError as error:
        return {**told, "why": f"{KMSG}: {error.strerror}"}
    if after is not None:
        told["xids"] = xids_of(line for line in lines if line.number > after)
        told["missed"] = bool(lines) and lines[0].number > after + 1
    return {**told, "at": lines[-1].number if lines else after or 0}


def _lines() -> Iterator[Line]:
    """Every record that the log still has."""
    number = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while True:
            try:
                record = os.read(number, _LARGEST)
            except BlockingIOError:
                return
            except BrokenPipeError:  # overwritten meanwhile: the next is the oldest that is left
                continue
            if not record:
                return
            yield parse(record)
    finally:
        os.close(number)


def write(text: str) -> None:
    """A line of ours, an error to whoever filters by that."""
    number = os.open(KMSG, os.O_WRONLY)
    try:
        os.write(number, f"<3>{text}\n".encode())
    finally:
        os.close(number)
