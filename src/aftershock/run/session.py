"""One run from its first check to its verdict."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from aftershock.errors import AftershockError, InvalidInput, Unsupported
from aftershock.ledger import Ledger
from aftershock.run import NoRun, closing, enter, judging, leave
from aftershock.run.console import Console
from aftershock.run.folder import RunFolder
from aftershock.run.injecting import Injected, Injections, parse_peers
from aftershock.run.judging import T_EFFECT, T_HEALED
from aftershock.run.loading import TIMEOUT_LIMITS, Load
from aftershock.run.settings import Settings
from aftershock.run.target import Target
from aftershock.run.watching import SHOWN_S, Watcher
from aftershock.slo import objectives
from aftershock.slo.levels import TOLERATED, Levels, load_levels
from aftershock.slo.objectives import violations
from aftershock.slo.recovery import BACK, HOLDING, Recovery, Terms
from aftershock.slo.timeline import Timeline, Window
from aftershock.slo.verdict import on_hosts

logger = logging.getLogger("chaostoolkit")

POLL_S = 0.5
LOOK_S = 5.0  # how far back a probe looks


class Run:
    """A run: what it was told, what it is made of, and what has happened so far."""

    def __init__(self, settings: Settings, levels: Levels, title: str, target: Target) -> None:
        self.settings = settings
        self.levels = levels
        self.title = title
        self.target = target
        self.folder = RunFolder.create(settings.experiment or title)
        self.run_id = self.folder.path.name
        self.console = Console()
        self.timeline = Timeline(self.folder.path / "timeline.jsonl")
        self.load = Load(settings, self.levels, self.timeline)
        self.watcher = Watcher(target, self.timeline, self.console)
        self.injections: Injections | None = None
        self.checks: list[dict[str, Any]] = []
        self.recovery: Recovery | None = None
        self.failback: Recovery | None = None
        self.ledger: Ledger | None = None
        self.problems: list[str] = []  # of our own: such a run is no PASS
        self._verdict_entry = ""

    @classmethod
    def prepare(cls, configuration: Mapping[str, Any], title: str) -> Run:
        """Check all that can be checked before anything is touched; make the run's folder."""
        levels = load_levels(str(configuration.get("levels", "lab")))
        promised = {"rto_objective_s": levels.service_rto_s}
        settings = Settings.from_configuration({**promised, **configuration})
        target = Target(settings)
        target.check()
        return cls(settings, levels, title, target)

    def begin(self) -> None:
        """Bring the target up, start the load, and watch the steady state for `before_s`."""
        enter(self)
        self.folder.point_latest()
        self.phase("lab")
        started = time.monotonic()
        self.ledger = ledger = Ledger(self.run_id)
        self._verdict_entry = ledger.intend_undo("verdict", self._epitaph())
        self.target.up()
        self.injections = Injections(self.target, ledger, self.settings.grace_s)
        inventory = self.target.inventory
        self.console.say(
            "lab" if self.target.lab else "target",
            f"{len(inventory.zones())} zones, {len(inventory.nodes)} nodes, gateway on "
            f"{inventory.gateway_url}, seed {self.settings.seed}   "
            f"({time.monotonic() - started:.1f} s)",
        )
        self.load.start(inventory)
        self.phase("steady")
        self.watcher.start()
        self._pause(self.settings.before_s)

    def recording(self) -> bool:
        """True while load and sentinel are alive; `NoRun` names the one that ended."""
        self.load.check_alive()
        return True

    def phase(self, name: str) -> None:
        """Enter a phase: it labels the terminal's lines and is marked in the timeline."""
        self.watcher.phase = name
        self.timeline.mark(f"phase:{name}")

    # Faults

    def fail_zone(self, zone: str, lease_s: float, selector: str, peers: str) -> dict[str, Any]:
        """See `aftershock.actions.zone.fail_zone`."""
        injections = self._injections()
        parse_peers(peers)
        self.phase("arming")
        with self.watcher.paused():
            parts = [injections.partition(zone, lease_s, peers)]
            if self.target.cluster is not None:
                parts += [injections.cordon(zone), injections.pod_kill(zone, selector)]
            for part in parts:
                self._fire(part)
        return self._confirm(*parts)

    def partition_zone(self, zone: str, lease_s: float, peers: str) -> dict[str, Any]:
        """See `aftershock.actions.network.partition_zone`."""
        self.phase("arming")
        with self.watcher.paused():
            partition = self._injections().partition(zone, lease_s, peers)
            self._fire(partition)
        return self._confirm(partition)

    def cordon_zone(self, zone: str) -> dict[str, Any]:
        """See `aftershock.actions.kubernetes.cordon_zone`."""
        cordon = self._injections().cordon(zone)
        self._fire(cordon)
        return self._confirm(cordon)

    def kill_pods(self, zone: str, selector: str, grace_s: int) -> dict[str, Any]:
        """See `aftershock.actions.kubernetes.kill_pods`."""
        kill = self._injections().pod_kill(zone, selector, grace_s)
        self._fire(kill)
        return self._confirm(kill)

    def heal_zone(self, zone: str, kinds: Iterable[str] = ()) -> dict[str, Any]:
        """See `aftershock.actions.zone.heal_zone`."""
        self.target.inventory.in_zone(zone)
        return self._heal(zone, kinds)

    def heal_everything(self) -> dict[str, Any]:
        """See `aftershock.actions.zone.heal_everything`."""
        return self._heal(None, ())

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
            raise Unsupported("nothing was healed yet: fail-back has nothing to be counted from")
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
        reading = objectives.within(
            self.timeline, self.levels, indicator, level, end=self._decided(), width_s=LOOK_S
        )
        self.checks.append(reading.as_dict())
        with self.noting("checks.json"):
            self.folder.write_json("checks.json", self.checks)
        logger.info("%s is %s %s", reading, "within" if reading.ok else "NOT within", level)
        return reading.ok

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

    def ready_replicas(self, zone: str) -> int:
        """Ready replicas now, in a zone or in all."""
        inventory = self.target.inventory
        ready = self._injections().cluster.ready_by_zone(inventory.selector)
        if zone:
            inventory.in_zone(zone)
        return int(ready.get(zone, 0) if zone else sum(ready.values()))

    # The end

    def write_journal(self, journal: Mapping[str, Any]) -> None:
        """Chaos Toolkit's journal as it stands, and our injections beside it."""
        self.folder.write_json("journal.json", dict(journal))
        if self.injections is not None:
            self.folder.write_json("injections.json", [i.to_dict() for i in self.injections])

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
        }

    def _injections(self) -> Injections:
        if self.injections is None:
            raise NoRun("the run has not begun")
        return self.injections

    def _fire(self, injection: Injected) -> None:
        fired_at = injection.fire()
        if T_EFFECT not in self.timeline.marks:
            self.timeline.mark(T_EFFECT, fired_at)
            self.phase("FIRED")

    def _confirm(self, *injections: Injected) -> dict[str, Any]:
        for injection in injections:
            injection.observe()
        told = [injection.to_dict() for injection in injections]
        for one in told:
            effect = "effect seen" if one["bit"] else "NO EFFECT SEEN"
            apart = f", {one['skew_ms']:.1f} ms apart" if len(one["hosts"]) > 1 else ""
            self.console.say("FIRED", f"{on_hosts(one['fault'], one['hosts'])}{apart}: {effect}")
        self.write_injections()
        return {"injections": told}

    def write_injections(self) -> None:
        """What was injected so far, on disk; a disk that refuses keeps no fault from healing."""
        with self.noting("injections.json"):
            self.folder.write_json("injections.json", [i.to_dict() for i in self._injections()])

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

    def _heal(self, zone: str | None, kinds: Iterable[str]) -> dict[str, Any]:
        injections = self.injections
        if injections is None:
            return {"healed": 0, "injections": []}
        active = [i for i in injections if not i.to_dict()["reverted"]]
        if active:
            self.phase("reverting")
            if T_HEALED not in self.timeline.marks:  # from the first heal on, less is broken
                self.timeline.mark(T_HEALED)
        with self.watcher.paused():
            problems = injections.revert(zone, kinds)
        self.write_injections()
        if problems:
            raise AftershockError("; ".join(problems))
        return {"healed": len(active), "injections": [i.to_dict() for i in injections]}

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
