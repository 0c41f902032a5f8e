"""A tiny experiment's activities: they leave a verdict as a run of ours does, and tell who healed.

For experiments that put this folder on PYTHONPATH.
"""

import json
import os
import time
from pathlib import Path

from aftershock.run.folder import RunFolder
from aftershock.slo.document import document
from aftershock.slo.verdict import RunFacts, decide


def break_something(verdict: str, hold_s: float, note: str) -> str:
    """Take so long, then leave that verdict; `note` is a file's name for what happened."""
    folder = RunFolder.create("tiny")
    folder.link_from_game_day()
    _note(note, "broken")
    time.sleep(float(hold_s))
    facts = RunFacts(rto_objective_s=15, limit_ms=1000, target="tiny", seed=1, title="tiny")
    said = {**document(facts, decide(facts)), "verdict": verdict, "service_rto_s": 1.5}
    if verdict == "PASS":
        said["reasons"] = []
    (folder.path / "verdict.json").write_text(json.dumps(said))
    return str(folder.path)


def heal(note: str) -> str:
    """The rollback."""
    _note(note, "healed")
    return "healed"


def _note(note: str, word: str) -> None:
    with Path(os.environ["AFTERSHOCK_JOURNAL"], note).open("a") as file:
        file.write(f"{word}\n")
