"""The programs and maps of a fault, before anything is attached."""

import errno
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from aftershock.agent import bpf
from aftershock.agent.classifier import Classifier, new_rank
from aftershock.agent.program import Loss

pytestmark = pytest.mark.root
MATCH: dict[str, Any] = {
    "peers": ["10.1.0.0/16", "10.1.0.1", "fd00::/8"],
    "spare": [],
    "protocols": [],
    "peer_ports": [],
    "local_ports": [],
}


def classifier() -> Classifier:
    return Classifier(MATCH, {"egress": Loss(0, 0, 1, 0)}, {"egress": new_rank()})


def test_a_trie_that_the_kernel_refuses_is_told_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOMEM, "no room")

    before = set(Path("/proc/self/fd").iterdir())
    monkeypatch.setattr(bpf, "fill", refuse)
    with pytest.raises(OSError, match="no room"):
        classifier()
    assert set(Path("/proc/self/fd").iterdir()) == before


@pytest.mark.parametrize("refusals", [1, 3, 10_000])
def test_memory_that_the_kernel_lacks_for_a_moment_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    """As a kernel refuses it whose interrupt that refills a trie's memory is late."""
    left, call = [refusals], bpf._call

    def late(command: int, attributes: bytes) -> Any:
        if command in (bpf.MAP_UPDATE, bpf.MAP_UPDATE_BATCH) and left[0]:
            left[0] -= 1
            raise OSError(errno.ENOMEM, "no room")
        return call(command, attributes)

    monkeypatch.setattr(bpf, "_call", late)
    monkeypatch.setattr(bpf, "_REFILL_S", 0.2)
    trie = bpf.create_map(bpf.LPM_TRIE, 8, 4, 2, bpf.NO_PREALLOC)
    keys = [struct.pack("<I", 32) + bytes([10, 0, 0, host]) for host in (1, 2)]
    try:
        if refusals > 100:
            with pytest.raises(OSError, match="no room"):
                bpf.fill(trie, [(key, b"\1\0\0\0") for key in keys])
        else:
            bpf.fill(trie, [(key, b"\1\0\0\0") for key in keys])
            assert [bpf.lookup(trie, key, 4) for key in keys] == [b"\1\0\0\0"] * 2
    finally:
        os.close(trie)


def test_nothing_is_armed_before_its_trie_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[int] = []
    fill = bpf.fill
    monkeypatch.setattr(bpf, "fill", lambda *words: (fill(*words), filled.append(len(words[1]))))
    made = classifier()
    try:
        assert list(made.programs) == ["egress"] and filled == [3]
    finally:
        made.close()
