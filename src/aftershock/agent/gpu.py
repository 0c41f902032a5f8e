"""The GPUs of this host, by NVML: what they are, how they are, and who uses them."""

from __future__ import annotations

import contextlib
import functools
import re
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

from . import chosen, kernellog, mig
from .errors import AgentError, CannotDo, Invalid

_MIB = 1 << 20
_SAMPLE_S = 0.1
_LONGEST_S = 60.0
_MODES = ("default", "exclusive-thread", "prohibited", "exclusive-process")
USERS_CLOCKS = "clocks set by a user"
_REASONS = {  # nvmlClocksEventReason…, by its bit
    0x2: USERS_CLOCKS,
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "thermal, by software",
    0x40: "thermal, by hardware",
    0x80: "power brake",
    0x100: "display clock",
}
FIGURES = (
    "utilisation_percent",
    "memory_used_mib",
    "memory_free_mib",
    "power_w",
    "temperature_c",
    "sm_clock_mhz",
)
Told = Dict[str, Any]


@contextlib.contextmanager
def nvml() -> Iterator[Any]:
    """pynvml, begun; CannotDo where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise CannotDo(f"no NVML on this host ({error}): install NVIDIA's driver") from None
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


@functools.cache
def _keep_open() -> None:
    """Once a process, until its end."""
    import pynvml

    pynvml.nvmlInit()


def gpus() -> List[Told]:
    """Every GPU with its memory and utilisation; `lost` is one that NVML reaches no more."""
    with nvml() as library:
        return [_card(library, index, _brief) for index in range(library.nvmlDeviceGetCount())]


def looked_at(over_s: float = 0.0) -> List[Told]:
    """Every GPU with all that NVML tells of it, and over a while (10 times a second).

    Beside the figures: `processes` (pid, used_mib, command), `throttled_by`, `ecc_uncorrected`
    since the driver was loaded, `compute_mode`, `level` (`emulated` where the driver says it is a
    mock) and `xids`, those that came meanwhile (`logged_xids`: by the kernel's log). `window`:
    figure → min, max, mean, count. What a card doesn't tell is None. `instances`: those of a card
    that MIG splits, each as if it were a card (`index` is `0 MIG 1`, `parent` its card's).
    """
    if not 0 <= over_s <= _LONGEST_S:
        raise Invalid(f"gpu: over_s {over_s}: 0 to {_LONGEST_S:g} seconds")
    with nvml() as library:
        indexes = range(library.nvmlDeviceGetCount())
        readings: List[List[Told]] = []
        log_at = kernellog.read()["at"]
        with _listening(library, indexes) as heard:
            until = time.monotonic() + over_s
            while not readings or time.monotonic() < until:
                readings.append([_card(library, index, _figures) for index in indexes])
                heard(min(_SAMPLE_S, max(0.0, until - time.monotonic())))
            xids = heard(0.0)
        cards = [_card(library, index, _everything) for index in indexes]
    logged = _logged(cards, log_at)
    for index, card in enumerate(cards):
        card["logged_xids"] = logged[index] if logged else None
        card["window"] = _window([reading[index] for reading in readings])
        card["xids"] = xids.get(index, [])
        for part in card["instances"]:
            own = [one for reading in readings for one in reading[index]["instances"]]
            part["window"] = _window([one for one in own if one["uuid"] == part["uuid"]])
        card["instances"] = [mig.as_card(card, part) for part in card["instances"]]
    return cards


def _logged(cards: Sequence[Told], after: Optional[int]) -> List[List[Told]]:
    """Each card's Xids in the kernel's log since a record; nothing where it can't be read.

    A card that is lost tells no address: its are those that are no other's.
    """
    told = kernellog.read(after)
    if after is None or told["why"]:
        return []
    known = {card["pci"] for card in cards if not card["lost"]}
    return [
        [
            one
            for one in told["xids"]
            if (one["pci"] not in known if card["lost"] else one["pci"] == card["pci"])
        ]
        for card in cards
    ]


def find(names: Sequence[str]) -> List[Told]:
    """The GPUs that are named by index or UUID, MIG instances by UUID, or `all` GPUs.

    Invalid for one that isn't there.

    NVML stays open from here on: a driver that nobody uses forgets clocks and limits, and takes
    seconds a card to begin anew, in the midst of a heal.
    """
    cards = looked_at()
    _keep_open()
    if list(names) == ["all"]:
        if not cards:
            raise CannotDo("there is no GPU on this host")
        return cards
    found = []
    for name in names:
        if name.startswith(mig.PREFIX):
            mig.check_there(name, cards)
        there_are = mig.with_instances(cards)
        match = [card for card in there_are if name in (str(card["index"]), card["uuid"])]
        if not match:
            there = ", ".join(f"{card['index']} ({card['uuid']})" for card in cards) or "none"
            raise Invalid(f"no GPU {name} here: there is {there}")
        found += [card for card in match if card not in found]
    return found


def _card(library: Any, index: int, more: Callable[[Any, Any], Told]) -> Told:
    told: Told = {"index": index, "uuid": "", "name": "", "lost": False}
    empty: Told = {**told, **dict.fromkeys(FIGURES), "memory_total_mib": None, "processes": []}
    empty["instances"] = []
    try:
        handle = library.nvmlDeviceGetHandleByIndex(index)
        told["uuid"] = _text(library.nvmlDeviceGetUUID(handle))
        told["name"] = _text(library.nvmlDeviceGetName(handle))
        return {**told, **more(library, handle)}
    except library.NVMLError as error:
        if error.value != library.NVML_ERROR_GPU_IS_LOST:
            raise CannotDo(f"GPU {index}: NVML says {error}") from None
        return {**empty, "lost": True}


def _brief(library: Any, handle: Any) -> Told:
    memory = library.nvmlDeviceGetMemoryInfo(handle)
    return {
        "memory_used_mib": memory.used / _MIB,
        "memory_free_mib": memory.free / _MIB,
        "memory_total_mib": memory.total / _MIB,
        "utilisation_percent": _asked(library, _utilisation, handle),
    }


def _figures(library: Any, handle: Any) -> Told:
    return {
        **_brief(library, handle),
        "power_w": _asked(library, lambda n, h: n.nvmlDeviceGetPowerUsage(h) / 1000, handle),
        "temperature_c": _asked(
            library, lambda n, h: n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU), handle
        ),
        "sm_clock_mhz": _asked(
            library, lambda n, h: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM), handle
        ),
        "instances": mig.instances(library, handle, _brief),
    }


def _everything(library: Any, handle: Any) -> Told:
    def ask(what: Callable[[Any, Any], Any]) -> Any:
        return _asked(library, what, handle)

    mode = ask(lambda n, h: n.nvmlDeviceGetComputeMode(h))
    kept = ask(lambda n, h: n.nvmlDeviceGetPersistenceMode(h))
    reasons = ask(lambda n, h: n.nvmlDeviceGetCurrentClocksThrottleReasons(h))
    driver = _text(library.nvmlSystemGetDriverVersion())
    return {
        **_figures(library, handle),
        "sm_clock_max_mhz": ask(lambda n, h: n.nvmlDeviceGetMaxClockInfo(h, n.NVML_CLOCK_SM)),
        "power_limit_w": ask(lambda n, h: n.nvmlDeviceGetEnforcedPowerLimit(h) / 1000),
        "power_set_w": ask(lambda n, h: n.nvmlDeviceGetPowerManagementLimit(h) / 1000),
        "throttled_by": _named_reasons(reasons),
        "ecc_uncorrected": ask(lambda n, h: n.nvmlDeviceGetTotalEccErrors(h, 1, 0)),
        "compute_mode": None if mode is None else _MODES[mode],
        "persistence": None if kept is None else "on" if kept else "off",
        "pci": ask(_place),
        "mig": bool(ask(lambda n, h: n.nvmlDeviceGetMigMode(h)[0])),
        "processes": _processes(library, handle),
        "instances": mig.instances(library, handle, _of_instance),
        "driver": driver,
        "level": "emulated" if driver.endswith("-mock") else "hardware",
    }


def _of_instance(library: Any, part: Any) -> Told:
    return {
        **_brief(library, part),
        **mig.ids(library, part),
        "name": _text(library.nvmlDeviceGetName(part)),
        "processes": _processes(library, part),
    }


def _processes(library: Any, handle: Any) -> List[Told]:
    users = _asked(library, lambda n, h: n.nvmlDeviceGetComputeRunningProcesses(h), handle) or []
    return [
        {"pid": one.pid, "used_mib": (one.usedGpuMemory or 0) / _MIB, "command": _command(one.pid)}
        for one in users
    ]


def _named_reasons(bits: Optional[int]) -> List[str]:
    return [text for bit, text in _REASONS.items() if (bits or 0) & bit]


def _command(pid: int) -> str:
    """Nothing for a process that this PID namespace doesn't show."""
    return chosen.in_a_line(pid)


def _place(library: Any, handle: Any) -> str:
    """Where a card is, as the driver's lines in the kernel's log name it."""
    found = library.nvmlDeviceGetPciInfo(handle)
    return f"{found.domain:04x}:{found.bus:02x}:{found.device:02x}"


def _utilisation(library: Any, handle: Any) -> Any:
    """Time with any kernel running."""
    return library.nvmlDeviceGetUtilizationRates(handle).gpu


def _asked(library: Any, what: Callable[[Any, Any], Any], handle: Any) -> Any:
    """None where the device doesn't tell (MIG, older drivers)."""
    try:
        return what(library, handle)
    except library.NVMLError as error:
        if error.value == library.NVML_ERROR_GPU_IS_LOST:
            raise
        return None


@contextlib.contextmanager
def _listening(library: Any, indexes: Sequence[int]) -> Iterator[Callable[[float], Any]]:
    """Call it to wait so long; it returns the Xids that came so far, by the card's index."""
    xids: Dict[int, List[int]] = {}
    events = _begin_events(library, indexes)

    def heard(wait_s: float) -> Dict[int, List[int]]:
        until = time.monotonic() + wait_s
        while events is not None:
            left_ms = int(1000 * max(0.0, until - time.monotonic()))
            try:
                event = library.nvmlEventSetWait(events, left_ms)
                index = library.nvmlDeviceGetIndex(event.device)
            except library.NVMLError:  # mostly that nothing came in time
                break
            xids.setdefault(index, []).append(int(event.eventData))
        time.sleep(max(0.0, until - time.monotonic()))
        return xids

    try:
        yield heard
    finally:
        if events is not None:
            library.nvmlEventSetFree(events)


def _begin_events(library: Any, indexes: Sequence[int]) -> Optional[Any]:
    """None where no card tells of its Xids, as in some virtual machines."""
    events = library.nvmlEventSetCreate()
    registered = 0
    for index in indexes:
        with contextlib.suppress(library.NVMLError):
            handle = library.nvmlDeviceGetHandleByIndex(index)
            library.nvmlDeviceRegisterEvents(handle, library.nvmlEventTypeXidCriticalError, events)
            registered += 1
    if registered:
        return events
    library.nvmlEventSetFree(events)
    return None


def _window(readings: Sequence[Told]) -> Dict[str, Dict[str, float]]:
    told = {}
    for name in FIGURES:
        values = [reading[name] for reading in readings if reading.get(name) is not None]
        if values:
            mean = sum(values) / len(values)
            told[name] = {
                "min": min(values),
                "max": max(values),
                "mean": mean,
                "count": len(values),
            }
    return told


def clocks_are_set(library: Any, handle: Any) -> bool:
    """Whether a card says that somebody has set its clocks."""
    reasons = _asked(library, lambda n, h: n.nvmlDeviceGetCurrentClocksThrottleReasons(h), handle)
    return USERS_CLOCKS in _named_reasons(reasons)


def is_child_of_ours(command: str) -> bool:
    """Whether a command line is that of an agent's child which presses a GPU."""
    return " hog " in command and '"kind": "gpu-' in command


def check_users(card: Told, used_by: str, anyone: bool, verb: str) -> None:
    """Refuse to touch a GPU that somebody uses who is not meant.

    `used_by`: a regular expression that is looked for in command lines; `anyone`: whoever it is.
    """
    users, which = card["processes"], f"GPU {card['index']}"
    meant = [one for one in users if used_by and re.search(used_by, one["command"])]
    if used_by and not meant:
        there = ", ".join(_named(one) for one in users) or "nobody"
        raise Invalid(f"{verb}: no process that matches {used_by!r} uses {which}: {there} does")
    strangers = [one for one in users if one not in meant]
    if strangers and not anyone:
        raise Invalid(
            f"{verb}: {which} is used by {_named(strangers[0])}, who is not named as a target: "
            "name them with used_by, or say anyone"
        )


def check_one_uses_a_gpu(pids: Sequence[int], who: str) -> None:
    """Refuse processes that use no GPU, with all that they started; Invalid says who does.

    In most pods NVML shows nobody: then it can't be told.
    """
    try:
        users = [one for card in looked_at() for one in card["processes"]]
    except AgentError:
        return
    if users and not {one["pid"] for one in users} & set(chosen.with_descendants(pids)):
        raise Invalid(
            f"{who} uses no GPU, as NVML tells: {_named(users[0])} does: name that, if it is meant"
        )


def _named(user: Told) -> str:
    return f"process {user['pid']} ({user['command'][:60] or 'of another PID namespace'})"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
