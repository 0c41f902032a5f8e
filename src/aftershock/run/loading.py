"""The background load and the sentinel of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aftershock.errors import InvalidInput
from aftershock.inventory import Inventory
from aftershock.load.asking import secret
from aftershock.load.calibration import check_rate
from aftershock.load.generator import Generator, GeneratorStats, Sentinel
from aftershock.load.profile import Profile, constant, load_profile
from aftershock.load.quality import GoldenPrompts, scorer_of
from aftershock.load.scoring import judge
from aftershock.load.settings import LoadSettings, SentinelSettings
from aftershock.run import NoRun
from aftershock.run.settings import Settings
from aftershock.slo.levels import Levels
from aftershock.slo.timeline import LOAD, Timeline

LONGEST_RUN_S = 3600.0
TIMEOUT_LIMITS = 10  # a request is cut after so many times the tolerated latency


def profile_of(settings: Settings) -> Profile:
    """What a run's load does; `InvalidInput` for a profile that makes no sense."""
    told = settings.load_profile
    return load_profile(told) if told else constant(settings.load_rps)


def headers_of(
    settings: Settings, profile: Profile, secrets: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """What goes with every request: the profile's headers, and the token.

    It comes from `api_token_env`, or from an experiment's `secrets` as `service.token`.
    """
    found: dict[str, str] = dict(profile.load.get("headers", {}))
    service = (secrets or {}).get("service")
    token = service.get("token") if isinstance(service, Mapping) else None
    if settings.api_token_env:
        token = secret(settings.api_token_env, "api_token_env")
    if token is not None and not str(token).isprintable():
        raise InvalidInput("secrets: service.token is no single line of text")
    return {**found, "Authorization": f"Bearer {token}"} if token else found


def check_load(settings: Settings) -> Profile:
    """The profile, if this machine can send it; else `InvalidInput` with the mend."""
    profile = profile_of(settings)
    if settings.load_workers:  # on machines of their own
        return profile
    told = LoadSettings("http://127.0.0.1", processes=settings.load_processes)
    check_rate(profile.onto(told, LONGEST_RUN_S), profile.peak_rps)
    return profile


class Load:
    """Locust and the sentinel, started together, both feeding the timeline."""

    def __init__(
        self, settings: Settings, levels: Levels, timeline: Timeline, headers: Mapping[str, str]
    ) -> None:
        """`headers`: of every request, the service's token among them."""
        self.settings = settings
        self.levels = levels
        self.timeline = timeline
        self.profile = profile_of(settings)
        self.headers = dict(headers)
        self.generator: Generator | None = None
        self.sentinel: Sentinel | None = None
        self.golden: GoldenPrompts | None = None
        self._scorer = scorer_of(settings.scorer)

    def start(self, inventory: Inventory) -> None:
        """Start both and return once both have sent something."""
        limit_s, longest_s = self.levels.limit_s, LONGEST_RUN_S + self.settings.soak_s
        self.sentinel = Sentinel(
            SentinelSettings(
                url=inventory.gateway_url,
                rate=self.settings.probes_rps,
                timeout_s=limit_s,
                model=inventory.model,
                duration_s=longest_s + self.profile.length_s,
                headers=self.headers,
                verify_tls=self.settings.verify_tls,
            )
        )
        load = LoadSettings(
            url=inventory.gateway_url,
            seed=self.settings.seed,
            processes=self.settings.load_workers or self.settings.load_processes,
            workers_at=self.settings.load_bind if self.settings.load_workers else "",
            model=inventory.model,
            limit_s=limit_s,
            timeout_s=TIMEOUT_LIMITS * limit_s,
            metric=self.levels.metric,
            goodput_ms=self.levels.goodput_ms,
        )
        load = replace(
            self.profile.onto(load, longest_s),
            headers=self.headers,
            verify_tls=self.settings.verify_tls,
        )
        self.generator = Generator(load)
        self.generator.start(self.timeline)
        self.sentinel.start(self.timeline)
        self.generator.wait_until_sending()
        self.sentinel.wait_until_sending()
        if self.settings.quality_rps:
            self.golden = GoldenPrompts(
                inventory.gateway_url,
                inventory.model,
                self.settings.quality_rps,
                self.headers,
                self.settings.verify_tls,
            )
            self.golden.start()

    @property
    def began_at(self) -> float:
        """When the first stage began; 0 before that is known."""
        found = [report.get("began", 0.0) for report in self.timeline.last_reports(LOAD)]
        return min((at for at in found if at), default=0.0)

    def offered_rps(self) -> float:
        """Requests a second that are due by the profile at this moment."""
        began = self.began_at
        return self.profile.rate_at(time.monotonic() - began if began else 0.0)

    def quality(
        self, t_effect: float | None, t_healed: float | None, exact: bool
    ) -> dict[str, Any]:
        """How good the answers to the golden prompts were; see `load.scoring.judge`."""
        if self.golden is None:
            return {}
        samples = self.golden.samples
        return judge(samples, t_effect, t_healed, exact=exact, scorer=self._scorer)

    def check_alive(self) -> None:
        """`NoRun` if one of the two has ended: what follows would go unmeasured."""
        for feeder, name in ((self.generator, "load generator"), (self.sentinel, "sentinel")):
            if feeder is None or not feeder.alive():
                said = feeder.said if feeder else "it was never started"
                raise NoRun(f"the {name} has ended: {said or 'it said nothing'}")

    def stop(self) -> None:
        """End them. Idempotent."""
        if self.golden is not None:
            self.golden.stop()
        for feeder in (self.generator, self.sentinel):
            if feeder is not None:
                feeder.stop()

    def keep_logs(self, folder: Path) -> None:
        """Write down what the two said on their standard error, if anything."""
        for feeder, name in ((self.generator, "locust"), (self.sentinel, "sentinel")):
            if feeder is not None and feeder.said:
                (folder / f"{name}.log").write_text(feeder.said + "\n", encoding="utf-8")

    def stats(self) -> GeneratorStats:
        """What the generator says of itself."""
        return self.generator.stats() if self.generator else GeneratorStats()

    def generator_pids(self) -> list[int]:
        """The generator's processes, workers included."""
        if self.generator is None or self.generator.pid is None:
            return []
        return session_of(self.generator.pid)


def session_of(leader: int) -> list[int]:
    """The processes of a session: /proc/PID/stat, field 6."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader:
                found.append(int(entry.name))
    return found
