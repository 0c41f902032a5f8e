"""A run without load and without a verdict: what actions call in it is real, and what it writes."""

import contextlib
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aftershock.ledger import Ledger
from aftershock.run.breaking import Breaking
from aftershock.run.console import Console
from aftershock.run.folder import RunFolder
from aftershock.run.injecting import Injections
from aftershock.run.settings import Settings
from aftershock.slo.timeline import Timeline


def bare_run(target: Any, book: Ledger, settings: Settings, folder: Path) -> Any:
    """Its timeline is in `folder`; `run.said()` is what its console shows."""
    timeline, shown = Timeline(folder / "timeline.jsonl"), io.StringIO()
    run = SimpleNamespace(
        target=target,
        settings=settings,
        timeline=timeline,
        console=Console(shown),
        said=shown.getvalue,
        watcher=SimpleNamespace(paused=contextlib.nullcontext),
        folder=RunFolder.create("bare"),
        noting=lambda step: contextlib.nullcontext(),
        phase=lambda name: timeline.mark(f"phase:{name}"),
    )
    run.breaking = Breaking(run)  # type: ignore[arg-type]
    run.breaking.begin(Injections(target, book, settings))
    return run
