"""A run of an hour, for what its page costs."""

from __future__ import annotations

from aftershock.slo.aftermath import READY_REPLICAS
from aftershock.slo.slots import Slot
from aftershock.slo.timeline import Timeline


def hour() -> Timeline:
    """An hour as it is drawn: each second's load in one slot, to be quick; three zones."""
    made, start = Timeline(), 1000
    wires = []
    for n in range(20):
        slot = Slot()
        for k in range(20):
            slot.add_time("e2e", 0.05 + 0.01 * ((n * k) % 20))
            slot.add_time("ttft", 0.01 + 0.002 * ((n + k) % 20))
        wires.append({**slot.wire(), "scheduled": 1000, "sent": 1000, "good": 980 + n})
    for mark, at in {"phase:steady": 0, "t_effect": 600, "t_healed": 900}.items():
        made.mark(mark, start + at)
    slots = {10 * (start + second): wires[second * 7 % 20] for second in range(3600)}
    made.feed({"source": "load", "decided": start + 3600.0, "slots": slots})
    for second in range(3600):
        for zone in "abc":
            share, busy = 0.3 + 0.001 * (second * 7 % 31), 30.0 + second * 13 % 29
            made.gauge("zone_share", f"az-{zone}", share, start + second)
            made.gauge("gpu_utilisation_percent", f"node-{zone}", busy, start + second)
            made.gauge(READY_REPLICAS, f"az-{zone}", 2 - (second % 97 == 0), start + second)
    for source, rate in {"health": 20, "canary": 1}.items():
        sent = [start + n / rate for n in range(3600 * rate)]
        done, kind = (
            [at + 0.002 for at in sent],
            ["" if n % 301 else "cut" for n in range(len(sent))],
        )
        made.feed(
            {"source": source, "decided": start + 3600.0, "rate": rate, "sent": sent,
             "scheduled": sent, "done": done, "kind": kind}
        )  # fmt: skip
    return made
