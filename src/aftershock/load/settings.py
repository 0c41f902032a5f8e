"""What load to offer: rate stages, prompts, lengths. Plain data that travels to Locust as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from math import inf

from aftershock.errors import InvalidInput
from aftershock.load.lengths import Lengths

MOST_WORKERS = 1000
ARRIVALS = ("constant", "poisson", "gamma")
LAB_ANSWERS = Lengths("uniform", low=4, high=16)
PROMPT_KINDS = ("short", "long", "chinese", "english", "japanese", "korean", "code", "shared")


@dataclass(frozen=True, slots=True)
class Stage:
    """`rate` requests a second for `duration_s`; with `end_rate` it changes linearly to that.

    `kind` is what a profile calls it: baseline, linear, step, spike, chaos or soak.
    """

    duration_s: float
    rate: float
    end_rate: float | None = None
    kind: str = "baseline"

    def __post_init__(self) -> None:
        if self.duration_s <= 0:
            raise InvalidInput(f"a load stage lasts {self.duration_s} s: give a duration above 0")
        if min(self.rate, self.last_rate) < 0 or self.rate + self.last_rate <= 0:
            raise InvalidInput(f"a load stage has rate {self.rate}: give requests a second above 0")

    @property
    def last_rate(self) -> float:
        return self.rate if self.end_rate is None else self.end_rate


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """What the load generator offers to `url` (the service's base, without /v1).

    A request is good when it is answered within `limit_s` of its scheduled time, by `metric`
    (`ttft`: the first token, `e2e`: all of it); it is given up after `timeout_s`, well above, so
    that slow and lost stay distinct. Shares are of 1. `processes` above 1 runs Locust as master and
    workers, `workers_at` (HOST:PORT) as a master that waits there for so many from elsewhere. The
    defaults are cheap enough for the lab; its owner's are 64 to 2048 tokens.
    """

    url: str
    stages: tuple[Stage, ...] = (Stage(3600.0, 50.0),)
    seed: int = 7
    model: str = "lab"
    arrivals: str = "poisson"
    burstiness: float = 1.0
    trace: str = ""
    trace_length_s: float = 0.0
    trace_speed: float = 1.0
    limit_s: float = 1.0
    metric: str = "e2e"
    goodput_ms: dict[str, float] = field(default_factory=dict)  # some of levels.GOODPUT
    timeout_s: float = 10.0
    processes: int = 1
    workers_at: str = ""
    chat_share: float = 0.3
    stream_share: float = 0.5
    prompts: tuple[str, ...] = PROMPT_KINDS
    prompt_tokens: Lengths | None = None  # None: as the built-in prompts are
    output_tokens: Lengths = LAB_ANSWERS
    temperatures: tuple[float, ...] = (0.1, 0.4, 0.7, 1.0)  # in turn
    ignore_eos: bool = False
    min_tokens: int = 0
    usage: bool = True  # ask for the count of tokens in a stream's last chunk
    retries: int = 0  # of requests that failed before their first token
    verify_tls: bool = True
    max_in_flight: int = 5000
    failures_kept: int = 2000
    headers: dict[str, str] = field(default_factory=dict, repr=False)  # secrets, maybe

    def __post_init__(self) -> None:
        checks = (
            (self.url.startswith(("http://", "https://")), "url", "an http(s) address"),
            (bool(self.stages), "stages", "at least one stage"),
            (self.arrivals in ARRIVALS, "arrivals", f"one of {', '.join(ARRIVALS)}"),
            (0 < self.burstiness <= 1000, "burstiness", "a number above 0"),
            (self.trace_length_s > 0 or not self.trace, "trace_length_s", "seconds above 0"),
            (self.trace_speed > 0, "trace_speed", "a number above 0"),
            (self.metric in ("ttft", "e2e"), "metric", "ttft or e2e"),
            (0 < self.limit_s < self.timeout_s, "timeout_s", "more than limit_s, which is above 0"),
            (1 <= self.processes <= MOST_WORKERS, "processes", f"1 to {MOST_WORKERS}"),
            (0 <= self.chat_share <= 1, "chat_share", "a share from 0 to 1"),
            (0 <= self.stream_share <= 1, "stream_share", "a share from 0 to 1"),
            (self.min_tokens >= 0, "min_tokens", "tokens from 0 on"),
            (0 <= self.retries <= 10, "retries", "0 to 10"),
            (set(self.prompts) <= set(PROMPT_KINDS), "prompts", f"some of {list(PROMPT_KINDS)}"),
            (bool(self.prompts and self.temperatures), "prompts, temperatures", "at least one"),
        )
        for sound, name, wanted in checks:
            if not sound:
                given = getattr(self, name, "")
                raise InvalidInput(f"load setting {name}: {given!r} given, {wanted} expected")

    @property
    def duration_s(self) -> float:
        return sum(stage.duration_s for stage in self.stages)

    def without_headers(self) -> LoadSettings:
        """The same without what may be a secret."""
        return replace(self, headers={})

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> LoadSettings:
        given = json.loads(text)
        given["stages"] = tuple(Stage(**stage) for stage in given["stages"])
        for name in ("prompts", "temperatures"):
            given[name] = tuple(given[name])
        for name in ("prompt_tokens", "output_tokens"):
            given[name] = Lengths(**given[name]) if given[name] else None
        return LoadSettings(**given)


@dataclass(frozen=True, slots=True)
class SentinelSettings:
    """Probes of `url`: health at `rate` a second, a one-token canary every `canary_period_s`.

    A period of 0 leaves the canary out. A sample that takes longer than `timeout_s` is bad.
    """

    url: str
    rate: float = 20.0
    timeout_s: float = 1.0
    canary_period_s: float = 1.0
    health_path: str = "/health"
    model: str = "lab"
    duration_s: float = 7200.0
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    verify_tls: bool = True

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise InvalidInput(f"sentinel url {self.url!r}: give an http(s) address")
        if not 0 < self.rate <= 1000:
            raise InvalidInput(f"sentinel rate {self.rate}: give samples a second, up to 1000")
        if not 0 < self.timeout_s < inf:
            raise InvalidInput(f"sentinel timeout_s {self.timeout_s}: give seconds above 0")
