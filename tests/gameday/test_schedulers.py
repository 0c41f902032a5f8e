"""A rendered line, woken by Debian's own cron: in mounts of its own, where no other crontab is."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aftershock.gameday.plan_file import read_plan
from aftershock.gameday.render import cron
from tests.conftest import MARK

from .conftest import HERE, Site, until

CRON = shutil.which("cron", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = [
    pytest.mark.root,
    pytest.mark.survival,  # cron wakes once a minute
    pytest.mark.timeout(300),
    pytest.mark.skipif(CRON is None, reason="cron is absent (Debian: cron)"),
]
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


def test_cron_wakes_the_day_at_its_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its jobs have an environment and a PATH that are nearly empty, and `%` ends their line."""
    folder = tmp_path / "a folder, 50% full"
    folder.mkdir()
    site = Site(folder)
    monkeypatch.setenv("AFTERSHOCK_JOURNAL", str(site.journal))  # the one beside the plan
    begin = datetime.now(UTC)
    date = (begin + timedelta(minutes=1 if begin.second < 45 else 2)).replace(second=0)
    calendar = {"cron": f"{date.minute} {date.hour} * * *", "time_zone": "UTC"}
    site.write({}, calendar=calendar)
    crontab, names = site.folder / "crontab", ("AFTERSHOCK_STATE", MARK)
    told = "".join(f"{name}={os.environ[name]}\n" for name in names)
    crontab.write_text(f"{told}PYTHONPATH={HERE}\n{cron(read_plan(str(site.plan)))}")
    with awake(crontab):
        until(lambda: site.told.ended, within_s=200)
    assert site.verdicts() == {"01-tiny-1": "PASS"}
    assert site.told.begun["scheduled"] is True and site.told.begun["late"] is False
    assert datetime.fromisoformat(site.told.begun["at"]) >= date.replace(microsecond=0)
