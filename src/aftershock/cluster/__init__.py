"""What we ask of a Kubernetes API: the ways in, what runs there, and what becomes of it."""

from aftershock.cluster.api import ZONE_LABEL, Cluster, Pod
from aftershock.cluster.refusals import NoAccess, Refused

__all__ = ["ZONE_LABEL", "Cluster", "NoAccess", "Pod", "Refused"]
