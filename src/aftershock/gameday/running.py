"""One run of a day: `chaos run` in a process of its own, as a user would, and its verdict."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from aftershock.agent.clock import identity
from aftershock.gameday.plan import Step
from aftershock.gameday.record import RUNS
from aftershock.lock import TOKEN
from aftershock.run.folder import DAY_LINK, journal_root
from aftershock.slo.reading import Unreadable, read_verdict
from aftershock.slo.verdict import INCONCLUSIVE

POLL_S = 0.1
LONGEST_END_S = 300.0  # of a run that was told to end: then its leases must do
_SAID = re.compile(r"(?:CRITICAL|ERROR)\]?\s+(.*)")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run. `why`: the first reason against a PASS; `detail`: its figures."""

    verdict: str
    why: str
    status: int
    detail: Mapping[str, Any] = field(default_factory=dict)


class ChildRun:
    """A run that has begun. To be started from the main thread, which its life is tied to."""

    def __init__(self, step: Step, day: Path, folder: Path, token: str) -> None:
        self.link = day / RUNS / step.key
        self.log = day / f"{step.key}.log"
        self._step = step
        self._written = self.log.open("ab")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "aftershock.gameday.launch", str(os.getpid())),
                *command(step, self.log.with_suffix(".ctk.log"), self.log.with_suffix(".ctk.json")),
            ],
            cwd=folder,
            env={
                **os.environ,
                "AFTERSHOCK_JOURNAL": str(journal_root()),
                DAY_LINK: str(self.link),
                TOKEN: token,
            },
            stdin=subprocess.DEVNULL,
            stdout=self._written,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is the day's, which then ends us in order
        )
        self.identity = identity(self.process.pid)

    def wait(self, stop: Callable[[], str], show: TextIO | None = None) -> Outcome:
        """Until it ended: by itself, at its limit, or once `stop` gives a reason."""
        shown = _Shown(self.log, show)
        limit = time.monotonic() + self._step.experiment.limit_s
        ending, why = 0.0, ""
        while self.process.poll() is None:
            now = time.monotonic()
            if not ending:
                late = f"it took longer than its limit, {self._step.experiment.limit_s:g} s"
                why = stop() or (late if now > limit else "")
                if why:
                    ending = now
                    self.process.terminate()
            elif now - ending > LONGEST_END_S:
                self.process.kill()
            shown.more()
            time.sleep(POLL_S)
        shown.more()
        shown.close()
        self._written.close()
        return outcome(self.link, self.log, self.process.returncode, why)


def command(step: Step, log: Path, journal: Path) -> list[str]:
    """`chaos run` as a user types it."""
    told = [f"--var={name}={_as_text(value)}" for name, value in step.variables.items()]
    return [
        *(str(Path(sys.executable).with_name("chaos")), "--log-file", str(log)),
        *("run", str(step.experiment.file), "--journal-path", str(journal)),
        *("--rollback-strategy", "always", *told),
    ]


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def outcome(link: Path, log: Path, status: int, stopped: str = "") -> Outcome:
    """The verdict that a run left; INCONCLUSIVE, with what it said last, where it left none."""
    if not (link / "verdict.json").exists():
        why = stopped or f"it left no verdict: {last_words(log) or f'exit status {status}'}"
        return Outcome(INCONCLUSIVE, why, status)
    try:
        said = read_verdict(link.resolve())
    except Unreadable as error:
        return Outcome(INCONCLUSIVE, stopped or str(error), status)
    reasons = [str(one.get("text")) for one in said["reasons"]]
    names = ("rto_objective_s", "service_rto_s", "service_rto_error_s", "service_rto_censored_s",
             "target", "seed", "leftovers", "title")  # fmt: skip
    detail = {name: said[name] for name in names} | {
        "reasons": reasons,
        "folder": f"{RUNS}/{link.name}",
    }
    detail["faults"] = [str(one.get("fault")) for one in said["injections"]]
    verdict = str(said["verdict"])
    if verdict == "PASS" and status:  # the exit status is a promise of its own
        return Outcome(INCONCLUSIVE, f"PASS, but exit status {status}", status, detail)
    return Outcome(verdict, stopped or next(iter(reasons), ""), status, detail)


def last_words(log: Path) -> str:
    """The last error that a run printed."""
    with contextlib.suppress(OSError):
        text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(encoding="utf-8", errors="replace"))
        said = _SAID.findall(text) or [line for line in text.splitlines() if line.strip()]
        return str(said[-1]).strip()[:300] if said else ""
    return ""


class _Shown:
    """A log that is shown while it grows."""

    def __init__(self, log: Path, show: TextIO | None) -> None:
        self._file = log.open(encoding="utf-8", errors="replace") if show else None
        self._show = show

    def more(self) -> None:
        """What came since; a terminal that is gone is no reason to end."""
        if self._file and self._show:
            with contextlib.suppress(OSError, ValueError):
                self._show.write(self._file.read())
                self._show.flush()

    def close(self) -> None:
        if self._file:
            self._file.close()


def end(child: Mapping[str, Any]) -> None:
    """End a run that outlived its day, gently."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(child["pid"]), signal.SIGTERM)
