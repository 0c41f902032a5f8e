"""What is rendered, woken by Debian's own cron and by a systemd: in worlds of their own, where no
other crontab and no other unit is."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aftershock.gameday.plan_file import read_plan
from aftershock.gameday.render import cron, rendered
from tests.agent.cgroups import V1, group
from tests.conftest import MARK

from .conftest import HERE, Site, until

CRON = shutil.which("cron", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
SYSTEMD = shutil.which("systemd", path="/usr/lib/systemd:/lib/systemd")
NAMES = ("AFTERSHOCK_STATE", MARK)  # what jobs are to have of the test's environment
pytestmark = [
    pytest.mark.root,
    pytest.mark.survival,  # they wake once a minute
    pytest.mark.timeout(300),
]
needs_systemd = pytest.mark.skipif(SYSTEMD is None, reason="systemd is absent (Debian: systemd)")
ALONE = """
for place in /run /var/spool/cron /etc/cron.d; do mount -t tmpfs -o mode=755 tmpfs $place; done
: >/run/none && mount --bind /run/none /etc/crontab
mkdir -m 700 /var/spool/cron/crontabs && touch /run/crond.reboot
install -m 600 "$1" /var/spool/cron/crontabs/root
exec "$2" -f
"""


@contextmanager
def awake(crontab: Path) -> Iterator[None]:
    """Cron with that one crontab of root's; its jobs end with it."""
    world = ("unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child")
    line = [*world, "sh", "-ec", ALONE, "sh", str(crontab), str(CRON)]
    with subprocess.Popen(line, stdin=subprocess.DEVNULL) as process:
        try:
            yield
            assert process.poll() is None, "cron itself lives"
        finally:
            process.send_signal(signal.SIGKILL)


# With no unit but those in $1, no controller of the host's, and no memory of what it woke before.
BOOT = """
for place in /run /var/lib/systemd /sys/fs/cgroup; do mount -t tmpfs -o mode=755 tmpfs $place; done
if [ "$3" = v2 ]; then mount -t cgroup2 cgroup2 /sys/fs/cgroup
else mkdir /sys/fs/cgroup/systemd
  mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd; fi
exec env -i container=test PATH="$PATH" SYSTEMD_UNIT_PATH="$1" "$2" --system --unit=only.target
"""
MILESTONES = ("sysinit", "basic", "shutdown", "timers", "network-online", "time-set", "time-sync")


@contextmanager
def booted(units: Path) -> Iterator[Callable[..., str]]:
    """A systemd that starts the timers among these units; what is yielded asks its systemctl."""
    timers = " ".join(path.name for path in units.glob("*.timer"))
    for name in MILESTONES:
        (units / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    only = f"[Unit]\nDefaultDependencies=no\nWants={timers}\n"
    (units / "only.target").write_text(only)
    with group("systemd") as made:
        version = "v1" if V1 else "v2"
        join = f"echo $$ >{made.folders['systemd']}/cgroup.procs; exec"
        kinds = ("mount", "pid", "ipc", "uts", "net", "cgroup")
        unshare = ("unshare", *(f"--{kind}" for kind in kinds), "--mount-proc")
        world = (*unshare, "--fork", "--kill-child")
        line = [*world, "sh", "-ec", BOOT, "sh", str(units), str(SYSTEMD), version]
        with subprocess.Popen(["sh", "-c", f'{join} "$@"', "sh", *line]) as process:

            def systemctl(*words: str) -> str:
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
                enter = ["nsenter", "--target", children.strip(), "--mount", "--pid", "--net"]
                done = subprocess.run(
                    [*enter, "systemctl", *words], check=False, capture_output=True, text=True
                )
                return done.stdout + done.stderr

            try:
                yield systemctl
                assert process.poll() is None, "systemd itself lives"
            finally:
                process.send_signal(signal.SIGKILL)


def units_of(site: Site) -> Path:
    """What is rendered for systemd, with the test's environment beside it."""
    folder = site.folder / "units"
    files = [Path(line) for line in rendered(str(site.plan), "systemd", str(folder))]
    (service,) = (path for path in files if path.suffix == ".service")
    told = {name: os.environ[name] for name in NAMES} | {"PYTHONPATH": str(HERE)}
    beside = folder / f"{service.name}.d"
    beside.mkdir()
    lines = "".join(
        f'Environment="{name}={value}"\n'.replace("%", "%%") for name, value in told.items()
    )
    (beside / "test.conf").write_text(f"[Service]\n{lines}")
    return folder


def next_minute(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Site, datetime, dict[str, str]]:
    """A site whose day is due in a minute or so: it, the date, and its calendar."""
    folder.mkdir()
    site = Site(folder)
    monkeypatch.setenv("AFTERSHOCK_JOURNAL", str(site.journal))  # the one beside the plan
    begin = datetime.now(UTC)
    date = (begin + timedelta(minutes=1 if begin.second < 45 else 2)).replace(second=0)
    calendar = {"cron": f"{date.minute} {date.hour} * * *", "time_zone": "UTC"}
    return site, date.replace(microsecond=0), calendar


def was_held(site: Site, date: datetime) -> None:
    """The day passed, at its date."""
    assert site.verdicts() == {"01-tiny-1": "PASS"}
    assert site.told.begun["scheduled"] is True and site.told.begun["late"] is False
    assert datetime.fromisoformat(site.told.begun["at"]) >= date


@pytest.mark.skipif(CRON is None, reason="cron is absent (Debian: cron)")
def test_cron_wakes_the_day_at_its_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its jobs have an environment and a PATH that are nearly empty, and `%` ends their line."""
    site, date, calendar = next_minute(tmp_path / "a folder, 50% full", monkeypatch)
    site.write({}, calendar=calendar)
    crontab = site.folder / "crontab"
    told = "".join(f"{name}={os.environ[name]}\n" for name in NAMES)
    crontab.write_text(f"{told}PYTHONPATH={HERE}\n{cron(read_plan(str(site.plan)))}")
    with awake(crontab):
        until(lambda: site.told.ended, within_s=200)
    was_held(site, date)


@needs_systemd
def test_systemd_wakes_the_day_at_its_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its services have a nearly empty environment, and `%` means something in its units."""
    site, date, calendar = next_minute(tmp_path / "a folder, 50% full", monkeypatch)
    site.write({}, calendar=calendar)
    with booted(units_of(site)) as systemctl:
        until(lambda: site.told.ended, within_s=200)
        name = next(iter((site.folder / "units").glob("*.service"))).name
        until(lambda: "inactive" in systemctl("is-active", name))
        assert "Result=success" in systemctl("show", name)
    was_held(site, date)


@needs_systemd
def test_a_day_that_systemd_stops_is_healed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`systemctl stop` in mid-fault returns when all is healed; the record says why it ended."""
    site, _, calendar = next_minute(tmp_path / "site", monkeypatch)
    site.write({"variables": {"hold_s": 600}}, calendar=calendar)
    with booted(units_of(site)) as systemctl:
        until(lambda: site.notes("tiny-1") == ["broken"], within_s=200)
        name = next(iter((site.folder / "units").glob("*.service"))).name
        systemctl("stop", name)
        assert site.notes("tiny-1") == ["broken", "healed"]
    assert site.told.stopped.startswith("SIGTERM") and site.told.ended
    assert site.told.ended["verdict"] == "INCONCLUSIVE"
