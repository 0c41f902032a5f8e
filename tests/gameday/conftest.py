"""Days of tiny experiments, which the real `chaos run` runs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftershock.gameday.commands import Wish, hold
from aftershock.gameday.record import Told, days

HERE = Path(__file__).parent
AFTERSHOCK = Path(sys.executable).with_name("aftershock")


def experiment(note: str = "notes") -> dict[str, Any]:
    """As users write them, but tiny."""
    told = {"verdict": "${verdict}", "hold_s": "${hold_s}", "note": note}
    return {
        "title": "Something tiny breaks",
        "description": "And is healed.",
        "configuration": {
            "target": "lab",
            "verdict": "PASS",
            "hold_s": 0,
            "zone": "az-a",
            "rto_objective_s": 15,
        },
        "method": [_activity("break_something", told)],
        "rollbacks": [_activity("heal", {"note": note})],
    }


def _activity(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    provider = {"type": "python", "module": "tiny", "func": name, "arguments": arguments}
    return {"type": "action", "name": name, "provider": provider}


class Site:
    """A folder with a plan, and what came of its days."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan = folder / "plan.yaml"
        self.printed = io.StringIO()
        self.journal = folder / "journal"
        self.journal.mkdir()

    def write(self, *experiments: dict[str, Any], **more: Any) -> Path:
        """A plan of these experiments, each with a tiny file of its own unless it names one."""
        listed = []
        for number, one in enumerate(experiments, 1):
            name = one.get("name", f"tiny-{number}")
            (self.folder / f"{name}.json").write_text(json.dumps(experiment(f"{name}.notes")))
            listed.append({"name": name, "file": f"{name}.json", **one})
        told = {"title": "A day of tiny things", "owner": "Ops <ops@example.org>"}
        self.plan.write_text(yaml.safe_dump({**told, **more, "experiments": listed}))
        return self.plan

    def hold(self, **wish: Any) -> bool:
        """Hold the day here."""
        return hold(str(self.plan), Wish(**wish), self.printed)

    @contextmanager
    def held(
        self, *options: str, stdin: int = subprocess.DEVNULL
    ) -> Iterator[subprocess.Popen[bytes]]:
        """The day in a process of its own, as a user starts it."""
        with (self.folder / "printed").open("ab") as log:
            process = subprocess.Popen(
                [AFTERSHOCK, "gameday", "run", self.plan, *options],
                stdin=stdin,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    @property
    def day(self) -> Path:
        """The last day's folder."""
        return list(days())[-1][0]

    @property
    def told(self) -> Told:
        """What the last day's record says, if one has begun."""
        return next((told for _, told in reversed(list(days()))), Told())

    def verdicts(self) -> dict[str, str]:
        """Run → what became of it."""
        return {key: run.verdict for key, run in self.told.runs.items()}

    def notes(self, name: str) -> list[str]:
        """What an experiment did: broken, healed."""
        path = self.journal / f"{name}.notes"
        return path.read_text().split() if path.exists() else []


def until(truth: Callable[[], Any], within_s: float = 60.0) -> Any:
    """Wait until it is true."""
    end = time.monotonic() + within_s
    while not (found := truth()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)
    return found


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    return Site(tmp_path)
