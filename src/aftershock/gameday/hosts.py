"""A day's hold on hosts that no Kubernetes is between, and how others get a word to it there.

An agent a host keeps it for the day from the first run to the last, so no other controller comes
between two of them. What somebody on another machine asks of the day is left on the hosts.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aftershock.errors import AftershockError, InvalidInput
from aftershock.hosts.fleet import Fleet, ask_all
from aftershock.inventory import Inventory, Node
from aftershock.lock import Occupied

logger = logging.getLogger("chaostoolkit")

_LOOK_S = 1.0
_ANSWER_S = 3.0
_MEND_S = 5.0
_ENDING_S = 3.0  # an agent whose controller just died ends by itself


def broken(inventory: Inventory) -> list[Node]:
    """The hosts that tell by themselves whose they are: none where a cluster's Lease does."""
    if inventory.kubeconfig is not None:
        return []
    return [node for node in inventory.nodes if not node.agentless]


class Hosts:
    """A target's hosts, kept for a day. `order` is what was last asked of it through them."""

    def __init__(self, nodes: Sequence[Node], token: str, holder: str) -> None:
        self.order: Mapping[str, Any] | None = None
        self._nodes = list(nodes)
        self._fleet = Fleet()
        self._fleet.take(token, holder)
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=each, name=f"day's hosts {each.__name__}", daemon=True)
            for each in (self._look, self._mend)
        ]

    def keep(self) -> None:
        """Take those that can be reached; `Occupied` says who has one."""
        until = time.monotonic() + _ENDING_S
        while True:
            try:
                missing = self._missing()
                break
            except Occupied:
                if time.monotonic() > until:
                    self._fleet.close()
                    raise
                time.sleep(_ENDING_S / 10)
        for name, error in missing:
            logger.warning("%s is not kept for the day yet: %s", name, error)
        for thread in self._threads:
            thread.start()

    def release(self) -> None:
        """Let them go; twice is fine."""
        self._over.set()
        self._fleet.close()

    def _missing(self) -> list[tuple[str, AftershockError]]:
        _, errors = self._fleet.reach(self._nodes)
        taken = [str(error) for error in errors.values() if isinstance(error, Occupied)]
        if taken:
            raise Occupied(said := "; ".join(taken), {"what": said})
        return list(errors.items())

    def _look(self) -> None:
        """Hear what is asked of us; each order once, though hosts may have another's last word."""
        known: set[str] = set()
        while not self._over.wait(_LOOK_S):
            open_ones = {
                node.name: channel
                for node in self._nodes
                if (channel := self._fleet.current(node)) is not None
            }
            heard, deaf = ask_all(open_ones, "asked", timeout_s=_ANSWER_S)
            for node in self._nodes:
                if node.name in deaf:  # a fault may well cut our way there
                    self._fleet.let_go(node)
            for said in set(filter(None, heard.values())) - known:
                known.add(said)
                with contextlib.suppress(ValueError):
                    self.order = json.loads(said)

    def _mend(self) -> None:
        """A host that was lost is kept again once it is back."""
        while not self._over.wait(_MEND_S):
            with contextlib.suppress(AftershockError):  # whoever took it meanwhile, our runs say so
                self._missing()
        self._fleet.close()  # what began while the day let go


def holders(inventory: Inventory) -> Iterator[str]:
    """Who keeps a target's hosts, each once, for people."""
    with _reached(inventory) as (channels, _):
        yield from dict.fromkeys(filter(None, ask_all(channels, "kept")[0].values()))


def ask(inventory: Inventory, order: Mapping[str, Any], what: str) -> Iterator[str]:
    """Ask something of who keeps a target's hosts, if it is `what`; who was asked.

    `InvalidInput` where it is something else; the first error where no host could be reached.
    """
    with _reached(inventory) as (channels, errors):
        if not channels and errors:
            raise next(iter(errors.values()))
        kept, _ = ask_all(channels, "kept")
        for name, holder in kept.items():
            if holder and not holder.startswith(what):
                raise InvalidInput(
                    f"{name} is kept by {holder}, which is no game day: end it where it runs"
                )
        theirs = {name: channels[name] for name, holder in kept.items() if holder}
        heard, deaf = ask_all(theirs, "leave", lambda _: {"order": json.dumps(dict(order))})
        if theirs and not heard:
            raise next(iter(deaf.values()))
        yield from dict.fromkeys(filter(None, heard.values()))


@contextlib.contextmanager
def _reached(inventory: Inventory) -> Iterator[Any]:
    fleet = Fleet()
    try:
        yield fleet.reach(broken(inventory))
    finally:
        fleet.close()
