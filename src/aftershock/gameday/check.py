"""`aftershock gameday check`: all that can be known of a day before it is held."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aftershock.errors import AftershockError, InvalidInput
from aftershock.gameday.calendar import length, lines_of
from aftershock.gameday.plan import Experiment, Notification, Plan, Step
from aftershock.gameday.plan_file import read_plan
from aftershock.gameday.running import command, last_words
from aftershock.gameday.targets import inventories, told
from aftershock.gameday.told import breaks_hosts, declared, leaves_verdict

DRY_S = 120.0


@dataclass
class Checked:
    """What was found: (mark, what, sentence); a mark is `ok`, `wrong` or `note`."""

    found: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Whether nothing stands in the way."""
        return all(mark != "wrong" for mark, _, _ in self.found)

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        for mark, what, sentence in self.found:
            yield f"{mark:<6} {what}: {sentence}"
        wrong = sum(mark == "wrong" for mark, _, _ in self.found)
        yield "ready" if self.ready else f"{wrong} in the way"

    def look(self, what: str, call: Callable[[], str]) -> None:
        """Take one look in."""
        try:
            self.found.append(("ok", what, call()))
        except AftershockError as error:
            self.found.append(("wrong", what, str(error)))


def check(path: str) -> Checked:
    """Look at everything; `InvalidInput` if the plan itself can't be read."""
    plan = read_plan(path)
    found = Checked()
    steps = plan.steps(plan.seed or 0)  # as many, whatever is drawn
    found.found.append(
        ("ok", "plan", f"{plan.title}: {len(steps)} runs, {length(plan.longest_s)} at most")
    )
    if plan.calendar:
        _dates(plan, found)
    for experiment in plan.experiments:
        _experiment(plan, experiment, found)
    for target, inventory in inventories(steps, plan.path.parent).items():
        on_it = [one for one in steps if told(one, plan.path.parent)[0] == target]
        broken = any(breaks_hosts(one.experiment.file) for one in on_it)
        found.look(f"doctor of {Path(target).name}", lambda i=inventory, b=broken: _doctor(i, b))  # type: ignore[misc]
    for place in plan.notify:
        found.look("news", lambda p=place: _news(p))  # type: ignore[misc]
    return found


def _dates(plan: Plan, found: Checked) -> None:
    calendar, now = plan.calendar, datetime.now(UTC)
    assert calendar

    def overlaps() -> str:
        calendar.check(plan.longest_s, now)
        missed = (
            f"caught up within {length(calendar.catch_up_s)}" if calendar.catch_up_s else "skipped"
        )
        return f"{calendar.cron} in {calendar.zone.key}; a missed date is {missed}"

    found.look("calendar", overlaps)
    found.found += [("note", "next", line) for line in lines_of(calendar, now)]


def _experiment(plan: Plan, experiment: Experiment, found: Checked) -> None:
    """One experiment, dry, with each value that may be drawn for it."""
    for drawn in _draws(experiment):
        words = ", ".join(f"{name}={value}" for name, value in drawn.items())
        what = f"{experiment.name}{f' ({words})' if words else ''}"
        rto = {} if experiment.rto_s is None else {"rto_objective_s": experiment.rto_s}
        step = Step(1, experiment, 1, {**experiment.variables, **drawn, **rto}, drawn, 0.0)
        found.look(what, lambda s=step: _dry(s, plan.path.parent))  # type: ignore[misc]
    if not leaves_verdict(experiment.file):
        why = "it lacks the control aftershock.controls: no run of it is judged, so none passes"
        found.found.append(("wrong", experiment.name, why))
    goal = experiment.rto_s or experiment.variables.get("rto_objective_s")
    if goal is None:
        goal = declared(experiment.file).get("rto_objective_s")
    said = f"back within {goal:g} s" if isinstance(goal, (int, float)) else f"{goal or 'none'}"
    found.found.append(("note", f"{experiment.name}: objective", said))


def _draws(experiment: Experiment) -> Iterator[dict[str, Any]]:
    """Every value at least once, and not every combination of them."""
    most = max((len(values) for values in experiment.choose.values()), default=1)
    for number in range(most):
        yield {name: values[number % len(values)] for name, values in experiment.choose.items()}


def _dry(step: Step, folder: Path) -> str:
    """`chaos run --dry=activities`: settings, blast radius and rights, by the actions' own code."""
    with tempfile.TemporaryDirectory(prefix="aftershock-check-") as place:
        log, printed = Path(place) / "log", Path(place) / "printed"
        line = [*command(step, log, Path(place) / "journal"), "--dry", "activities"]
        with printed.open("wb") as output:
            try:
                done = subprocess.run(
                    line,
                    cwd=folder,
                    env={**os.environ, "AFTERSHOCK_JOURNAL": place},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=DRY_S,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise InvalidInput(f"a dry run took longer than {DRY_S:g} s") from None
        if done.returncode:
            raise InvalidInput(last_words(printed) or f"a dry run ends with {done.returncode}")
    return "a dry run finds nothing in the way"


def _doctor(inventory: object, broken: bool) -> str:
    """`broken`: the plan breaks hosts themselves, not only what Kubernetes runs on them."""
    from aftershock.cluster.lock import rights
    from aftershock.cluster.permissions import missing
    from aftershock.cluster.places import look_up
    from aftershock.doctor import examine
    from aftershock.inventory import Inventory

    assert isinstance(inventory, Inventory)
    target, cluster = look_up(inventory)
    more = ""
    if cluster is not None:
        if missing(cluster, rights(cluster.namespace)):
            more = "; without rights to leases other hosts are not kept from it"
        cluster.close()
    report = examine(target.nodes, target.witness)
    if not report.ready:
        said = " ".join(line.strip() for line in report.lines())
        if broken or cluster is None:
            raise InvalidInput(said)
        return f"the plan breaks no host itself, which would want more: {said}{more}"
    return f"{len(target.nodes)} hosts can do what the network faults need{more}"


def _news(place: Notification) -> str:
    if place.webhook_env and not os.environ.get(place.webhook_env):
        raise InvalidInput(f"{place.name}: the variable is not set here")
    return f"{place.name} (not tried)"
