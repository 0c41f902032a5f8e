"""What probes read of GPUs: by NVML through the agents, from dcgm-exporter, or from Prometheus."""

from __future__ import annotations

import json
import math
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from aftershock import dcgm
from aftershock.errors import HostUnreachable, InvalidInput, Unsupported
from aftershock.run import wording
from aftershock.slo.objectives import NoMeasurement

if TYPE_CHECKING:
    from aftershock.run.session import Run

_LONGEST_S, _MORE_S = 60.0, 10.0
FIGURES = (*dcgm.NAMES, "memory_used_percent")
_LEVELS = {"golden": 85.0, "tolerated": 95.0}  # of time, where the target's levels promise nothing
_OVER_TIME = ("mean", "min", "max")
_OVER_GPUS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "mean": fmean,
    "min": min,
    "max": max,
}
Told = dict[str, Any]


class GpuLost(NoMeasurement):
    """NVML reaches a GPU no more."""


def look(run: Run, where: str, gpus: str, over_s: Any) -> list[Told]:
    """See `aftershock.probes.gpu.gpus`."""
    wait_s = wording.number("over_s", over_s)
    if not 0 <= wait_s <= _LONGEST_S:
        raise InvalidInput(f"over_s {wait_s:g}: 0 to {_LONGEST_S:g} seconds")
    nodes = run.target.inventory.select(where)
    channels = {node.name: run.target.agents.fresh(node) for node in nodes}
    posted = {name: one.post("gpu", over_s=wait_s) for name, one in channels.items()}
    found = []
    for name, answer in posted.items():
        cards = channels[name].result(answer, "gpu", wait_s + _MORE_S)
        found += [{"node": name, **card} for card in _named(cards, gpus, name)]
    return found


def _named(cards: Sequence[Told], gpus: str, node: str) -> list[Told]:
    words = [word.strip() for word in str(gpus).split(",") if word.strip()]
    if words == ["all"]:
        if not cards:
            raise Unsupported(f"{node}: there is no GPU")
        return list(cards)
    there_are = [one for card in cards for one in (card, *card.get("instances", ()))]
    chosen = [one for one in there_are if {str(one["index"]), one["uuid"]} & set(words)]
    if len(chosen) < len(words):
        there = ", ".join(_there(one) for one in there_are) or "none"
        raise InvalidInput(f"{node}: no such GPU among {gpus!r}: there is {there}")
    return chosen


def _there(card: Told) -> str:
    return f"{card['index']} ({card['uuid']})" if _is_instance(card) else str(card["index"])


def _is_instance(card: Told) -> bool:
    return "parent" in card


def xids(run: Run, place: Mapping[str, str], over_s: Any, source: str) -> list[Told]:
    """See `aftershock.probes.gpu.gpu_xids`."""
    if source not in ("nvml", "kernel-log"):
        raise InvalidInput(f"source {source!r}: nvml or kernel-log")
    found = []
    for card in look(run, place["where"], place["gpus"], over_s):
        if _is_instance(card):
            raise Unsupported(
                f"GPU {card['index']} of {card['node']} is a MIG instance, and Xids are the whole "
                f"card's: name GPU {card['parent']}"
            )
        which = {"node": card["node"], "index": card["index"]}
        if source == "nvml":
            found += [{**which, "xid": xid} for xid in card["xids"]]
        elif card["logged_xids"] is None:
            raise Unsupported(f"{card['node']}: the kernel's log can't be read (/dev/kmsg)")
        else:
            keys = ("xid", "said", "by_driver")
            found += [{**which, **{key: one[key] for key in keys}} for one in card["logged_xids"]]
    return found


def figure(run: Run, what: str, place: Mapping[str, str], how: Mapping[str, Any]) -> float:
    """See `aftershock.probes.gpu.gpu_figure`."""
    for name, value, known in (
        ("figure", what, FIGURES),
        ("over_time", how["over_time"], _OVER_TIME),
        ("over_gpus", how["over_gpus"], tuple(_OVER_GPUS)),
    ):
        if value not in known:
            raise InvalidInput(f"{name} is {value!r}: one of {', '.join(known)}")
    kind, _, address = how["source"].partition(":")
    if kind == "prometheus":
        values = _from_prometheus(what, address, how)
    elif kind in ("nvml", "dcgm"):
        cards = (
            look(run, place["where"], place["gpus"], how["over_s"])
            if kind == "nvml"
            else _from_exporters(run, place, address)
        )
        values = [_value(card, what, how["over_time"]) for card in cards]
    else:
        raise InvalidInput(f"source {how['source']!r}: nvml, dcgm:URL or prometheus:URL")
    return _OVER_GPUS[how["over_gpus"]](values)


def _value(card: Told, what: str, over_time: str) -> float:
    which = f"GPU {card['index']} of {card['node']}"
    if card["lost"]:
        raise GpuLost(f"{which} is lost: NVML reaches it no more")
    if what == "memory_used_percent":
        used, free = (_value(card, f"memory_{key}_mib", over_time) for key in ("used", "free"))
        return 100 * used / (used + free)
    if what in card.get("window", {}):
        return float(card["window"][what][over_time])
    if _is_instance(card):
        raise Unsupported(
            f"{which} is a MIG instance: NVML tells its memory and its processes, not its {what}"
        )
    if what == "last_xid" and what not in card:
        return float((card["xids"] or [0])[-1])
    if card.get(what) is None:
        raise Unsupported(f"{which} doesn't tell its {what}")
    return float(card[what])


def _from_exporters(run: Run, place: Mapping[str, str], url: str) -> list[Told]:
    """What the exporter tells on each host, asked from there: a single reading."""
    address = url or "http://127.0.0.1:9400/metrics"
    found = []
    for node in run.target.inventory.select(place["where"]):
        asked = {"url": address, "body": None, "timeout_s": 10.0}
        answer = run.target.agents.fresh(node).ask("ask", 15.0, **asked)
        if answer["status"] != 200:
            why = answer["said"] or f"status {answer['status']}"
            raise Unsupported(f"{node.name}: no dcgm-exporter at {address} ({why})")
        cards = dcgm.cards(answer["body"])
        found += [{"node": node.name, **card} for card in _named(cards, place["gpus"], node.name)]
    return found


def _from_prometheus(what: str, address: str, how: Mapping[str, Any]) -> list[float]:
    """Each GPU's own value over the window, by PromQL; {selector} of `source` chooses them."""
    if what not in dcgm.NAMES:
        raise InvalidInput(f"figure {what!r} from Prometheus: one of {', '.join(dcgm.NAMES)}")
    base, brace, selector = address.partition("{")
    over = {"mean": "avg", "min": "min", "max": "max"}[how["over_time"]]
    window_s = max(1, round(wording.number("over_s", how["over_s"])))
    query = f"{over}_over_time({dcgm.NAMES[what]}{brace}{selector}[{window_s}s])"
    asked = f"{base.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(asked, timeout=_MORE_S) as answer:
            told = json.load(answer)
    except (OSError, ValueError) as error:
        raise HostUnreachable(f"Prometheus at {base}: {error}") from None
    values = [float(one["value"][1]) for one in told["data"]["result"]]
    if not values or any(map(math.isnan, values)):
        raise NoMeasurement(f"Prometheus at {base} has no sample for {query}")
    return values


def within(run: Run, level: str, place: Mapping[str, str], over_s: Any) -> bool:
    """See `aftershock.probes.gpu.gpu_utilisation_within`."""
    if level not in _LEVELS:
        raise InvalidInput(f"level {level!r}: golden or tolerated")
    bound = run.levels.bounds(level).get("gpu_utilisation_percent", _LEVELS[level])
    how = {"over_s": over_s, "over_time": "mean", "over_gpus": "max", "source": "nvml"}
    return figure(run, "utilisation_percent", place, how) <= bound
