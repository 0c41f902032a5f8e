"""A dry run: nothing is started and nothing broken; what would be touched is told by name."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from chaoslib import substitute
from chaoslib.exceptions import InterruptExecution

from aftershock.errors import AftershockError, InvalidInput

if TYPE_CHECKING:
    from aftershock.run.foresight import Foresight

logger = logging.getLogger("chaostoolkit")

_PLAYS = {"actions": "probe", "probes": "action"}  # what a dry run of the one plays of the other

Activity = Mapping[str, Any]


def kind_of(experiment: Mapping[str, Any]) -> str:
    """Chaos Toolkit's word for what is left out; none where the run is a real one."""
    kind = _word(experiment)
    return "" if kind == "pause" else kind


def warn(experiment: Mapping[str, Any]) -> None:
    """One of Chaos Toolkit's dry runs is none."""
    if _word(experiment) == "pause":
        logger.warning("--dry=pause leaves out the pauses alone: this run breaks what it says")


def _word(experiment: Mapping[str, Any]) -> str:
    return str(getattr(experiment.get("dry"), "value", experiment.get("dry")) or "")


def begin(experiment: Mapping[str, Any], configuration: Mapping[str, Any]) -> Foresight:
    """What looks ahead: nothing is started, and a target's API is only asked.

    A dry run that would play activities of ours ends here, after it told what would be touched:
    there is no run that they could look at or act in.
    """
    from aftershock.run.foresight import Foresight
    from aftershock.run.loading import profile_of
    from aftershock.run.settings import Settings
    from aftershock.run.target import Target

    logger.info("dry run: no lab, no load, no verdict")
    with _interrupting():
        settings = Settings.from_configuration(configuration)
        profile_of(settings)
        target = Target(settings)
        try:
            target.check(dry=True)
            foresight = Foresight(settings, target)
            _refuse(experiment, foresight, configuration)
        except BaseException:
            target.down()
            raise
        return foresight


def _refuse(experiment: Activity, foresight: Foresight, configuration: Activity) -> None:
    kind = kind_of(experiment)
    played = [one for one in _activities(experiment) if one.get("type") == _PLAYS.get(kind)]
    if not any(_is_aftershocks(one) for one in played):
        return
    for one in experiment.get("method") or ():
        tell(foresight, one, configuration)
    raise InvalidInput(
        f"--dry={kind} plays the {_PLAYS[kind]}s, and without a run there is nothing for them to "
        "see or do: --dry=activities plays neither"
    )


def tell(foresight: Foresight | None, activity: Activity, configuration: Activity) -> None:
    """Say what an activity would do, and to what, by name."""
    from aftershock.run.foresight import is_ours

    provider = activity.get("provider", {})
    told = substitute(dict(provider.get("arguments") or {}), configuration, {}) or {}
    logger.info(
        "would run %s.%s(%s)",
        provider.get("module"),
        provider.get("func"),
        ", ".join(f"{k}={v!r}" for k, v in told.items()),
    )
    if foresight is not None and activity.get("type") == "action" and is_ours(activity):
        with _interrupting():
            for line in foresight.expect(activity, configuration):
                logger.info("  would touch: %s", line)


def judge(state: dict[str, Any]) -> None:
    """An activity that was played, and failed, ends a dry run with another status than 0."""
    from aftershock.run.judging import activity_errors

    if state.get("status") == "completed" and activity_errors(state):
        state["status"] = "failed"


def _activities(experiment: Mapping[str, Any]) -> list[Activity]:
    hypothesis = experiment.get("steady-state-hypothesis") or {}
    return [*(hypothesis.get("probes") or ()), *(experiment.get("method") or ())]


def _is_aftershocks(activity: Activity) -> bool:
    return str((activity.get("provider") or {}).get("module")).startswith("aftershock.")


@contextlib.contextmanager
def _interrupting() -> Iterator[None]:
    """What is wrong ends the experiment with its sentence: else nobody would hear of it."""
    try:
        yield
    except AftershockError as error:
        raise InterruptExecution(str(error)) from error
    except Exception as error:
        logger.debug("the dry run could not look ahead", exc_info=True)
        said = f"the dry run could not look ahead: {type(error).__name__}: {error}"
        raise InterruptExecution(said) from error
