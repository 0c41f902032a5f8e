"""The background load and the sentinel of a run."""

from __future__ import annotations

from pathlib import Path

from aftershock.inventory import Inventory
from aftershock.load.generator import Generator, GeneratorStats, Sentinel
from aftershock.load.settings import LoadSettings, SentinelSettings, Stage
from aftershock.run import NoRun
from aftershock.run.settings import Settings
from aftershock.slo.levels import Levels
from aftershock.slo.timeline import Timeline

LONGEST_RUN_S = 3600.0
TIMEOUT_LIMITS = 10  # a request is cut after so many times the tolerated latency


class Load:
    """Locust and the sentinel, started together, both feeding the timeline."""

    def __init__(self, settings: Settings, levels: Levels, timeline: Timeline) -> None:
        self.settings = settings
        self.levels = levels
        self.timeline = timeline
        self.generator: Generator | None = None
        self.sentinel: Sentinel | None = None

    def start(self, inventory: Inventory) -> None:
        """Start both and return once both have sent something."""
        limit_s = self.levels.limit_s
        self.sentinel = Sentinel(
            SentinelSettings(
                url=inventory.gateway_url,
                rate=self.settings.probes_rps,
                timeout_s=limit_s,
                model=inventory.model,
                duration_s=LONGEST_RUN_S,
            )
        )
        self.generator = Generator(
            LoadSettings(
                url=inventory.gateway_url,
                stages=(Stage(LONGEST_RUN_S, self.settings.load_rps),),
                seed=self.settings.seed,
                processes=self.settings.load_processes,
                model=inventory.model,
                limit_s=limit_s,
                timeout_s=TIMEOUT_LIMITS * limit_s,
                metric=self.levels.metric,
            )
        )
        self.generator.start(self.timeline)
        self.sentinel.start(self.timeline)
        self.generator.wait_until_sending()
        self.sentinel.wait_until_sending()

    def check_alive(self) -> None:
        """`NoRun` if one of the two has ended: what follows would go unmeasured."""
        for feeder, name in ((self.generator, "load generator"), (self.sentinel, "sentinel")):
            if feeder is None or not feeder.alive():
                said = feeder.said if feeder else "it was never started"
                raise NoRun(f"the {name} has ended: {said or 'it said nothing'}")

    def stop(self) -> None:
        """End both. Idempotent."""
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
