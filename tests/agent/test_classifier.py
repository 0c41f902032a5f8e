"""The programs and maps of a fault, before anything is attached."""

import errno
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
    made = classifier()
    with pytest.raises(OSError, match="no room"):
        made.wait_until_filled()
    made.close()
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_nothing_is_armed_before_its_trie_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[int] = []
    fill = bpf.fill
    monkeypatch.setattr(bpf, "fill", lambda *words: (fill(*words), filled.append(len(words[1]))))
    made = classifier()
    try:
        made.wait_until_filled()
        assert list(made.programs) == ["egress"] and filled == [3]
    finally:
        made.close()
