"""A controller that will be killed: fires a partition through a node's agent pod, then waits."""

import json
import sys
import time

from aftershock.faults.partition import EVERYONE, Partition
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.inventory import node_from_dict
from aftershock.ledger import Ledger

node, options = node_from_dict(json.loads(sys.argv[1])), json.loads(sys.argv[2])
ledger = Ledger.open("run-to-be-killed")
injection = Injection(
    Partition(EVERYONE), [node], ledger=ledger, fleet=Fleet(ledger=ledger), **options
)
injection.arm()
injection.fire()
print("fired", flush=True)
time.sleep(600)
