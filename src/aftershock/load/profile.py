"""Load profiles: one small YAML or JSON file of stages, or a trace; docs/load.md has examples.

Whatever is wrong in one is `InvalidInput` with the file's name and line, before anything is
touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from aftershock.errors import InvalidInput
from aftershock.inventory_yaml import Block, File, Said
from aftershock.load.asking import requests_of
from aftershock.load.settings import ARRIVALS, LoadSettings, Stage
from aftershock.load.trace import check

CHAOS = "chaos"
SHIPPED = ("10-100", "100-1000", "1000-up", "cliff")
_MOST_RPS, _LONGEST_S = 1e6, 30 * 86_400.0
_CONSTANT = ("kind", "rate_rps", "duration_s")
# What a stage of each kind is told.
_KINDS: Mapping[str, tuple[str, ...]] = {
    "baseline": _CONSTANT,
    "linear": (*_CONSTANT, "to_rps"),
    "step": _CONSTANT,
    "spike": (*_CONSTANT, "peak_rps"),
    CHAOS: _CONSTANT,
    "soak": _CONSTANT,
}


@dataclass(frozen=True, slots=True)
class Profile:
    """What a load does: `load` are fields of `LoadSettings`, the stages and the trace among them.

    `mean_rps` is a trace's rate, else 0.
    """

    name: str
    load: Mapping[str, Any] = field(default_factory=dict, repr=False)  # with headers
    mean_rps: float = 0.0

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages, none for a trace."""
        found: tuple[Stage, ...] = self.load.get("stages", ())
        return found

    @property
    def length_s(self) -> float:
        """Seconds from the first stage's begin to the last one's end; 0 for a trace."""
        return sum(stage.duration_s for stage in self.stages)

    @property
    def peak_rps(self) -> float:
        """The highest rate of any stage; a trace's mean."""
        rates = [max(stage.rate, stage.last_rate) for stage in self.stages]
        return max(rates, default=self.mean_rps)

    @property
    def chaos_at_s(self) -> float:
        """When the first stage begins in which faults are to run; 0 without such a stage."""
        passed = 0.0
        for stage in self.stages:
            if stage.kind == CHAOS:
                return passed
            passed += stage.duration_s
        return 0.0

    def onto(self, settings: LoadSettings, longest_s: float) -> LoadSettings:
        """The settings with this profile; its last rate is held for `longest_s` more.

        A run lasts as long as its method does: that a load ended before would be no outage.
        """
        told = dict(self.load)
        if self.stages:
            last = self.stages[-1]
            told["stages"] = (*self.stages, Stage(longest_s, last.last_rate, kind=last.kind))
        return replace(settings, **told)

    def stage_at(self, passed_s: float) -> str:
        """The kind of stage so long after the start: the last one's after its end."""
        for stage in self.stages:
            if passed_s < stage.duration_s:
                return stage.kind
            passed_s -= stage.duration_s
        return self.stages[-1].kind if self.stages else "trace"

    def rate_at(self, passed_s: float) -> float:
        """Requests a second that are due so long after the start."""
        if not self.stages:
            return self.mean_rps
        for stage in self.stages:
            if passed_s < stage.duration_s:
                share = max(passed_s, 0.0) / stage.duration_s
                return stage.rate + share * (stage.last_rate - stage.rate)
            passed_s -= stage.duration_s
        return self.stages[-1].last_rate


def constant(rate_rps: float) -> Profile:
    """The load of a run without a profile."""
    return Profile(f"{rate_rps:g} requests/s", {"stages": (Stage(1.0, rate_rps),)})


def load_profile(name_or_path: str) -> Profile:
    """A profile that ships with Aftershock, by name, or a file's."""
    shipped = Path(str(files("aftershock.load"))) / "profiles" / f"{name_or_path}.yaml"
    mend = f"give the path of a file, or one of {', '.join(SHIPPED)}"
    path = shipped if name_or_path in SHIPPED else Path(name_or_path)
    file = File(path, "load profile", mend, "docs/load.md")
    known = ("arrivals", "burstiness", "stages", "trace", "trace_speed", "requests")
    top = Block(file, file.read(), "the profile", known)
    if ("stages" in top) == ("trace" in top):
        raise file.wrong(
            top.at("trace"), "the profile has stages or a trace: give one of them, and not both"
        )
    said = top.raw("requests")
    asked = requests_of(file, said) if said else {}
    if "trace" in top:
        return _of_trace(top, asked)
    if "trace_speed" in top:
        raise top.wrong("trace_speed", "trace_speed is for a trace, and there are stages: drop it")
    return Profile(file.path.stem, {**asked, **_pattern(top), "stages": _stages(file, top)})


def _pattern(top: Block) -> dict[str, Any]:
    arrivals = top.word("arrivals") or "poisson"
    if arrivals not in ARRIVALS:
        raise top.wrong("arrivals", f"arrivals is {arrivals!r}: give one of {', '.join(ARRIVALS)}")
    burstiness = top.number("burstiness", 0.01, 1000, float)
    if (burstiness is None) == (arrivals == "gamma"):
        sentence = "arrivals: gamma and a burstiness belong together (1 is Poisson, less is bursts)"
        raise top.wrong("burstiness" if burstiness else "arrivals", sentence)
    return {"arrivals": arrivals, "burstiness": burstiness or 1.0}


def _of_trace(top: Block, asked: Mapping[str, Any]) -> Profile:
    for name in ("arrivals", "burstiness"):
        if name in top:
            raise top.wrong(name, f"{name}: a trace says itself when requests are due: drop it")
    path = top.path("trace")
    assert path is not None
    try:
        trace = check(Path(path))
    except InvalidInput as error:
        raise top.wrong("trace", str(error)) from None
    speed = top.number("trace_speed", 0.001, 1000, float) or 1.0
    told = {**asked, "trace": trace.path, "trace_length_s": trace.length_s, "trace_speed": speed}
    return Profile(top.file.path.stem, told, trace.rate * speed)


def _stages(file: File, top: Block) -> tuple[Stage, ...]:
    listed = top.raw("stages")
    if listed is None or not isinstance(listed.value, list) or not listed.value:
        raise top.wrong("stages", "no stages: list them below `stages:`")
    found: list[Stage] = []
    for number, said in enumerate(listed.value, 1):
        found += _stage(file, said, f"stage {number}")
    if found[-1].last_rate <= 0:
        raise file.wrong(
            listed.value[-1].line,
            "the last stage ends at 0 requests/s, and its last rate is held to the run's end: "
            "end above 0",
        )
    return tuple(found)


def _stage(file: File, said: Said, what: str) -> list[Stage]:
    every = tuple(dict.fromkeys(name for names in _KINDS.values() for name in names))
    block = Block(file, said, what, every)
    kind = block.needed("kind", f"give one of {', '.join(_KINDS)}")
    if kind not in _KINDS:
        raise block.wrong("kind", f"kind is {kind!r}: give one of {', '.join(_KINDS)}")
    for name in every:
        if name in block and name not in _KINDS[kind]:
            raise block.wrong(name, f"{name} is not for a {kind}, which has {_told(kind)}")
    number = _numbers(block, kind)
    rate, lasts = number("rate_rps", _MOST_RPS), number("duration_s", _LONGEST_S)
    if lasts <= 0:
        raise block.wrong("duration_s", "duration_s is 0: give seconds above 0")
    to, peak = number("to_rps", _MOST_RPS), number("peak_rps", _MOST_RPS)
    if max(rate, to, peak) <= 0:
        raise block.wrong("rate_rps", "rate_rps is 0: give requests a second above 0")
    if kind == "spike":
        half = lasts / 2
        return [Stage(half, rate, peak, kind), Stage(half, peak, rate, kind)]
    return [Stage(lasts, rate, to if kind == "linear" else None, kind)]


def _numbers(block: Block, kind: str) -> Callable[[str, float], float]:
    def number(name: str, most: float) -> float:
        if name not in _KINDS[kind]:
            return 0.0
        value = block.number(name, 0, most, float)
        if value is None:
            raise block.wrong(name, f"no {name}: a {kind} has {_told(kind)}")
        return float(value)

    return number


def _told(kind: str) -> str:
    return ", ".join(name for name in _KINDS[kind] if name != "kind")
