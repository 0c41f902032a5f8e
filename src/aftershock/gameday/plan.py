"""What a game day is to do, as its plan file says; pure data."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import urlsplit

from aftershock.gameday.calendar import Calendar

SKIP, END = "skip", "end"


@dataclass(frozen=True, slots=True)
class Question:
    """What a gate or a safeguard asks of the world; exactly one of `WAYS` is set.

    `command` is a shell's line, `url` is fetched, `ready_outside` counts the ready pods in other
    zones than the one named, `alone` looks for other runs here. `at_least`, `at_most`, `equals` and
    `contains` say which answer is a yes; without them exit status 0 or HTTP 2xx is one. `json` is
    the way to a value in a URL's answer, `token_env` the variable that holds its bearer token.
    `otherwise` is what becomes of the experiment at a no: `skip` it, or `end` the day.
    """

    name: str
    command: str | None = None
    url: str | None = None
    ready_outside: str | None = None
    alone: bool = False
    json: str = ""
    selector: str = ""
    token_env: str = ""
    at_least: float | None = None
    at_most: float | None = None
    equals: str | None = None
    contains: str | None = None
    timeout_s: float = 10.0
    every_s: float = 5.0
    otherwise: str = SKIP

    def filled(self, variables: Mapping[str, Any]) -> Question:
        """With `${zone}` and its like replaced by the experiment's variables."""

        def fill(text: str | None) -> str | None:
            return None if text is None else Template(text).safe_substitute(variables)

        return replace(
            self,
            command=fill(self.command),
            url=fill(self.url),
            ready_outside=fill(self.ready_outside),
        )


WAYS = ("command", "url", "ready_outside", "alone")


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A question for people; no answer within `within_s` means no."""

    ask: str
    within_s: float


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment of a day. `choose`: variable → values, of which each repetition draws one.

    `pause_s`: the shortest and the longest time before each repetition, drawn too. `limit_s`: a
    run that takes longer is ended, and healed.
    """

    name: str
    file: Path
    variables: Mapping[str, Any] = field(default_factory=dict)
    choose: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    repeat: int = 1
    pause_s: tuple[float, float] = (0.0, 0.0)
    gates: tuple[Question, ...] = ()
    confirm: Confirmation | None = None
    rto_s: float | None = None
    limit_s: float = 1800.0
    defaults: Mapping[str, Any] = field(default_factory=dict)  # its own, where they are plain

    @property
    def longest_s(self) -> float:
        """The most that all its repetitions may take."""
        asked = self.confirm.within_s if self.confirm else 0.0
        return self.repeat * (self.pause_s[1] + asked + self.limit_s)


@dataclass(frozen=True, slots=True)
class Notification:
    """Where the day's news go: a webhook (itself, or a variable that holds it), or a command."""

    webhook: str | None = None
    webhook_env: str | None = None
    command: str | None = None

    @property
    def name(self) -> str:
        """What it is called in the record: a webhook's address is a secret."""
        where = urlsplit(self.webhook or "").hostname
        return self.command or f"webhook {self.webhook_env or where}"


@dataclass(frozen=True, slots=True)
class Step:
    """One run of the day: an experiment's repetition with all that was drawn for it."""

    number: int
    experiment: Experiment
    repetition: int
    variables: Mapping[str, Any]
    drawn: Mapping[str, Any]
    pause_s: float

    @property
    def key(self) -> str:
        """What it is called in the record, the same after a restart."""
        return f"{self.number:02d}-{self.experiment.name}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A game day. `variables` go to every experiment that lists them in its configuration."""

    path: Path
    title: str
    owner: str
    experiments: tuple[Experiment, ...]
    may_abort: tuple[str, ...] = ()
    may_confirm: tuple[str, ...] = ()
    seed: int | None = None
    calendar: Calendar | None = None
    gates: tuple[Question, ...] = ()
    safeguards: tuple[Question, ...] = ()
    notify: tuple[Notification, ...] = ()

    @property
    def longest_s(self) -> float:
        """The most that a whole day may take."""
        return sum(one.longest_s for one in self.experiments)

    def steps(self, seed: int, only: Sequence[str] = ()) -> list[Step]:
        """The day's runs in order; the same seed draws the same."""
        found: list[Step] = []
        number = 0
        for experiment in self.experiments:
            for repetition in range(1, experiment.repeat + 1):
                number += 1
                if only and experiment.name not in only:
                    continue
                chance = random.Random(f"{seed}/{experiment.name}/{repetition}")
                drawn = {name: chance.choice(values) for name, values in experiment.choose.items()}
                pause_s = round(chance.uniform(*experiment.pause_s), 1)
                told = {**experiment.variables, **drawn}
                if experiment.rto_s is not None:
                    told["rto_objective_s"] = experiment.rto_s
                found.append(Step(number, experiment, repetition, told, drawn, pause_s))
        return found
