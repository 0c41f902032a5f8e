"""Journals of runs whose verdicts the project's own code decided and wrote."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from aftershock.cli import main
from aftershock.slo import document
from aftershock.slo.aftermath import Losses
from aftershock.slo.levels import load_levels
from aftershock.slo.recovery import BACK, GIVEN_UP, Recovery
from aftershock.slo.timeline import Timeline
from aftershock.slo.verdict import RunFacts, decide

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
WIDTHS = (1440, 390)
FIRST = datetime(2026, 11, 1, 9, 0)
VERSIONS = {"aftershock": "0.1.0", "locust": "2.47.0"}
VARIABLES = {"zone": "az-a", "load_rps": 40.0, "gateway_port": 18080}
INJECTION = {
    "fault": "partition", "hosts": ["node-a"], "bit": True, "ordered": True, "reverted": True,
    "healed_early": False, "clean": True, "fired_at": "2026-11-01T09:00:10.000+00:00",
    "fired_at_monotonic_s": 1010.0, "evidence": {"pieces": [
        {"name": "dropped", "host": "node-a", "ok": True, "seen": "dropped 21 ingress"}]},
}  # fmt: skip
LEVELS = {k: v for k, v in asdict(load_levels("lab")).items() if v is not None}
Made = Callable[..., Path]
Command = Callable[..., tuple[int, str, str]]


def facts(rto_s: float | None, objective_s: float, **more: Any) -> RunFacts:
    """Of a sound run whose service was back after so long; None: it was not within 30 s."""
    back = Recovery(1010.0, BACK, rto_s=rto_s, error_s=0.02, decided_by="health", held_s=15.0)
    lost = Recovery(1010.0, GIVEN_UP, censored_s=max(30.0, 2 * objective_s))
    known: dict[str, Any] = {
        "rto_objective_s": objective_s, "limit_ms": 1000.0, "injections": [INJECTION],
        "steady_state_met": True, "method_completed": True, "target": "lab", "seed": 7,
        "recovery": lost if rto_s is None else back, "failback": back, "versions": VERSIONS,
        "losses": Losses(5912, 61, 3, 1, {"reset": 50, "timeout": 11}),
        "generator": {"scheduled": 5912, "sent": 5912, "dispatch_lag_p99_ms": 7.2},
        "title": "A zone is lost",
    }  # fmt: skip
    return RunFacts(**{**known, **more})


@contextmanager
def chromium() -> Iterator[Any]:
    """Without a screen."""
    from playwright.sync_api import sync_playwright

    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=CHROMIUM, args=root)
        yield running
        running.close()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty journal, which is the user's."""
    path = tmp_path / "journal"
    path.mkdir()
    monkeypatch.setenv("AFTERSHOCK_JOURNAL", str(path))
    return path


@pytest.fixture
def made(root: Path) -> Made:
    """Add a run to the journal, each an hour after the one before; returns its folder."""

    def make(
        rto_s: float | None = 2.0,
        experiment: str = "az-failure",
        objective_s: float = 15.0,
        variables: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Path:
        began = FIRST + timedelta(hours=len(list(root.iterdir())))
        folder = root / f"{began:%Y%m%dT%H%M%SZ}-{experiment}"
        folder.mkdir()
        run = {
            "experiment": experiment,
            "started_at": f"{began.isoformat()}+00:00",
            "command": f"chaos run experiments/{experiment}.json",
            "variables": {**VARIABLES, **(variables or {})},
            "levels": LEVELS,
            "zones": {"node-a": "az-a", "node-b": "az-b"},
        }
        told = facts(rto_s, objective_s, **{"run": run, **more})
        document.write(folder / "verdict.json", document.document(told, decide(told)))
        return folder

    return make


def timeline_of(folder: Path) -> Timeline:
    """A short timeline with a fault in its middle, on disk too."""
    made = Timeline(folder / "timeline.jsonl")
    for mark, at in {"phase:steady": 1000.0, "t_effect": 1010.0, "t_healed": 1020.0}.items():
        made.mark(mark, at)
    times = [1000.0 + n / 10 for n in range(300)]
    bad = ["timeout" if 1010 <= at < 1012 else "" for at in times]
    made.feed(
        {"source": "health", "decided": 1030.0, "rate": 10.0, "sent": times, "scheduled": times,
         "done": [at + 0.1 for at in times], "kind": bad}
    )  # fmt: skip
    return made


@pytest.fixture
def aftershock(capsys: pytest.CaptureFixture[str]) -> Command:
    """The console script: its exit status, what it printed and what it complained of."""

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            main(list(arguments))
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        return (status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here (Debian: chromium); CI has one")
    with chromium() as running:
        yield running


@pytest.fixture(params=WIDTHS)
def opened(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Opens a file at one width, offline; nothing may be complained of, nor asked of a network."""
    context = browser.new_context(viewport={"width": request.param, "height": 844}, offline=True)
    page, complaints = context.new_page(), []
    page.on("console", lambda said: complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith("http") and complaints.append(asked.url))

    def open_file(path: Path) -> Any:
        page.goto(path.as_uri())
        return page

    yield open_file
    context.close()
    assert not complaints
