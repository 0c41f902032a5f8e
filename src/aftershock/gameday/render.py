"""A plan for the scheduler that is there already: a CronJob, a systemd timer, or cron's line.

Each runs `aftershock gameday run PLAN --scheduled`, which itself knows what is due: windows,
black-out dates and what was missed are looked at there, so one that wakes too often does no harm.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from cronsim import CronSim

from aftershock.errors import InvalidInput
from aftershock.gameday.calendar import DAYS, Calendar
from aftershock.gameday.plan import Plan
from aftershock.gameday.plan_file import read_plan
from aftershock.gameday.targets import inventories

_LOOKED_AT = 2000  # dates, for those that the clocks shift
_LARGEST = 1_000_000  # bytes that a ConfigMap may hold
_MOUNTED, _KEPT = "/etc/aftershock/gameday", "/var/lib/aftershock"
GRACE_S = 300  # for the current run to be healed and judged


@dataclass(frozen=True, slots=True)
class Pod:
    """How the CronJob's pod is to be. `claim`: a PersistentVolumeClaim that keeps records and
    journal, without which a day can't be gone on with, and a missed date isn't known."""

    image: str
    namespace: str = "aftershock"
    account: str = "controller"
    claim: str = ""


def rendered(
    path: str,
    to: str,
    out: str | None = None,
    image: str | None = None,
    **pod: str,
) -> Iterator[str]:
    """The files for a scheduler, as text or (`out`) in a folder; what a dated plan would refuse is
    refused here."""
    plan = read_plan(path)
    _calendar(plan).check(plan.longest_s, datetime.now(UTC))
    if to == "kubernetes":
        if not image:
            raise InvalidInput("--image: name one that has aftershock in it")
        files = {f"{_name(plan)}.yaml": kubernetes(plan, Pod(image, **pod))}
    else:
        files = systemd(plan) if to == "systemd" else {f"{_name(plan)}.cron": cron(plan)}
    for name, text in files.items():
        if out is None:
            yield f"# {name}" if len(files) > 1 else ""
            yield text
            continue
        folder = Path(out)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise InvalidInput(f"{folder / name} can't be written: {error.strerror}") from None
        yield str(folder / name)


def kubernetes(plan: Plan, pod: Pod) -> str:
    """A ConfigMap with the plan and its files, and the CronJob."""
    calendar = _calendar(plan)
    name = _name(plan)
    _nothing_elsewhere(plan)
    contents = _files(plan)
    keys = {path: f"{number}-{Path(path).name}" for number, path in enumerate(contents)}
    shared = {"namespace": pod.namespace, "labels": {"app.kubernetes.io/managed-by": "aftershock"}}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, **shared},
        "data": {keys[path]: text for path, text in contents.items()},
    }
    items = [{"key": key, "path": path} for path, key in keys.items()]
    job = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": name, **shared},
        "spec": {
            "schedule": calendar.cron,
            "timeZone": calendar.zone.key,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": int(calendar.catch_up_s or calendar.late_s),
            "jobTemplate": {"spec": _job(plan, pod, name, items)},
        },
    }
    return yaml.safe_dump_all([config, job], sort_keys=False, allow_unicode=True)


def _job(plan: Plan, pod: Pod, name: str, items: list[dict[str, str]]) -> dict[str, Any]:
    """A pod that was drained away is started anew and goes on; one that ended is not."""
    kept = {"persistentVolumeClaim": {"claimName": pod.claim}} if pod.claim else {"emptyDir": {}}
    container = {
        "name": "gameday",
        "image": pod.image,
        "command": ["aftershock", *_arguments(f"{_MOUNTED}/{plan.path.name}")],
        "workingDir": _MOUNTED,
        "env": [
            {"name": "AFTERSHOCK_STATE", "value": f"{_KEPT}/state"},
            {"name": "AFTERSHOCK_JOURNAL", "value": f"{_KEPT}/journal"},
        ],
        "volumeMounts": [
            {"name": "plan", "mountPath": _MOUNTED, "readOnly": True},
            {"name": "kept", "mountPath": _KEPT},
        ],
    }
    return {
        "backoffLimit": 3,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "Ignore",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "gameday", "operator": "NotIn", "values": [0]},
                },
            ]
        },
        "template": {
            "metadata": {"labels": {"app.kubernetes.io/managed-by": "aftershock"}},
            "spec": {
                "serviceAccountName": pod.account,
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": GRACE_S,
                "containers": [container],
                "volumes": [
                    {"name": "plan", "configMap": {"name": name, "items": items}},
                    {"name": "kept", **kept},
                ],
            },
        },
    }


def _nothing_elsewhere(plan: Plan) -> None:
    """What an inventory names by its path on this machine isn't there in the pod."""
    for path, inventory in inventories(plan.steps(plan.seed or 0), plan.path.parent).items():
        if inventory.kubeconfig:
            raise InvalidInput(
                f"{path} names a kubeconfig, which the pod has not: leave it out, and its service "
                "account is used"
            )
        logins = [one.ssh for one in inventory.nodes if one.ssh]
        for one in logins:  # a jump host's follow
            logins += [one.jump] if one.jump else []
        for name in (name for one in logins for name in (one.key, one.known_hosts) if name):
            raise InvalidInput(
                f"{path} names {name}, which the pod has not: put SSH keys and known hosts where "
                "an image's ssh finds them, and leave the names out"
            )


def _files(plan: Plan) -> dict[str, str]:
    """The plan and what it names, by their paths below the plan's folder."""
    folder = plan.path.parent
    named = [one.file for one in plan.experiments]
    named += [
        folder / str(value)
        for one in plan.experiments
        for value in (*one.variables.values(), *(v for vs in one.choose.values() for v in vs))
        if isinstance(value, str) and value and (folder / value).is_file()
    ]
    found: dict[str, str] = {}
    for path in (plan.path, *named):
        resolved = path.resolve()
        if not resolved.is_relative_to(folder.resolve()):
            raise InvalidInput(
                f"{path} is not below {folder}: move it there, so that it can be mounted"
            )
        found[str(resolved.relative_to(folder.resolve()))] = path.read_text(encoding="utf-8")
    if sum(len(text.encode()) for text in found.values()) > _LARGEST:
        raise InvalidInput(
            "the plan's files are larger than a ConfigMap may be: put them in an image"
        )
    for name, text in found.items():
        if re.search(r"^[\s-]*(client-key-data|token):\s*\S", text, re.MULTILINE):
            raise InvalidInput(f"{name} holds credentials: a ConfigMap is no place for them")
    return found


def systemd(plan: Plan) -> dict[str, str]:
    """A service and its timer, by their files' names."""
    calendar, name = _calendar(plan), _name(plan)
    words = " ".join(_escaped(word) for word in _line(plan))
    service = [
        "[Unit]",
        f"Description={_plain(plan.title)}",
        "Wants=network-online.target",
        "After=network-online.target",
        "",
        "[Service]",
        "Type=oneshot",
        f"WorkingDirectory={str(plan.path.parent).replace('%', '%%')}",
        f"ExecStart={words}",
        "KillMode=process",  # a fault's watcher has to outlive us
        f"TimeoutStopSec={GRACE_S}",
    ]
    timer = [
        "[Unit]",
        f"Description=The dates of {_plain(plan.title)}",
        "",
        "[Timer]",
        *(f"OnCalendar={line}" for line in on_calendar(calendar)),
        "OnBootSec=2min",  # a day that the machine's restart cut off is gone on with
        "AccuracySec=1s",
        f"Persistent={'true' if calendar.catch_up_s else 'false'}",
        "",
        "[Install]",
        "WantedBy=timers.target",
    ]
    return {
        f"{name}.service": "\n".join(service) + "\n",
        f"{name}.timer": "\n".join(timer) + "\n",
    }


def on_calendar(calendar: Calendar, now: datetime | None = None) -> list[str]:
    """A cron line as systemd's calendar events: two where cron means either kind of day.

    Systemd leaves out a time that the clocks jump over; those of the next years are named.
    """
    sim = CronSim(calendar.cron, datetime(2026, 1, 1, tzinfo=UTC))
    clock = f"{_listed(sim.hours, range(24))}:{_listed(sim.minutes, range(60))}:00"
    months, zone = _listed(sim.months, range(1, 13)), calendar.zone.key
    weekdays = sorted({int(str(day)) % 7 for day in sim.weekdays})
    names = ",".join(DAYS[(day - 1) % 7] for day in weekdays)
    days = _listed(sim.days, range(1, 32))
    on_dates = f"*-{months}-{days} {clock} {zone}"
    on_weekdays = f"{names} *-{months}-* {clock} {zone}"
    if len(weekdays) == 7:
        found = [on_dates]
    elif days == "*":
        found = [on_weekdays]
    else:
        found = [f"{names} {on_dates}"] if sim.day_and else [on_dates, on_weekdays]
    shifted = (
        at
        for at in islice(calendar.dates(now or datetime.now(UTC)), _LOOKED_AT)
        if at.hour not in sim.hours or at.minute not in sim.minutes
    )
    return [*found, *(f"{at:%Y-%m-%d %H:%M:%S} {zone}" for at in shifted)]


def _listed(values: Iterable[int], every: range) -> str:
    found = sorted(values)
    return "*" if found == list(every) else ",".join(f"{value:02d}" for value in found)


def cron(plan: Plan, now: datetime | None = None) -> str:
    """A line for a crontab. Cron knows no time zones, nor what it missed: it wakes us each hour."""
    calendar = _calendar(plan)
    begin = now or datetime.now(UTC)
    coming = islice(calendar.dates(begin - timedelta(days=1)), 1000)
    minutes = sorted({at.astimezone(UTC).minute for at in coming})
    if not minutes:
        raise InvalidInput(f"cron line {calendar.cron!r} never fires: nothing to render")
    line = f"cd {shlex.quote(str(plan.path.parent))} && {shlex.join(_line(plan))}"
    escaped = line.replace("%", "\\%")  # else a command ends there
    return (
        f"# {_plain(plan.title)}: {calendar.cron} in {calendar.zone.key}\n"
        "# Most crons know neither time zones nor what they missed: this wakes each hour, and\n"
        "# does nothing unless a date is due.\n"
        f"{_listed(minutes, range(60))} * * * * {escaped}\n"
    )


def _line(plan: Plan) -> list[str]:
    return [str(Path(sys.executable).with_name("aftershock")), *_arguments(str(plan.path))]


def _arguments(path: str) -> list[str]:
    return ["gameday", "run", path, "--scheduled"]


def _calendar(plan: Plan) -> Calendar:
    if plan.calendar is None:
        raise InvalidInput(f"{plan.path} has no calendar: there is nothing to schedule")
    return plan.calendar


def _name(plan: Plan) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", plan.path.stem.lower()).strip("-")[:40] or "plan"
    return f"aftershock-{plain}".rstrip("-")


def _plain(text: str) -> str:
    return " ".join(text.replace("%", "%%").split())


def _escaped(word: str) -> str:
    """A word of systemd's command line."""
    word = word.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[A-Za-z0-9_@%+=:,./$-]+", word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
