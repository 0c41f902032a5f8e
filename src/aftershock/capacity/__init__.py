"""Faults that live in a Kubernetes API: pods killed, and replacements kept out.

Each has the life of every injection (check, arm, fire, evidence, revert) and writes to the ledger
first. What is changed in an API outlasts us: the ledger holds how it was, so that `aftershock
recover` takes it back when the controller could not.
"""

from aftershock.capacity.choosing import Choice, NothingMatches, TooMuch
from aftershock.capacity.drain import Drain
from aftershock.capacity.kept_down import KeptDown
from aftershock.capacity.nodes import Cordon, Tainted
from aftershock.capacity.pods import Ending, PodEviction, PodKill
from aftershock.capacity.repeated import RepeatedKill
from aftershock.capacity.scale import BlockedAutoscaler, Scaled

__all__ = [
    "BlockedAutoscaler",
    "Choice",
    "Cordon",
    "Drain",
    "Ending",
    "KeptDown",
    "NothingMatches",
    "PodEviction",
    "PodKill",
    "RepeatedKill",
    "Scaled",
    "Tainted",
    "TooMuch",
]
