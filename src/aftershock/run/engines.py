"""What probes read of vLLM's metrics, from every replica's own page."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from aftershock import vllm
from aftershock.errors import InvalidInput
from aftershock.run import replies, wording
from aftershock.vllm import Buckets, Page

if TYPE_CHECKING:
    from aftershock.run.session import Run

_LONGEST_S = 600.0


def pages(run: Run, where: str, port: Any) -> dict[str, Page]:
    """Replica → its metrics."""
    return {name: vllm.parse(text) for name, text in replies.pages(run, where, port).items()}


def number(run: Run, what: str, where: str, port: Any) -> float:
    """A gauge over all replicas."""
    return vllm.total(what, pages(run, where, port).values())


def fullest_percent(run: Run, where: str, port: Any) -> float:
    """The fullest replica's KV cache."""
    return 100 * max(page.number("kv_cache_usage") for page in pages(run, where, port).values())


def preemptions(run: Run, over_s: Any, where: str, port: Any) -> float:
    """How many sequences were preempted meanwhile."""
    wait_s = _window(over_s)
    before = pages(run, where, port)
    time.sleep(wait_s)
    risen = 0.0
    for name, page in pages(run, where, port).items():
        now, was = page.number("preemptions"), 0.0
        if name in before:
            was = before[name].number("preemptions")
        risen += now - was if now >= was else now
    return risen


def added(run: Run, what: str, over_s: Any, where: str, port: Any) -> Buckets:
    """What came to a histogram meanwhile, over all replicas."""
    wait_s = _window(over_s)
    if what not in vllm.HISTOGRAMS:
        raise InvalidInput(f"{what!r}: one of {', '.join(vllm.HISTOGRAMS)}")
    before = pages(run, where, port)
    time.sleep(wait_s)
    return vllm.increase(what, before, pages(run, where, port))


def _window(over_s: Any) -> float:
    wait_s = wording.number("over_s", over_s)
    if not 0 < wait_s <= _LONGEST_S:
        raise InvalidInput(f"over_s {wait_s:g}: more than 0, at most {_LONGEST_S:g} seconds")
    return wait_s
