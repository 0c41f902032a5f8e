"""A controller that leaves its fault alone: `abandoned.py PATH READ_MS WORD`.

Arms it, and fires it where the word is so; then agent and watcher are killed, and it ends.
"""

import os
import signal
import sys

from aftershock.faults.covering import FileDelay
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.inventory import Node
from aftershock.ledger import Ledger

here = Node("here", "none", ("127.0.0.1",), devices=())
fleet, ledger = Fleet(), Ledger.open("left-alone")
fault = FileDelay(sys.argv[1], int(sys.argv[2]), read_only=True)
injection = Injection(fault, [here], lease_s=120, ledger=ledger, fleet=fleet)
injection.arm()
if sys.argv[3] == "fired":
    injection.fire()
agent = fleet.fresh(here)
watcher = agent.ask("record", injection=injection.id)["watcher"]["pid"]
for pid in (watcher, agent.pid, os.getpid()):
    os.kill(pid, signal.SIGKILL)
