"""One run from its first check to its verdict."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aftershock.errors import InvalidInput, Unsupported
from aftershock.ledger import Ledger
from aftershock.load.contact import first_contact
from aftershock.load.quality import scorer_of
from aftershock.run import alone, closing, enter, gpus, judging, leave
from aftershock.run.breaking import Breaking
from aftershock.run.console import Console
from aftershock.run.folder import RunFolder
from aftershock.run.foresight import Foresight
from aftershock.run.injecting import Injections
from aftershock.run.judging import T_EFFECT, T_HEALED
from aftershock.run.loading import TIMEOUT_LIMITS, Load, check_load, headers_of
from aftershock.run.settings import Settings
from aftershock.run.target import Target
from aftershock.run.told import told
from aftershock.run.watching import SHOWN_S, Watcher
from aftershock.run.workload import Workload
from aftershock.slo import objectives
from aftershock.slo.levels import INDICATORS, TOLERATED, Levels, load_levels
from aftershock.slo.objectives import violations
from aftershock.slo.recovery import BACK, HOLDING, Recovery, Terms
from aftershock.slo.timeline import Timeline, Window

logger = logging.getLogger("chaostoolkit")

POLL_S = 0.5
LOOK_S = 5.0  # how far back a probe looks


class Run:
    """A run: what it was told, what it is made of, and what has happened so far."""

    def __init__(
        self,
        settings: Settings,
        levels: Levels,
        title: str,
        target: Target,
        plan: tuple[Sequence[Mapping[str, Any]], Mapping[str, Any]] = ((), {}),
        declared: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        lock: alone.TargetLock | None = None,
    ) -> None:
        self.settings = settings
        self.lock = lock
        self._plan = plan
        self.levels = levels
        self.title = title
        self.target = target
        self.told = told(settings, levels, title, plan[1], declared or {})
        self.folder = RunFolder.create(settings.experiment or title, soak_s=settings.soak_s)
        self.run_id = self.folder.path.name
        self.console = Console()
        self.timeline = Timeline(self.folder.path / "timeline.jsonl")
        self.load = Load(settings, self.levels, self.timeline, headers or {})
        self.watcher = Watcher(target, self.timeline, self.console)
        self.breaking = Breaking(self)
        self.workload = Workload(self)
        self.checks: list[dict[str, Any]] = []
        self.cliff: dict[str, Any] = {}
        self.soak: dict[str, Any] = {}
        self.recovery: Recovery | None = None
        self.failback: Recovery | None = None
        self.ledger: Ledger | None = None
        self.problems: list[str] = []  # of our own: such a run is no PASS
        self._verdict_entry = ""

    @classmethod
    def prepare(
        cls,
        configuration: Mapping[str, Any],
        title: str,
        method: Sequence[Mapping[str, Any]] = (),
        declared: Mapping[str, Any] | None = None,
        secrets: Mapping[str, Any] | None = None,
    ) -> Run:
        """Check all that can be checked before anything is touched; make the run's folder.

        `declared`: the configuration as the experiment has it, before it was resolved.
        """
        levels = load_levels(str(configuration.get("levels", "lab")))
        promised = {"rto_objective_s": levels.service_rto_s}
        settings = Settings.from_configuration({**promised, **configuration})
        scorer_of(settings.scorer)
        headers = headers_of(settings, check_load(settings), secrets)
        target = Target(settings)
        target.check()
        try:
            ahead = Foresight(settings, target)
            if target.is_lab:  # its pods are looked at once it is up
                ahead.refuse_nonsense(method, configuration)
            else:
                ahead.refuse(method, configuration)
                there = target.inventory
                first_contact(there.gateway_url, there.model, headers, settings.verify_tls)
            lock = alone.of_run(target.lock_name, target.cluster, f"the run {title!r}")
            lock.acquire()
        except BaseException:
            target.down()
            raise
        try:
            plan = (method, configuration)
            return cls(settings, levels, title, target, plan, declared, headers, lock)
        except BaseException:
            lock.release()
            target.down()
            raise

    def begin(self) -> None:
        """Bring the target up, start the load, and watch the steady state for `before_s`."""
        enter(self)
        self.folder.point_latest()
        self.folder.link_from_game_day()
        self.phase("lab")
        started = time.monotonic()
        self.ledger = ledger = Ledger(self.run_id)
        self._verdict_entry = ledger.intend_undo("verdict", self._epitaph())
        if self.lock:
            self.lock.note(ledger)
        self.target.up(ledger, self.lock)
        injections = Injections(self.target, ledger, self.settings)
        self.breaking.begin(injections)
        self.watcher.pressed = injections.nodes_under(gpus.PRESSING)
        if self.target.lab:  # its API answers only now
            Foresight(self.settings, self.target).refuse(*self._plan)
        inventory = self.target.inventory
        self.told["zones"] = {node.name: node.zone for node in inventory.nodes}
        self.console.say(
            "lab" if self.target.lab else "target",
            f"{len(inventory.zones())} zones, {len(inventory.nodes)} nodes, gateway on "
            f"{inventory.gateway_url}, seed {self.settings.seed}   "
            f"({time.monotonic() - started:.1f} s)",
        )
        self.load.start(inventory)
        first = self.load.profile.stage_at(0) if self.load.profile.chaos_at_s else "steady"
        self.phase(first)
        self.watcher.start()
        self._await_chaos()
        self.phase_is("steady")
        self._pause(self.settings.before_s)

    def _await_chaos(self) -> None:
        """Go through the load's stages up to the one that faults are to run under."""
        profile = self.load.profile
        while (passed := time.monotonic() - self.load.began_at) < profile.chaos_at_s:
            self.load.check_alive()
            if (stage := profile.stage_at(passed)) != self.watcher.phase:
                self.phase(stage)
            self._pause(min(POLL_S, profile.chaos_at_s - passed))

    def recording(self) -> bool:
        """True while load and sentinel are alive; `NoRun` names the one that ended."""
        self.load.check_alive()
        return True

    def phase(self, name: str) -> None:
        """Enter a phase: it labels the terminal's lines and is marked in the timeline."""
        self.watcher.phase = name
        self.timeline.mark(f"phase:{name}")

    # Recovery

    def await_recovery(self) -> dict[str, Any]:
        """See `aftershock.probes.recovery.service_recovered`."""
        if T_EFFECT not in self.timeline.marks:
            raise Unsupported("no fault was fired yet: recovery has nothing to be counted from")
        while True:
            self.load.check_alive()
            self.recovery = found = judging.service_recovery(self, time.monotonic())
            assert found
            self.phase_is("back" if found.state in (HOLDING, BACK) else self._unproven())
            if found.final or self._waited_long(T_EFFECT, judging.terms(self)):
                return {"recovered": found.back, **found.as_dict()}
            self._pause(POLL_S)

    def await_failback(self) -> dict[str, Any]:
        """See `aftershock.probes.recovery.failed_back`."""
        if T_HEALED not in self.timeline.marks:
            raise Unsupported(
                "no fault was fired or healed yet: fail-back has nothing to be counted from"
            )
        self.phase("failback")
        while True:
            self.load.check_alive()
            self.failback = found = judging.failback(self, time.monotonic())
            assert found
            if found.final or self._waited_long(T_HEALED, judging.failback_terms(self)):
                return {"failed_back": found.back, **found.as_dict()}
            self._pause(POLL_S)

    def _unproven(self) -> str:
        """What a line is called before a whole window was good: requests may be good long since."""
        effect, end = self.timeline.marks[T_EFFECT], self._decided()
        begin = max(effect, end - SHOWN_S)
        if end <= begin:
            return "waiting"
        felt = any(bad for _, bad in self.timeline.window(effect, end).per_source.values())
        if not felt:
            return "waiting"
        broken = violations(self.timeline, self.levels, TOLERATED, begin, end)
        return "failing" if broken else "recovering"

    def _waited_long(self, mark: str, terms: Terms) -> bool:
        # A service that comes and goes holds nothing and is never given up: it is waited for no
        # longer than one that returns at the last moment and then holds.
        longest = terms.patience_s + terms.hold_s + 4 * terms.window_s
        return time.monotonic() - self.timeline.marks[mark] > longest

    def phase_is(self, name: str) -> None:
        """Enter a phase unless it is the present one."""
        if self.watcher.phase != name:
            self.phase(name)

    # Looking

    def within(self, indicator: str, level: str) -> bool:
        """See `aftershock.probes.slo.within`."""
        if self._is_without(indicator, level):
            return True
        reading = objectives.within(
            self.timeline, self.levels, indicator, level, end=self._decided(), width_s=LOOK_S
        )
        self.checks.append(reading.as_dict())
        with self.noting("checks.json"):
            self.folder.write_json("checks.json", self.checks)
        logger.info("%s is %s %s", reading, "within" if reading.ok else "NOT within", level)
        return reading.ok

    def _is_without(self, indicator: str, level: str) -> bool:
        """Whether there are no GPUs to look at: none is promised, and no node has one."""
        kind = INDICATORS.get(indicator)
        if not (kind and kind.gauge) or indicator in self.levels.bounds(level):
            return False
        if not self.watcher.has_no_gpu():
            return False
        logger.info("%s: %s promises none, and no node has one", indicator, self.levels.target)
        self.checks.append({"indicator": indicator, "level": level, "ok": True, "gpus": 0})
        return True

    def window(self, width_s: float) -> Window:
        """The last decided window."""
        if not width_s > 0:
            raise InvalidInput(f"window_s is {width_s:g}: give seconds, more than 0")
        end = self._decided()
        return self.timeline.window(end - width_s, end)

    def gpu(self, figure: str, zone: str) -> float:
        """The mean over the GPUs' nodes of the last seconds, of a zone or of all."""
        wanted = self.target.inventory.in_zone(zone) if zone else self.target.inventory.nodes
        now = time.monotonic()
        means = objectives.gauge_means(self.timeline, f"gpu_{figure}", now - LOOK_S, now)
        values = [means[node.name] for node in wanted if node.name in means]
        if not values:
            raise Unsupported("no GPU was read in the last seconds: is NVML there on the nodes?")
        return sum(values) / len(values)

    # The end

    def write_journal(self, journal: Mapping[str, Any]) -> None:
        """Chaos Toolkit's journal as it stands, and our injections beside it."""
        self.folder.write_json("journal.json", dict(journal))
        self.breaking.write()

    def finish(self, journal: dict[str, Any], interrupted_by: list[str]) -> str:
        """Heal, stop, take down, decide; returns the verdict's word. Safe at any stage."""
        try:
            return closing.close(self, journal, interrupted_by)
        finally:
            leave()

    def keep_logs(self) -> None:
        """What the processes that the run started wrote, beside the verdict."""
        logs = self.folder.path / "logs"
        logs.mkdir(exist_ok=True)
        self.load.keep_logs(logs)
        self.target.keep_logs(logs)

    def close_ledger(self) -> None:
        """The run is judged: nothing of it is left to recover."""
        if self.ledger is not None:
            self.ledger.undone(self._verdict_entry)
            self.ledger.close()

    def _epitaph(self) -> dict[str, Any]:
        """What `recover` needs to write the verdict of a run whose controller died."""
        return {
            "folder": str(self.folder.path),
            "rto_objective_s": self.settings.rto_objective_s,
            "limit_ms": self.levels.limit_s * 1000,
            "target": self.target.name,
            "seed": self.settings.seed,
            "title": self.title,
            "run": self.told,
        }

    @contextlib.contextmanager
    def noting(self, step: str) -> Iterator[None]:
        """What fails within goes on record, and into the verdict, instead of up."""
        try:
            yield
        except Exception as error:
            logger.debug("%s failed", step, exc_info=True)
            if (said := f"{step}: {error}") not in self.problems:
                logger.error(said)
                self.problems.append(said)

    def _decided(self) -> float:
        """Up to when every request is decided; `NoMeasurement` if that is long ago."""
        # A request that hangs is decided once it took longer than allowed, or timed out.
        patience_s = LOOK_S + TIMEOUT_LIMITS * self.levels.limit_s
        return objectives.decided(self.timeline, time.monotonic(), patience_s)

    @staticmethod
    def _pause(seconds: float) -> None:
        # Short sleeps, so that a signal is felt at once even where the C library restarts sleep.
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))
