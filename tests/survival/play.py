"""One cell of the matrix, played for real, and what must be true of the world afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sites import Site

from aftershock import ledger
from aftershock.agent.clock import boottime
from tests.conftest import MARK, marked_processes

LATER_S = 3.0  # a watcher lets the agent go first, and a busy machine has to get to it
_READ_S = 20.0
_NO_AGENT = "started no agent in time"
AFTERSHOCK = Path(sys.executable).with_name("aftershock")


@dataclass
class Drama:
    """A controller going through its stages on a site, and what is done to it."""

    site: Site
    folder: Path
    lease_s: float
    deadline_only: bool = False
    agents: list[int] = field(default_factory=list)
    before: dict[str, str] = field(default_factory=dict)
    hurt_at: float | None = None  # on CLOCK_BOOTTIME, as leases are
    looked_at: float = 0.0  # when it was last seen whether something is felt
    final: dict[str, Any] | None = None
    said: str = ""
    process: Any = None

    def start(self, *stops: str) -> None:
        """Begin, to stop at these stages."""
        self.before = self.site.look()
        words = {
            "nodes": [asdict(node) for node in self.site.nodes],
            "stops": list(stops),
            "lease_s": self.lease_s,
            "deadline_only": self.deadline_only,
            "cut_controller": self.deadline_only,
        }
        script = str(Path(__file__).with_name("controller.py"))
        with (self.folder / "said").open("w") as said:
            self.process = subprocess.Popen(
                [*self.site.enter, sys.executable, script, json.dumps(words)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                env=self.environment,
                text=True,
                start_new_session=True,
            )

    def reach(self, stage: str) -> None:
        """Wait until it stops at a stage."""
        told = self._line()
        self.final = told if "told" in told else None
        assert told.get("at") == stage, f"{told} instead of the stage {stage}: {self._stderr()}"
        self.agents = told["agents"]

    def say(self, word: str) -> None:
        """A word to the stopped controller; it has done it when this returns."""
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        if word != "go":
            assert self._line() == {"done": word}, self._stderr()

    def hear(self, words: str) -> None:
        """Wait until the controller has said something on its standard error."""
        until = time.monotonic() + _READ_S
        while words not in self._stderr():
            assert time.monotonic() < until, f"{words!r} was not said: {self._stderr()}"
            time.sleep(0.005)

    def say_go_to(self, stage: str) -> None:
        """Let it go on to another stage."""
        self.say("go")
        self.reach(stage)

    def kill(self, number: int) -> None:
        """A signal to the controller's whole process group, as a terminal sends it."""
        os.killpg(self.process.pid, number)

    def hurt(self) -> None:
        """What matters happens now."""
        self.hurt_at = boottime()

    def is_late(self) -> bool:
        """Whether a lease had run out before anything happened: the machine is too busy for it."""
        parts = self.final["told"]["per_host"].values() if self.final else ()
        ran_out = any(part.get("ended_by") == "deadline" for part in parts)
        if self.hurt_at is None and self.final:  # it gave up before its stage
            return ran_out or _NO_AGENT in str(self.final["errors"])
        # Of what has been told, no record is kept.
        if ran_out and not self.deadline_only and self.looked_at > (self.hurt_at or 0.0):
            return True
        deadlines = [record["deadline"] for record in self.records().values()]
        at = max(self.hurt_at or boottime(), self.looked_at)
        return bool(deadlines) and min(deadlines) < at

    def records(self) -> dict[str, dict[str, Any]]:
        """What the hosts wrote down, by file."""
        paths = sorted((self.disk / (self.site.far or "state") / "records").glob("*.json"))
        return {path.name: json.loads(path.read_text()) for path in paths}

    @property
    def disk(self) -> Path:
        """Where everything is written down, the controller's and the agents'."""
        return self.folder / "disk"

    @property
    def environment(self) -> dict[str, str]:
        """What everything of this play is started with."""
        return {**os.environ, "AFTERSHOCK_STATE": str(self.disk / "state")}

    def end(self) -> dict[str, Any]:
        """Let it go on to its end; what it tells."""
        with suppress(BrokenPipeError):
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        self.final = self._line()
        assert self.process.wait(_READ_S) == 0, self._stderr()
        return self.final

    def close(self) -> None:
        """Whatever became of it."""
        if self.process:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()

    def _line(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        assert line, f"the controller ended: {self._stderr()}"
        told: dict[str, Any] = json.loads(line)
        return told

    def _stderr(self) -> str:
        return (self.folder / "said").read_text()


def in_flight(drama: Drama, stage: str, twice: bool = False) -> None:
    """What must be felt, and what not, at a stage: else the rest would prove nothing."""
    try:
        passes = drama.site.passes(twice)
    finally:  # what is felt in part may be so since the deadline
        drama.looked_at = boottime()
    if stage in ("fired", "reverting"):
        assert not any(passes.values()), f"{stage}, yet some hosts feel nothing: {passes}"
    else:
        assert all(passes.values()), f"{stage}, yet something is felt: {passes}"


def hosts_are_as_before(drama: Drama) -> float:
    """Within the lease, whoever heals them; seconds from the event until they are."""
    site, deadlines = drama.site, [one["deadline"] for one in drama.records().values()]
    until = max([boottime(), *deadlines]) + LATER_S
    while (now := site.look()) != drama.before and boottime() < until:
        time.sleep(0.02)
    took = boottime() - (drama.hurt_at or 0.0)
    assert now == drama.before, f"left behind: {_difference(drama.before, now)}"
    assert all(site.passes().values()), "the kernel shows nothing, and yet packets are lost"
    return took


def nobody_is_left(drama: Drama, within_s: float = LATER_S) -> None:
    """Neither agents nor watchers, nor the controller, nor sshd's sessions for them.

    Where the fault cut their lines, a session hears of the end by TCP alone, whose next try comes
    at most as long after the heal as the cut had lasted.
    """
    began, tcp_s = time.monotonic(), drama.lease_s if drama.deadline_only else 0.0
    while alive := _ours(drama.site):
        waited = time.monotonic() - began - within_s
        overdue = {
            pid: words
            for pid, words in alive.items()
            if waited > (tcp_s if words.startswith("sshd: ") else 0.0)
        }
        assert not overdue, f"processes left: {overdue}"
        time.sleep(0.02)


def books_are_in_order(drama: Drama) -> None:
    """Records and ledger say what is true, and no draft lies about."""
    drafts = [str(path) for path in drama.disk.rglob("*.new")]
    assert not drafts, drafts
    for name, record in drama.records().items():
        assert record["state"] == "reverted", f"{name}: {record['state']}"
    for path in (drama.disk / "state" / "runs").glob("*"):
        for line in path.read_text().splitlines():
            json.loads(line)


def recovers(drama: Drama) -> list[str]:
    """`aftershock recover`, twice: the first heals what there is, the second finds nothing."""
    first = recover(drama)
    assert first.returncode == 0, first.stdout + first.stderr
    second = recover(drama)
    assert second.returncode == 0 and "Nothing was left behind" in second.stdout, second.stdout
    left = [str(path) for path in drama.disk.rglob("*") if path.is_file()]
    assert not left, left
    return first.stdout.splitlines()


def recover(drama: Drama) -> subprocess.CompletedProcess[str]:
    """The command, from wherever the controller was."""
    words = [*drama.site.enter, str(AFTERSHOCK), "recover"]
    done = subprocess.run(
        words, check=False, capture_output=True, text=True, env=drama.environment, timeout=60
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def _ours(site: Site) -> dict[int, str]:
    marked = marked_processes(os.environ[MARK])
    alive = {**site.processes(), **marked}
    return {pid: words for pid, words in alive.items() if pid not in site.own}


def _difference(before: dict[str, str], now: dict[str, str]) -> dict[str, list[str]]:
    return {
        name: sorted(set(now[name].splitlines()) ^ set(before[name].splitlines()))
        for name in before
        if now[name] != before[name]
    }


def open_injections(drama: Drama) -> list[str]:
    """What the ledger holds open."""
    runs = [ledger.read(path) for path in sorted((drama.disk / "state" / "runs").glob("*.jsonl"))]
    return [injection for run in runs for injection in run.injections]
