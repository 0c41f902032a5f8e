"""The Chaos Toolkit control: lab, load, journal and verdict around a run.

Experiments name it as `{"type": "python", "module": "aftershock.controls"}`. Chaos Toolkit swallows
what a control raises, except `InterruptExecution`: with it a run that can't begin ends with one
sentence before anything was touched. `status` and `deviated`, set when the experiment ends, decide
the exit status of `chaos run`: 0 for PASS only.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from chaoslib.exceptions import InterruptExecution
from chaoslib.run import EventHandlerRegistry, RunEventHandler

from aftershock.controls import dry
from aftershock.controls.interrupts import Interrupts
from aftershock.errors import AftershockError

logger = logging.getLogger("chaostoolkit")


class _Session(RunEventHandler):  # type: ignore[misc]
    """What the hooks of one experiment share."""

    def __init__(self) -> None:
        self.interrupts = Interrupts()
        self.run: Any = None
        self.foresight: Any = None
        self.journal: dict[str, Any] = {}
        self.ended = False

    def running(
        self,
        experiment: Any,
        journal: dict[str, Any],
        configuration: Any,
        secrets: Any,
        schedule: Any,
        settings: Any,
    ) -> None:
        """Keep the live journal: it is written after every activity, so SIGKILL loses nothing."""
        self.journal = journal


_sessions: list[_Session] = []


def _session() -> _Session:
    if not _sessions:
        _sessions.append(_Session())
    return _sessions[-1]


def configure_control(event_registry: EventHandlerRegistry = None) -> None:
    """Begin to listen; nothing is started before the experiment is."""
    _sessions[:] = [_Session()]
    if event_registry is not None:
        event_registry.register(_session())


def before_experiment_control(
    context: Mapping[str, Any],
    configuration: Mapping[str, Any] | None = None,
    secrets: Mapping[str, Any] | None = None,
) -> None:
    """Check the settings, start lab and load, and watch the steady state for a while."""
    if dry.kind_of(context):
        _session().foresight = dry.begin(context, configuration or {})
        return
    dry.warn(context)
    from aftershock.run.session import Run

    session = _session()
    session.interrupts.install()
    try:
        title, method = str(context.get("title", "experiment")), context.get("method") or ()
        declared = context.get("configuration")
        session.run = Run.prepare(configuration or {}, title, method, declared, secrets)
        session.run.begin()
    except Exception as error:
        logger.debug("the run could not begin", exc_info=True)
        known = isinstance(error, AftershockError)
        said = str(error) if known else f"the run could not begin: {type(error).__name__}: {error}"
        if session.run is not None:
            session.run.problems.append(said)
        raise InterruptExecution(said) from error


def before_activity_control(
    context: Mapping[str, Any],
    experiment: Mapping[str, Any],
    configuration: Mapping[str, Any] | None = None,
) -> None:
    """In a dry run, say what would be done, and to what, by name."""
    if dry.kind_of(experiment):
        dry.tell(_session().foresight, context, configuration or {})


def after_activity_control(context: Mapping[str, Any], state: Any) -> None:
    """Write the journal as it stands; the verdict tells of a failure, here nobody would see it."""
    del context, state
    session = _session()
    if session.run is not None:
        with session.run.noting("journal"):
            session.run.write_journal(session.journal)


def before_rollback_control(context: Mapping[str, Any]) -> None:
    """From here on nothing is cut short: rollbacks are bounded and must all run."""
    del context
    _session().interrupts.shield()


def after_experiment_control(context: Mapping[str, Any], state: dict[str, Any]) -> None:
    """Revert what is left, take everything down, decide, and make the exit status say so."""
    if dry.kind_of(context):
        if _session().foresight is not None:
            _session().foresight.target.down()
        dry.judge(state)
        return
    session = _session()
    session.interrupts.shield()
    session.ended = True
    if session.run is None:
        state["status"] = "interrupted"
        return
    try:
        word = session.run.finish(state, interrupted_by=session.interrupts.received)
    except Exception as error:
        logger.debug("the run could not be closed", exc_info=True)
        logger.error("no verdict: %s: %s", type(error).__name__, error)
        word = "INCONCLUSIVE"
    if word == "FAIL":
        state["deviated"] = True
    if word != "PASS" and state.get("status") == "completed":
        state["status"] = "failed"
    with session.run.noting("journal"):
        session.run.write_journal(state)


def cleanup_control() -> None:
    """Called however the run ended; closes what an interruption between two hooks left open."""
    session = _session()
    try:
        if session.run is not None and not session.ended:
            session.interrupts.shield()
            session.ended = True
            session.run.finish(session.journal, interrupted_by=session.interrupts.received)
    finally:
        session.interrupts.restore()
        _sessions.clear()
