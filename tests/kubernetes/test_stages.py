"""Stages of replacements, from the events that a real server sent while its pods were lost."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from aftershock.cluster.lives import Life, born, died, seen
from aftershock.cluster.stages import Replacement, replacements

from .test_recordings import RECORDED

pytestmark = pytest.mark.skipif(
    not RECORDED.is_dir(), reason=f"no recorded answers of a real server at {RECORDED}"
)


def lives(file: str) -> list[Life]:
    """What a watch would have made of a recording; its clock begins at 0."""
    found: dict[str, Life] = {}
    gone: list[Life] = []
    for line in (RECORDED / file).read_text().splitlines()[1:]:
        told = json.loads(line)
        if told.get("stream") != "pods" or told["event"]["type"] == "BOOKMARK":
            continue
        pod, at = told["event"]["object"], told["ms"] / 1000
        uid = pod["metadata"]["uid"]
        if uid not in found and told["event"]["type"] == "ADDED":
            found[uid] = born(pod, at, is_news=True)
        elif uid not in found:  # it was there before, and well
            found[uid] = born(_well(pod), at, is_news=False)
        seen(found[uid], pod, at)
        if told["event"]["type"] == "DELETED":
            died(found[uid], at)
            gone.append(found.pop(uid))
    return [*gone, *found.values()]


def _well(pod: dict[str, Any]) -> dict[str, Any]:
    before = copy.deepcopy(pod)
    before["metadata"].pop("deletionTimestamp", None)
    for condition in before["status"].get("conditions") or ():
        condition["status"] = "True"
    return before


def stages(row: Replacement) -> list[float | None]:
    return [row.deleted_s, row.scheduled_s, row.started_s, row.ready_s]


@pytest.mark.parametrize(
    ("file", "was", "came", "expected"),
    [
        ("09-watch-pod-kill.jsonl", "9fg29", "j5cj6", [0.761, 0.795, 1.300, 1.311]),
        ("10-watch-pod-kill-grace-0.jsonl", "9vgh2", "l56c6", [0.730, 0.749, 1.237, 1.251]),
    ],
)
def test_a_killed_pods_replacement(file: str, was: str, came: str, expected: list[float]) -> None:
    (row,) = replacements(lives(file), 0.0)
    assert row.replaces.endswith(was) and row.pod.endswith(came)
    assert stages(row) == expected and row.node.startswith("node-")


def test_a_silent_nodes_pods() -> None:
    """One is evicted after its toleration and replaced; the other is there again at the thaw."""
    rows = {row.replaces: row for row in replacements(lives("22-watch-node-silent.jsonl"), 0.0)}
    evicted = next(row for name, row in rows.items() if name.startswith("web-"))
    assert evicted.pod != evicted.replaces and evicted.deleted_s == 50.937
    stayed = next(row for name, row in rows.items() if name.startswith("api-"))
    assert stayed.pod == stayed.replaces
    assert stages(stayed) == [50.930, None, None, 88.191]
