"""A day on hosts that no cluster is between: they keep it, and bring it word from elsewhere."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aftershock.errors import InvalidInput
from aftershock.gameday import commands
from aftershock.hosts.fleet import Fleet
from aftershock.inventory import Node
from aftershock.lock import Occupied
from tests.gameday.conftest import HERE, Site, until

from .conftest import Far

THE_DAY = r"the game day 'A day of tiny things' \(process \d+ on .*\)"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    return Site(tmp_path)


@pytest.fixture
def host(site: Site, far: Far) -> Node:
    """The only host of the plan's target."""
    node = far("edge-1")
    ssh = node.ssh
    assert ssh
    site.folder.joinpath("target.yaml").write_text(
        "gateway_url: http://127.0.0.1:9\nmodel: m\n"
        f"ssh: {{user: {ssh.user}, port: {ssh.port}, key: {ssh.key}, "
        f"known_hosts: {ssh.known_hosts}, python: {ssh.python}}}\n"
        f"hosts:\n  - {{name: edge-1, zone: in, address: 127.0.0.1, env: {dict(node.env)}}}\n"
    )
    return node


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Another machine, which has none of this one's files."""

    @contextmanager
    def being(user: str) -> Iterator[None]:
        with monkeypatch.context() as there:
            there.setenv("AFTERSHOCK_JOURNAL", str(tmp_path / "another"))
            there.setenv("AFTERSHOCK_STATE", str(tmp_path / "another"))
            there.setenv("SUDO_USER", user)
            yield

    return being


def kept(tmp_path: Path) -> list[str]:
    """What is on the host of who keeps it."""
    return [path.name for path in (tmp_path / "far").rglob("alone/*")]


def keepers(tmp_path: Path) -> set[int]:
    """The processes that have the host's lock open."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if str(tmp_path / "far") in str(link.readlink()):
                found.add(int(link.parts[2]))
    return found


def test_from_another_host_it_is_aborted_through_the_hosts(
    site: Site, host: Node, elsewhere: Any, tmp_path: Path
) -> None:
    site.write({"variables": {"hold_s": 60}}, {}, target="target.yaml", may_abort=["alice"])
    with site.held() as process:
        until(lambda: site.notes("tiny-1") == ["broken"])
        with elsewhere("bob"):
            with pytest.raises(InvalidInput, match="no game day goes on here"):
                list(commands.order("abort", None))
            (said,) = commands.order("abort", str(site.plan))
        refused = until(lambda: [one for one in site.told.events if one["event"] == "refused"])
        assert [one["by"] for one in refused] == ["bob"] and site.notes("tiny-1") == ["broken"]
        with elsewhere("alice"):
            status = list(commands.status(str(site.plan)))
            asked = time.monotonic()
            (said,) = commands.order("abort", str(site.plan), "enough")
        until(lambda: site.notes("tiny-1") == ["broken", "healed"])
        assert time.monotonic() - asked < 20, "at once: its run would have held for a minute"
        assert process.wait(60) == 1
    assert said.startswith("abort asked of the game day 'A day of tiny things' (process ")
    assert any(
        line.startswith("taken        hosts of target.yaml: the game day") for line in status
    )
    assert site.notes("tiny-2") == []
    assert site.told.stopped.startswith("aborted by alice at 20")
    assert site.told.stopped.endswith(": enough")
    assert kept(tmp_path) == []


@pytest.mark.parametrize("end", ["abort", "SIGKILL"])
def test_between_two_runs_no_other_comes_until_its_end(
    site: Site, host: Node, elsewhere: Any, tmp_path: Path, end: str
) -> None:
    site.write({}, {"pause": "2 m"}, target="target.yaml", may_abort=["alice"])
    other = Fleet()
    other.take("theirs", "the run 'theirs'")
    with site.held() as process:
        until(lambda: any(one["event"] == "pause" for one in site.told.events))
        with pytest.raises(Occupied, match=f"edge-1: taken by {THE_DAY}"):
            other.fresh(host)
        if end == "abort":
            with elsewhere("alice"):
                list(commands.order("abort", str(site.plan)))
            assert process.wait(30) == 1
    until(lambda: kept(tmp_path) == [], 5.0)
    assert other.fresh(host).is_open, "over is over"
    other.close()
    assert site.verdicts() == {"01-tiny-1": "PASS"}
    assert kept(tmp_path) == []


def test_a_host_whose_agent_was_killed_is_kept_again(
    site: Site, host: Node, elsewhere: Any, tmp_path: Path
) -> None:
    site.write({"variables": {"hold_s": 60}}, target="target.yaml", may_abort=["alice"])
    looker = Fleet()
    with site.held() as process:
        until(lambda: site.notes("tiny-1") == ["broken"])
        asked = looker.fresh(host)
        before = asked.ask("kept")
        (agent,) = keepers(tmp_path)
        os.kill(agent, signal.SIGKILL)
        until(lambda: asked.ask("kept") is None)
        assert until(lambda: asked.ask("kept"), 30) == before
        with elsewhere("alice"):
            list(commands.order("abort", str(site.plan)))
        assert process.wait(60) == 1
    looker.close()
    assert site.notes("tiny-1") == ["broken", "healed"]
    assert kept(tmp_path) == []


def test_who_keeps_it_but_is_no_day_is_not_asked(
    site: Site, host: Node, elsewhere: Any, tmp_path: Path
) -> None:
    site.write({}, target="target.yaml")
    other = Fleet()
    other.take("theirs", "the run 'by hand'")
    other.fresh(host)
    with pytest.raises(InvalidInput, match="edge-1 is kept by the run 'by hand', which is no game"):
        list(commands.order("abort", str(site.plan)))
    with pytest.raises(Occupied, match="edge-1: taken by the run 'by hand'"):
        site.hold()
    assert site.told.holder and "did not begin" in "\n".join(commands.status())
    other.close()
    assert site.hold()
    assert kept(tmp_path) == []
