"""Gates and safeguards: a question is asked of the world, and the answer is go or no-go.

What can't be asked is a no: a day goes on only where it is known that it may.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aftershock import ledger, lock
from aftershock.errors import AftershockError
from aftershock.gameday import web
from aftershock.gameday.plan import Question
from aftershock.gameday.shell import shell

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_LONGEST = 200  # characters of an answer that are kept


@dataclass(frozen=True, slots=True)
class Answer:
    """`go`: whether the day may go on; `value`: what was found; `asked`: whether it could be."""

    name: str
    go: bool
    value: str
    asked: bool = True

    def __str__(self) -> str:
        return f"{self.name}: {'go' if self.go else 'no-go'} ({self.value})"


@dataclass(frozen=True, slots=True)
class World:
    """What questions are asked in: the plan's folder, the experiment's variables, our lock."""

    folder: Path
    variables: Mapping[str, Any]
    token: str = ""


def ask(question: Question, world: World) -> Answer:
    """The answer; never raises for what the world does."""
    asked = question.filled(world.variables)
    try:
        if asked.command:
            return _command(asked, world)
        if asked.url:
            return _url(asked)
        if asked.ready_outside is not None:
            return _ready(asked, world)
        return _alone(asked, world)
    except (AftershockError, OSError, ValueError) as error:
        reason = str(error) or type(error).__name__
        return Answer(question.name, False, f"could not be asked: {reason[:_LONGEST]}", asked=False)


def _command(question: Question, world: World) -> Answer:
    assert question.command
    status, text = shell(question.command, world.folder, question.timeout_s)
    shown = text.splitlines()[-1][:_LONGEST] if text else f"exit status {status}"
    if status:
        more = f", exit status {status}" if text else ""
        return Answer(question.name, False, shown + more)
    return _judged(question, text, shown)


def _url(question: Question) -> Answer:
    assert question.url
    token = os.environ.get(question.token_env, "") if question.token_env else ""
    if question.token_env and not token:
        raise ValueError(f"the variable {question.token_env} is not set")
    status, text = web.get(question.url, token, question.timeout_s)
    if not 200 <= status < 300:
        return Answer(question.name, False, f"HTTP {status}")
    if question.json:
        text = _within(json.loads(text), question.json)
    bounds = (question.at_least, question.at_most, question.equals, question.contains)
    plain = all(one is None for one in bounds)
    return _judged(question, text, f"HTTP {status}" if plain else text[:_LONGEST])


def _within(said: Any, way: str) -> str:
    """A value by its way through an answer, `data.0.value`; a list or mapping as its length."""
    for part in way.split("."):
        try:
            said = said[int(part)] if isinstance(said, list) else said[part]
        except (KeyError, IndexError, TypeError, ValueError):
            raise ValueError(f"its answer has no {way!r} (nothing at {part!r})") from None
    return str(len(said)) if isinstance(said, (list, dict)) else str(said)


def _ready(question: Question, world: World) -> Answer:
    """How many pods are ready outside a zone; the lab builds its own anew."""
    target = str(world.variables.get("target", "lab"))
    if target == "lab":
        return Answer(question.name, True, "the lab begins with all of its replicas ready")
    from aftershock.cluster.places import look_up
    from aftershock.inventory_file import read_inventory

    path = world.folder / target
    inventory, cluster = look_up(read_inventory(path))
    if cluster is None:
        raise ValueError(f"{target} has no Kubernetes API to count ready pods by")
    with contextlib.closing(cluster):
        zones = cluster.zone_of_nodes()
        zone = question.ready_outside
        pods = cluster.pods(question.selector or inventory.selector)
        ready = [one for one in pods if one.ready and one.runs and zones.get(one.node) != zone]
    return _judged(question, str(len(ready)), f"{len(ready)} ready outside {zone}")


def _alone(question: Question, world: World) -> Answer:
    """No other run on this host: by the ledger, and by who holds a target."""
    others = lock.holders(world.token)
    going = [run for run in ledger.runs() if run.is_going_on()]
    known = {os.getpid(), *(one["pid"] for one in others)}
    more = [run for run in going if run.controller and run.controller["pid"] not in known]
    found = [*(f"{one['what']} (process {one['pid']})" for one in others)]
    found += [f"the run {run.run_id}" for run in more]
    return Answer(question.name, not found, ", ".join(found) or "none")


def _judged(question: Question, text: str, shown: str) -> Answer:
    """Whether an answer is a yes by the question's own bounds."""
    wrong = []
    if question.at_least is not None or question.at_most is not None:
        numbers = _NUMBER.findall(text)
        if not numbers:
            raise ValueError(f"no number in its answer {shown!r}")
        value = float(numbers[-1])
        if question.at_least is not None and value < question.at_least:
            wrong.append(f"below {question.at_least:g}")
        if question.at_most is not None and value > question.at_most:
            wrong.append(f"above {question.at_most:g}")
    if question.equals is not None and text != question.equals:
        wrong.append(f"not {question.equals!r}")
    if question.contains is not None and question.contains not in text:
        wrong.append(f"without {question.contains!r}")
    return Answer(question.name, not wrong, ", ".join([shown, *wrong]) if wrong else shown)
