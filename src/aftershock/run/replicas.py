"""The service's replicas while a run goes on: a watch over its pods, told to the timeline."""

from __future__ import annotations

import contextlib
from typing import Any

from aftershock.cluster import Cluster
from aftershock.cluster.stages import replacements
from aftershock.cluster.watch import Count, Gap, PodWatch
from aftershock.errors import AftershockError
from aftershock.inventory import Inventory
from aftershock.slo.aftermath import READY_REPLICAS
from aftershock.slo.capacity import REPLICAS_DELAY, REPLICAS_GAP
from aftershock.slo.timeline import Timeline


class Replicas:
    """Watches from its making to `stop`."""

    def __init__(self, cluster: Cluster, inventory: Inventory, timeline: Timeline) -> None:
        self._cluster = cluster
        self._timeline = timeline
        self._zones = {node.in_cluster: node.zone for node in inventory.nodes}
        with contextlib.suppress(AftershockError):  # not everybody may list nodes
            self._zones = {**cluster.zone_of_nodes(), **self._zones}
        self.watch = PodWatch(
            cluster,
            inventory.selector,
            zones=filter(None, dict.fromkeys(self._zones.values())),
            zone_of=self._zone_of,
            heard=self._heard,
            gap_heard=self._gap,
        )
        self.watch.begin()

    def stop(self) -> None:
        """Stop to watch; what is known stays."""
        self.watch.stop()

    def replacements(self, since: float) -> list[dict[str, Any]]:
        """See `cluster.stages.replacements`."""
        found = replacements(self.watch.lives(), since, self.watch.gaps())
        return [one.as_dict() for one in found]

    def _zone_of(self, node: str) -> str:
        if node not in self._zones:  # it came later
            with contextlib.suppress(AftershockError):
                self._zones |= self._cluster.zone_of_nodes(anew=True)
        return self._zones.setdefault(node, "")

    def _heard(self, count: Count) -> None:
        self._timeline.gauge(REPLICAS_DELAY, "", round(self.watch.delay_s, 4), count.at)
        for zone, ready in count.ready.items():
            self._timeline.gauge(READY_REPLICAS, zone, ready, count.at)

    def _gap(self, gap: Gap) -> None:
        self._timeline.gauge(REPLICAS_GAP, gap.kind, gap.end - gap.start, gap.end)
