"""What a day's record says, in words: for its page, its Markdown and the terminal alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from aftershock.gameday.calendar import length
from aftershock.gameday.record import SKIPPED, RunTold, Told
from aftershock.report.sentences import count

LATER = "not begun"


def runs(told: Told) -> list[RunTold]:
    """Every run that was planned, in order, with what became of it."""
    return [
        told.runs.get(key) or RunTold(key, LATER, why=told.stopped)
        for key in told.begun.get("runs") or ()
    ]


def headline(told: Told) -> str:
    """The day in one sentence."""
    planned = runs(told)
    passed = sum(run.verdict == "PASS" for run in planned)
    if not told.held:
        return f"the day did not begin: {told.stopped}"
    said = f"{passed} of {count(len(planned), 'run')} passed"
    if told.stopped:
        return f"{said}; the day ended early: {told.stopped}"
    if told.ended is None:
        return f"{said}; the day {'goes on' if told.is_going_on else 'was cut off'}"
    return said


def objective(run: RunTold) -> str:
    """What a run was held to."""
    goal = run.detail.get("rto_objective_s")
    return f"{goal:g} s" if isinstance(goal, (int, float)) else "–"


def recovery(run: RunTold) -> str:
    """A run's recovery time with its error."""
    rto, error = run.detail.get("service_rto_s"), run.detail.get("service_rto_error_s")
    if isinstance(rto, (int, float)):
        return f"{rto:.2f} s" + (f" ± {error:.2f}" if isinstance(error, (int, float)) else "")
    censored = run.detail.get("service_rto_censored_s")
    return f"> {censored:g} s" if isinstance(censored, (int, float)) else "–"


def state(run: RunTold) -> str:
    """One word for a run."""
    return run.verdict or ("goes on" if run.state == "begun" else run.state)


def drawn(told: Told, run: RunTold) -> str:
    """What chance chose for a run."""
    begun = [one for one in told.events if one["event"] == "run begun" and one["run"] == run.key]
    found = begun[-1]["drawn"] if begun else {}
    return ", ".join(f"{name}={value}" for name, value in found.items())


def gates(told: Told) -> list[tuple[str, str, str, str, str]]:
    """Clock, run, gate, go or no-go, and the value that was found."""
    return [
        (clock(one["at"]), one["run"], one["name"], "go" if one["go"] else "no-go", one["value"])
        for one in told.events
        if one["event"] == "gate"
    ]


def decisions(told: Told) -> list[tuple[str, str]]:
    """Clock and sentence of all that was decided or done."""
    return [(clock(one["at"]), _sentence(one)) for one in told.events if one["event"] != "notified"]


def _sentence(one: Mapping[str, Any]) -> str:
    told = _SENTENCES.get(one["event"])
    return told(one) if told else str(one["event"])


_SENTENCES: Mapping[str, Any] = {
    "begun": lambda e: (
        f"begun by {e['controller']['user']} on {e['controller']['host']}, "
        f"{count(len(e['runs']), 'run')}, seed {e['seed']}"
    ),
    "resumed": lambda e: (
        f"gone on with by {e['controller']['user']} on {e['controller']['host']}: the process that "
        "held it had died"
    ),
    "missed": lambda e: f"the date {e['date']} was missed, and is skipped as the plan says",
    "occupied": lambda e: f"does not go on: {e['why']}",
    "left out": lambda e: f"rehearsal: {e['what']}",
    "recovered": lambda e: f"looked for what was left: {e['what']}",
    "pause": lambda e: f"{e['run']}: pause of {length(e['seconds'])}",
    "gate": lambda e: (
        f"{e['run']}: gate {e['name']}: {'go' if e['go'] else 'no-go'} ({e['value']})"
    ),
    "asked": lambda e: f"{e['run']}: {e['text']} (within {length(e['within_s'])})",
    "answered": lambda e: f"answered {'yes' if e['yes'] else 'no'} by {e['by']}",
    "refused": lambda e: f"{e['what']} by {e['by']} refused: the plan does not name them",
    "run begun": lambda e: f"{e['run']}: begins",
    "run ended": lambda e: f"{e['run']}: {e['verdict']}{': ' if e['why'] else ''}{e['why']}",
    "run skipped": lambda e: f"{e['run']}: skipped: {e['why']}",
    "stopped": lambda e: f"the day ends early: {e['why']}",
    "ended": lambda e: f"ended: {e['verdict']}",
}


def follow_ups(told: Told) -> Iterator[str]:
    """What somebody has to look at after the day."""
    for run in runs(told):
        if run.state == LATER:
            yield f"{run.key} did not begin: run it with --only, or hold the day again"
        elif run.verdict == SKIPPED:
            yield f"{run.key} was skipped: {run.why}"
        elif run.verdict and run.verdict != "PASS":
            yield f"{run.key} is {run.verdict}: {run.why}"
            reasons = run.detail.get("reasons") or ()
            if run.why in reasons:  # of a run that the day ended, they only say so
                yield from (f"{run.key}: {more}" for more in reasons if more != run.why)
        for left in run.detail.get("leftovers") or ():
            yield f"{run.key} left {left} behind: `aftershock recover`"
    for one in told.events:
        if one["event"] == "notified" and not one["there"]:
            yield (
                f"news did not get to {one['name']} in {count(one['tries'], 'attempt')}: "
                f"{one['why']} ({one['text']})"
            )
        if one["event"] == "missed":
            yield f"the date {one['date']} was missed: was the scheduler down?"


def lasted(told: Told) -> str:
    """How long the day took, up to its last event."""
    if not told.events:
        return "–"
    first, last = (datetime.fromisoformat(told.events[place]["at"]) for place in (0, -1))
    return length((last - first).total_seconds())


def clock(at: str) -> str:
    """A moment's time of day, UTC."""
    return at[11:19]
