"""A few bpf instructions put together by hand: registers, labels, maps."""

from __future__ import annotations

import struct
from typing import Dict, List, Optional, Tuple

_LOAD_BYTES = 68
_FROM_NETWORK_HEADER = 1


class Assembler:
    """Instructions with labels for the (forward) jumps."""

    def __init__(self) -> None:
        self._code: List[Tuple[int, int, int, int, int, Optional[str]]] = []
        self._labels: Dict[str, int] = {}

    def op(
        self,
        code: int,
        dst: int = 0,
        src: int = 0,
        off: int = 0,
        imm: int = 0,
        to: Optional[str] = None,
    ) -> None:
        """One instruction; `to` names the label a jump goes to."""
        self._code.append((code, dst, src, off, imm, to))

    def label(self, name: str) -> None:
        """The place of the next instruction."""
        self._labels[name] = len(self._code)

    def go(self, to: str) -> None:
        """Jump, whatever."""
        self.op(0x05, to=to)

    def map(self, register: int, map_fd: int, value: bool = False) -> None:
        """Load a map, or the address of a one-entry array's value."""
        self.op(0x18, register, 2 if value else 1, 0, map_fd)
        self.op(0)

    def load_bytes(self, offset: int, stack: int, count: int, base: Optional[int] = None) -> None:
        """Copy from the packet's network header to the stack; r0 is 0 when it was that long.

        `base` is a register that holds where the offset counts from.
        """
        self.op(0xBF, 1, 6)
        if base is None:
            self.op(0xB7, 2, imm=offset)
        else:
            self.op(0xBF, 2, base)
            self.op(0x07, 2, imm=offset)
        self.op(0xBF, 3, 10)
        self.op(0x07, 3, imm=stack)
        self.op(0xB7, 4, imm=count)
        self.op(0xB7, 5, imm=_FROM_NETWORK_HEADER)
        self.op(0x85, imm=_LOAD_BYTES)

    def assemble(self) -> bytes:
        """The code, jumps resolved."""
        lines = []
        for index, (code, dst, src, off, imm, to) in enumerate(self._code):
            jump = self._labels[to] - index - 1 if to else off
            lines.append(struct.pack("<BBhi", code, dst | src << 4, jump, imm))
        return b"".join(lines)
