"""The end of a run: heal, stop, take down, decide, write it all down and say it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftershock.ledger import undoes
from aftershock.report.forms import FORMS
from aftershock.report.record import Record
from aftershock.report.sentences import summary
from aftershock.run import judging
from aftershock.slo import document
from aftershock.slo.verdict import INCONCLUSIVE, RunFacts, decide

if TYPE_CHECKING:
    from aftershock.run.session import Run

logger = logging.getLogger("chaostoolkit")


def close(run: Run, journal: dict[str, Any], interrupted_by: list[str]) -> str:
    """Every step whatever becomes of the others; returns the verdict's word."""
    problems = run.problems

    def step(name: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            logger.debug("%s failed", name, exc_info=True)
            problems.append(f"{name}: {error}")
            return None

    step("heal", run.breaking.heal_everything)
    step("phase", lambda: run.phase("stopping"))
    step("watching", run.watcher.stop)
    step("workload", run.workload.close)
    step("load", run.load.stop)
    step("logs", run.keep_logs)
    found = step("judging", lambda: judging.facts(run, journal, interrupted_by))
    if run.lock:  # before the way to its cluster goes
        step("lease", run.lock.leave_cluster)
    left = run.target.down()
    if run.lock:
        step("lock", run.lock.release)
    facts = replace(
        found or bare_facts(run, interrupted_by), control_errors=tuple(problems), leftovers=left
    )
    step("timeline", run.timeline.close)
    if step("verdict.json", lambda: write_verdict(run, facts)):
        # Until then `recover` would tell that there was no verdict.
        step("ledger", run.close_ledger)
    if len(problems) > len(facts.control_errors):  # what is not on record whole is no PASS
        facts = replace(facts, control_errors=tuple(problems))
        step("verdict.json", lambda: write_verdict(run, facts))
    content = judged(run, facts)
    record = recorded(run, content)
    written = [step(name, partial(write_form, run, name, record)) for name in FORMS]
    run.console.end(content["verdict"], [*summary(content), *map(str, filter(None, written[:1]))])
    return str(content["verdict"])


def judged(run: Run, facts: RunFacts) -> dict[str, Any]:
    """The content of verdict.json."""
    return document.document(facts, decide(facts))


def write_verdict(run: Run, facts: RunFacts) -> Path:
    """verdict.json."""
    return run.folder.write_json("verdict.json", judged(run, facts))


def recorded(run: Run, content: Mapping[str, Any]) -> Record:
    """What the reports are made of."""
    return Record(content, run.timeline, run.levels, run.told["zones"], run.checks)


def write_form(run: Run, name: str, record: Record) -> Path:
    """One form of the report beside the verdict."""
    return run.folder.write_text(name, FORMS[name](record))


def bare_facts(run: Run, interrupted_by: list[str]) -> RunFacts:
    """What is known when nothing could be judged."""
    return RunFacts(
        run.settings.rto_objective_s,
        run.levels.limit_s * 1000,
        interrupted_by=interrupted_by,
        seed=run.settings.seed,
        title=run.title,
        run=run.told,
    )


@undoes("verdict")
def leave_a_verdict(undo: Mapping[str, Any]) -> str:
    """For `recover`: a run whose controller died is INCONCLUSIVE, and its folder says so."""
    facts = RunFacts(
        rto_objective_s=undo["rto_objective_s"],
        limit_ms=undo["limit_ms"],
        control_errors=["the controller died before the run was judged"],
        target=undo["target"],
        seed=undo["seed"],
        versions=judging.versions(),
        title=undo.get("title", ""),
        run=undo.get("run", {}),
    )
    folder = Path(undo["folder"])
    if not folder.is_dir() or (folder / "verdict.json").exists():
        return f"its folder {folder} is gone, or has a verdict already"
    document.write(folder / "verdict.json", document.document(facts, decide(facts)))
    return f"the controller died before it was judged: {INCONCLUSIVE}, see {folder}"
