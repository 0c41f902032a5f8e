"""The lab's Kubernetes API: a small server whose pods are real processes."""

from aftershock.lab.kubernetes.cluster import Cluster, NodeInfo, Timing
from aftershock.lab.kubernetes.server import ApiServer

__all__ = ["ApiServer", "Cluster", "NodeInfo", "Timing"]
