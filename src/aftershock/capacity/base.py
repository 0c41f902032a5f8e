"""What every fault that lives in a Kubernetes API has in common."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from aftershock.capacity.toll import Taken, nothing_taken
from aftershock.cluster import Cluster, Pod
from aftershock.cluster.permissions import Permission, require
from aftershock.evidence import Piece, bites
from aftershock.inventory import Node


class ApiFault:
    """What the faults of an API share: when they fired, and how they are told."""

    kind = ""
    momentary = False  # over as soon as it was done, with nothing to heal

    def __init__(self, cluster: Cluster, nodes: Sequence[Node]) -> None:
        self.cluster = cluster
        self.nodes = tuple(nodes)
        self.fired_at: float | None = None
        self.skew_ms = 0.0
        self.reverted = False
        self.taken: Taken = nothing_taken  # what a run took before, which counts for the limits
        self.pieces: list[Piece] = []
        self._fired_at_utc: str | None = None

    @property
    def bit(self) -> bool:
        """Whether the effect was observed on every node."""
        return bites(self.pieces)

    @property
    def ended(self) -> Sequence[Pod]:
        """The pods that it ended; others replace them."""
        return ()

    def permissions(self) -> list[Permission]:
        """What it takes from the first look to the last."""
        return []

    def check(self) -> None:
        """Whether we may; `NotPermitted` names what is missing, before anything is touched."""
        require(self.cluster, self.permissions())

    def touches(self) -> list[str]:
        """What it would touch, by name; known once it was checked."""
        return [f"{self.kind} of node {node.name} ({node.zone})" for node in self.nodes]

    def _note_firing(self, started: float) -> float:
        self.fired_at = started
        took = timedelta(seconds=time.monotonic() - started)
        self._fired_at_utc = (datetime.now(UTC) - took).isoformat(timespec="milliseconds")
        self.skew_ms = took.total_seconds() * 1000
        return started

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the journal, in the words of every injection."""
        return {
            "fault": self.kind,
            "parameters": self.parameters(),
            "hosts": [node.name for node in self.nodes],
            "fired_at": self._fired_at_utc,
            "fired_at_monotonic_s": self.fired_at,
            "skew_ms": round(self.skew_ms, 3),
            "bit": self.bit,
            "evidence": self.evidence,
            "ordered": True if self.reverted else None,
            "reverted": self.reverted,
            "momentary": self.momentary,
            "healed_early": self.healed_early,
            "clean": self.reverted,
        }

    @property
    def healed_early(self) -> bool:
        """Whether somebody took it back before we ordered it."""
        return False

    @property
    def evidence(self) -> dict[str, Any]:
        """What was seen of the effect when it was last looked for."""
        return {"bit": self.bit, "pieces": [piece.to_dict() for piece in self.pieces]}

    def parameters(self) -> dict[str, Any]:
        """What the fault was told."""
        return {}
