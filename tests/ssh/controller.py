"""A controller in a process of its own, to be killed: `controller.py NODES HOOK OPTIONS`, all JSON.

Fires a partition of the nodes from everybody, tells who its agents are, and waits.
"""

import json
import sys

from aftershock.faults.partition import EVERYONE, Partition
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.inventory import node_from_dict
from aftershock.ledger import Ledger

nodes = [node_from_dict(plain) for plain in json.loads(sys.argv[1])]
fleet, ledger = Fleet(), Ledger.open("run-to-be-killed")
fault = Partition(EVERYONE, hook=sys.argv[2])  # type: ignore[arg-type]
injection = Injection(fault, nodes, ledger=ledger, fleet=fleet, **json.loads(sys.argv[3]))
injection.arm()
injection.fire()
agents = [channel.who()["there"]["pid"] for channel in fleet.channels(nodes).values()]
print(json.dumps({"agents": agents}), flush=True)
sys.stdin.readline()
