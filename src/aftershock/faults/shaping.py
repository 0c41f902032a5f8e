"""Faults that spoil packets on their way: late, lost, twice, damaged, out of order, throttled.

Shares are from 0 to 1. Loss is decided at the device's own hook, everything else in a queue that
chosen packets are led through (agent/detour.py), so a device keeps whatever qdisc it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from aftershock.errors import InvalidFault, Unsupported
from aftershock.faults.base import Effect, Facts, Plan
from aftershock.faults.traffic import Traffic

Distribution = Literal["uniform", "normal", "pareto", "paretonormal"]

_LONGEST_MS = 600_000.0
_PAIR = "the agent, or its detached watcher, removes the pair of devices of ours"


class _Shaping:
    """What these faults have in common; each has a `traffic`."""

    __slots__ = ()
    traffic: Traffic

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return type(self).__name__.lower()

    def cuts(self, address: str) -> bool:
        """Nobody becomes unreachable."""
        return False

    def _diverted(self, facts: Facts, qdisc: Mapping[str, Any]) -> Plan:
        for need in ("veth", qdisc["kind"]):
            if why := facts.lacks.get(need):
                raise Unsupported(
                    f"{self.name}: {why}; `aftershock doctor` tells what a host can do"
                )
        steps = self.traffic.steps(facts, "divert", {"qdisc": dict(qdisc)}, _PAIR)
        return Plan(tuple(steps), self.traffic.directions)

    def _plain(self, **parameters: Any) -> dict[str, Any]:
        used = {name: value for name, value in parameters.items() if value not in (0, "", None)}
        return {"name": self.name, **used, **self.traffic.to_dict()}


class _Netem(_Shaping):
    """A fault that netem makes."""

    __slots__ = ()

    @property
    def wants(self) -> tuple[str, ...]:
        """What the kernel must have beside bpf."""
        return ("veth", "netem")


@dataclass(frozen=True, slots=True)
class Delay(_Netem):
    """Hold packets back for `delay_ms`, give or take `jitter_ms`.

    `correlation` is how much one packet's jitter follows the last one's: its lag-1 autocorrelation
    on the average of many injections. netem's generator begins at random, so a single one has from
    0.81 to 0.95 for 0.9, and from 0.2 to 0.7 for 0.5 (agent/netem.py). Jitter reorders packets that
    are closer together than it, as netem's always does.
    """

    delay_ms: float
    jitter_ms: float = 0.0
    correlation: float = 0.0
    distribution: Distribution = "uniform"
    traffic: Traffic = field(default_factory=Traffic)

    def __post_init__(self) -> None:
        _in_range("delay_ms", self.delay_ms, 0, _LONGEST_MS, above=True)
        _in_range("jitter_ms", self.jitter_ms, 0, _LONGEST_MS)
        if self.jitter_ms > self.delay_ms:
            raise InvalidFault(
                f"jitter_ms {self.jitter_ms:g} is above delay_ms {self.delay_ms:g}: no packet "
                "arrives before it was sent: raise the delay or lower the jitter"
            )
        _follow(self.correlation)
        if self.distribution not in get_args(Distribution):
            known = ", ".join(get_args(Distribution))
            raise InvalidFault(f"distribution {self.distribution!r}: one of {known}")
        if not self.jitter_ms and (self.correlation or self.distribution != "uniform"):
            raise InvalidFault("a correlation or distribution is one of jitter: give jitter_ms")

    @property
    def effect(self) -> Effect:
        """Round trips that take longer."""
        return Effect("slower", self.delay_ms * len(self.traffic.directions))

    def plan(self, facts: Facts) -> Plan:
        """One detour a device."""
        return self._diverted(
            facts,
            {
                "kind": "netem",
                "delay_ms": self.delay_ms,
                "jitter_ms": self.jitter_ms,
                "delay_correlation": self.correlation,
                "distribution": self.distribution,
            },
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return self._plain(
            delay_ms=self.delay_ms,
            jitter_ms=self.jitter_ms,
            correlation=self.correlation,
            distribution=self.distribution if self.jitter_ms else "",
        )


@dataclass(frozen=True, slots=True)
class Loss(_Shaping):
    """Lose a share of the packets: each by itself, in correlated runs, or by a model of bursts.

    `share` and `correlation`: the share lost, and how much a packet's fate follows the last one's
    (its lag-1 autocorrelation, exactly: two states, P(lost after a loss) = share + correlation
    (1 − share)). Or Gilbert and Elliott's model in netem's words: `p` and `r` are the chances a
    packet of the channel turning bad or good, `loss_in_bad` (1−h) and `loss_in_good` (1−k) the
    shares lost in each state.
    """

    share: float = 0.0
    correlation: float = 0.0
    p: float = 0.0
    r: float = 0.0
    loss_in_bad: float = 1.0
    loss_in_good: float = 0.0
    traffic: Traffic = field(default_factory=Traffic)

    def __post_init__(self) -> None:
        for name in ("share", "correlation", "p", "r", "loss_in_bad", "loss_in_good"):
            _share(name, getattr(self, name))
        if bool(self.share) == bool(self.p):
            raise InvalidFault(
                "loss: give either share, more than 0, or the model's p and r, more than 0"
            )
        if self.p and not self.r:
            raise InvalidFault("loss: r is 0: the channel would never turn good again")
        _follow(self.correlation)
        if self.p and not (self.loss_in_bad or self.loss_in_good):
            raise InvalidFault("loss: neither state loses anything")

    @property
    def rate(self) -> float:
        """The share that is lost in the long run."""
        if self.share:
            return self.share
        bad = self.p / (self.p + self.r)
        return bad * self.loss_in_bad + (1 - bad) * self.loss_in_good

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing but bpf."""
        return ()

    @property
    def effect(self) -> Effect:
        """A share of round trips that is never answered; the whole is silence."""
        if self.rate == 1:
            return Effect("silent")
        return Effect("lossy", 1 - (1 - self.rate) ** len(self.traffic.directions))

    def cuts(self, address: str) -> bool:
        """Whether packets from or to an address are all lost."""
        return self.rate == 1 and self.traffic.touches(address)

    def plan(self, facts: Facts) -> Plan:
        """One drop step a device."""
        steps = self.traffic.steps(facts, "drop", {"loss": self._model()})
        return Plan(tuple(steps), self.traffic.directions)

    def _model(self) -> dict[str, float]:
        if self.p:
            return {
                "to_bad": self.p,
                "to_good": self.r,
                "in_good": self.loss_in_good,
                "in_bad": self.loss_in_bad,
            }
        if not self.correlation or self.share == 1:
            return {"to_bad": 0.0, "to_good": 0.0, "in_good": self.share, "in_bad": self.share}
        return {
            "to_bad": self.share * (1 - self.correlation),
            "to_good": (1 - self.share) * (1 - self.correlation),
            "in_good": 0.0,
            "in_bad": 1.0,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        if self.share:
            return self._plain(share=self.share, correlation=self.correlation)
        states = {"loss_in_bad": self.loss_in_bad, "loss_in_good": self.loss_in_good}
        return self._plain(p=self.p, r=self.r, **states)


@dataclass(frozen=True, slots=True)
class Duplicate(_Netem):
    """Deliver a share of the packets twice."""

    share: float
    correlation: float = 0.0
    traffic: Traffic = field(default_factory=Traffic)

    def __post_init__(self) -> None:
        _some("share", self.share)
        _follow(self.correlation)

    @property
    def effect(self) -> Effect:
        """Echoes that are answered more than once."""
        return Effect("repeated", self.share)

    def plan(self, facts: Facts) -> Plan:
        """One detour a device."""
        words = {"duplicate": self.share, "duplicate_correlation": self.correlation}
        return self._diverted(facts, {"kind": "netem", **words})

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return self._plain(share=self.share, correlation=self.correlation)


@dataclass(frozen=True, slots=True)
class Corrupt(_Netem):
    """Flip a bit in a share of the packets; what their checksums catch is lost."""

    share: float
    correlation: float = 0.0
    traffic: Traffic = field(default_factory=Traffic)

    def __post_init__(self) -> None:
        _some("share", self.share)
        _follow(self.correlation)

    @property
    def effect(self) -> Effect:
        """Damaged packets are thrown away: a flip in a header that nobody checks may pass."""
        return Effect("lossy", 1 - (1 - self.share) ** len(self.traffic.directions))

    def plan(self, facts: Facts) -> Plan:
        """One detour a device."""
        words = {"corrupt": self.share, "corrupt_correlation": self.correlation}
        return self._diverted(facts, {"kind": "netem", **words})

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return self._plain(share=self.share, correlation=self.correlation)


@dataclass(frozen=True, slots=True)
class Reorder(_Netem):
    """Send a share of the packets at once, past others that are held back for `delay_ms`.

    `gap`: only every so-many-th packet may overtake; 0 and 1: any.
    """

    share: float
    delay_ms: float = 10.0
    correlation: float = 0.0
    gap: int = 0
    traffic: Traffic = field(default_factory=Traffic)

    def __post_init__(self) -> None:
        _some("share", self.share)
        _follow(self.correlation)
        _in_range("delay_ms", self.delay_ms, 0, _LONGEST_MS, above=True)
        _in_range("gap", self.gap, 0, 100_000)
        if self.share == 1 and self.gap <= 1:
            raise InvalidFault(
                "share 1: there would be no packet left to overtake: give less, or a gap"
            )

    @property
    def effect(self) -> Effect:
        """Round trips take longer but for those that overtake, every way that they are held."""
        overtaking = self.share / max(1, self.gap)
        held = 1 - overtaking ** len(self.traffic.directions)
        return Effect("slower", self.delay_ms, held)

    def plan(self, facts: Facts) -> Plan:
        """One detour a device."""
        words = {"reorder": self.share, "reorder_correlation": self.correlation, "gap": self.gap}
        return self._diverted(facts, {"kind": "netem", "delay_ms": self.delay_ms, **words})

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return self._plain(
            share=self.share,
            delay_ms=self.delay_ms,
            correlation=self.correlation,
            gap=self.gap,
        )


@dataclass(frozen=True, slots=True)
class Bandwidth(_Shaping):
    """Let no more than `rate_kbit` through, in each direction of each device.

    `burst_kb`: what may go at full speed after a pause; by default 10 ms of the rate, and one large
    packet at least. `queue_ms`: how long a packet may wait before it is dropped.
    """

    rate_kbit: float
    burst_kb: float = 0.0
    queue_ms: float = 50.0
    traffic: Traffic = field(default_factory=Traffic)

    def __post_init__(self) -> None:
        _in_range("rate_kbit", self.rate_kbit, 8, 1e9)
        _in_range("burst_kb", self.burst_kb, 0, 1e6)
        _in_range("queue_ms", self.queue_ms, 1, _LONGEST_MS)

    @property
    def wants(self) -> tuple[str, ...]:
        """What the kernel must have beside bpf."""
        return ("veth", "tbf")

    @property
    def effect(self) -> Effect:
        """A queue that is too short for what was to go through it."""
        return Effect("throttled")

    def plan(self, facts: Facts) -> Plan:
        """One detour a device."""
        bytes_s = self.rate_kbit * 1000 / 8
        burst = max(2000, round(self.burst_kb * 1000 or bytes_s / 100))
        limit = max(2 * burst, burst + round(bytes_s * self.queue_ms / 1000))
        rate = {"rate_bit": round(self.rate_kbit * 1000), "burst_bytes": burst}
        return self._diverted(facts, {"kind": "tbf", **rate, "limit_bytes": limit})

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return self._plain(rate_kbit=self.rate_kbit, burst_kb=self.burst_kb, queue_ms=self.queue_ms)


def _in_range(name: str, value: float, least: float, most: float, above: bool = False) -> None:
    if not least <= value <= most or (above and value == least):
        words = f"more than {least:g}" if above else f"from {least:g}"
        raise InvalidFault(f"{name} {value:g}: {words}, to {most:g}")


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        mend = f" ({value:g} % is {value / 100:g})" if 1 < value <= 100 else ""
        raise InvalidFault(f"{name} {value:g}: a share from 0 to 1{mend}")


def _follow(correlation: float) -> None:
    _share("correlation", correlation)
    if correlation == 1:
        raise InvalidFault("correlation 1: the first packet's fate would be everyone's")


def _some(name: str, value: float) -> None:
    _share(name, value)
    if not value:
        raise InvalidFault(f"{name} 0: nothing would happen: give more than 0, to 1")
