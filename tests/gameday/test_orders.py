"""Who asks a day for something is who owns the request, whatever is written in it."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aftershock.gameday import orders
from aftershock.gameday.record import REQUESTS


@pytest.fixture
def day() -> Iterator[Path]:
    """A day's folder that others get to."""
    folder = Path(tempfile.mkdtemp(prefix="aftershock-orders-"))
    folder.chmod(0o755)
    (folder / REQUESTS).mkdir()
    (folder / REQUESTS).chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


def test_a_request_is_heard_once_and_what_is_none_is_passed_over(
    day: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "alice")
    sent = orders.send(day, orders.ABORT, "the pager rang")
    for name, text in (("half", '{"what": "ab'), ("list", "[]"), ("empty", "")):
        (day / REQUESTS / f"{name}.json").write_text(text)
    os.mkfifo(day / REQUESTS / "fifo.json")
    (day / REQUESTS / "link.json").symlink_to("/etc/passwd")
    seen: set[str] = set()
    assert list(orders.received(day, seen)) == [sent]
    assert list(orders.received(day, seen)) == []


@pytest.mark.root
def test_nobody_can_speak_for_another(day: Path) -> None:
    said = json.dumps({"what": "abort", "by": "alice", "at": "now"})
    place = day / REQUESTS / "abort-x.json"
    subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "sh", "-c", f"echo '{said}' > {place}"],
        check=True,
    )
    (order,) = orders.received(day, set())
    assert order.by == "nobody"
    assert not orders.may(order.by, ["alice"]) and orders.may(order.by, ["nobody"])
    os.link(place, day / REQUESTS / "abort-again.json")
    assert list(orders.received(day, set())) == [], "a request under a second name is none"
