"""A hundred pods of the lab's API, chosen by label and killed at once, until none is there.

From the first look to the last, beside chaostoolkit-kubernetes, which deletes one after the other
and looks no further. Pods are `sleep` processes, in the cluster of the tests.
"""

import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aftershock.capacity import Choice, PodKill
from aftershock.cluster import Cluster
from aftershock.cluster.places import nodes_of
from aftershock.cluster.pods import listed
from aftershock.inventory import FromApi
from benchmarks.rows import middle_of, row
from tests.kubernetes.conftest import Lab, deployment, until

COUNT, ROUNDS = 100, 3
PEER = "chaosk8s terminate_pods"


def rows() -> list[dict[str, Any]]:
    """What killing takes, in seconds; the project promises 2 at most."""
    with _lab() as lab:
        cluster = Cluster(str(lab.kubeconfig), "shop")
        try:
            ours = middle_of(lambda: _ours(cluster), ROUNDS)
            peer = middle_of(lambda: _peer(cluster), ROUNDS)
        finally:
            cluster.close()
    return [row("kill_100_pods", ours, "s", PEER, peer)]


@contextmanager
def _lab() -> Iterator[Lab]:
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder))
        try:
            web = deployment(replicas=COUNT, terminationGracePeriodSeconds=0)
            del web["spec"]["template"]["spec"]["containers"][0]["resources"]  # GPUs are few
            lab.apply(web)
            yield lab
        finally:
            lab.down()


def _ours(cluster: Cluster) -> float:
    _all_there(cluster)
    began = time.perf_counter()
    fault = PodKill(cluster, nodes_of(cluster, FromApi()), Choice("app=web"))
    fault.arm()
    fault.fire()
    assert fault.observe()["bit"] and len(fault.pods) == COUNT
    return time.perf_counter() - began


def _peer(cluster: Cluster) -> float:
    from chaosk8s.pod.actions import terminate_pods
    from kubernetes.config import kube_config

    logging.getLogger("chaostoolkit").setLevel(logging.ERROR)
    place = cluster.access.files[0]
    os.environ["KUBECONFIG"] = kube_config.KUBE_CONFIG_DEFAULT_LOCATION = place
    secrets = {"KUBERNETES_CONTEXT": cluster.access.context}
    _all_there(cluster)
    began = time.perf_counter()
    gone = terminate_pods("app=web", all=True, grace_period=0, ns="shop", secrets=secrets)
    took = time.perf_counter() - began
    assert len(gone) == COUNT
    return took


def _all_there(cluster: Cluster) -> None:
    until(lambda: sum(bool(pod.node) and pod.runs for pod in listed(cluster)) == COUNT, 60)


if __name__ == "__main__":
    for line in rows():
        print(line, file=sys.stderr)
