"""One holder at a time; what a crash leaves is known to be stale."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aftershock import lock
from aftershock.lock import HostLock, Occupied

HOLD = """
import sys, os, signal
from aftershock.lock import HostLock
held = HostLock("shop", "another run")
held.acquire()
print(held.token, flush=True)
sys.stdin.read()
held.release()
"""


def holder() -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    process.token = process.stdout.readline().strip()  # type: ignore[attr-defined]
    return process


def test_a_target_has_one_holder_and_is_free_when_that_one_ends() -> None:
    with holder() as other:
        mine = HostLock("shop", "my run")
        with pytest.raises(
            Occupied, match=rf"shop is taken by another run \(process {other.pid} on"
        ):
            mine.acquire()
        HostLock("another shop", "my run").acquire()
        assert other.stdin
        other.stdin.close()
        other.wait()
        mine.acquire()
        assert mine.stale is None, "it let go"
    assert [one["what"] for one in lock.holders(mine.token)] == ["my run"]
    mine.release()
    mine.release()
    assert not mine.path.exists()


def test_what_a_crash_left_is_stale_at_once_and_says_whose_it_was() -> None:
    with holder() as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
    mine = HostLock("shop", "my run")
    assert mine.path.exists()
    mine.acquire()
    assert mine.stale and mine.stale["pid"] == other.pid
    mine.release()


@pytest.mark.parametrize(
    "change", [{"started": 1}, {"boot": "another boot"}], ids=["PID of another", "restarted"]
)
def test_the_number_of_a_process_alone_holds_nothing(change: dict[str, object]) -> None:
    mine = HostLock("shop", "my run")
    mine.acquire()
    said = json.loads(mine.path.read_text())
    said["holders"][0] |= change
    mine.path.write_text(json.dumps(said))
    HostLock("shop", "the next run").acquire()


@pytest.mark.root
def test_a_container_of_this_host_is_known_to_live_and_to_be_gone() -> None:
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", HOLD]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as container:
        assert container.stdout and container.stdout.readline()
        mine = HostLock("shop", "my run")
        with pytest.raises(Occupied, match=r"another run .process 1 on"):
            mine.acquire()
        container.kill()
        container.wait()
        end = time.monotonic() + 20
        while True:
            try:
                mine.acquire()
                break
            except Occupied:
                assert time.monotonic() < end
                time.sleep(0.05)
    assert mine.stale and mine.stale["pid"] == 1
    mine.release()
    assert not Path(mine.stale["alive"]).exists()


def test_who_is_in_a_container_with_files_of_its_own_is_believed_to_live() -> None:
    mine = HostLock("shop", "my run")
    mine.acquire()
    said = json.loads(mine.path.read_text())
    said["holders"][0] |= {"pidns": "pid:[1]", "pid": 999_999, "alive": "/nowhere/at/all"}
    mine.path.write_text(json.dumps(said))
    with pytest.raises(Occupied):
        HostLock("shop", "the next run").acquire()


def test_a_days_runs_are_let_in_and_one_that_outlives_it_still_holds() -> None:
    mine = HostLock("shop", "a run of the day", token="t")
    with holder() as day:
        token = day.token  # type: ignore[attr-defined]
        mine = HostLock("shop", "a run of the day", token)
        mine.acquire()
        day.send_signal(signal.SIGKILL)
        day.wait()
    with pytest.raises(Occupied, match="a run of the day"):
        HostLock("shop", "somebody else").acquire()
    mine.release()
    HostLock("shop", "somebody else").acquire()


def test_of_many_that_come_at_once_one_gets_it() -> None:
    barrier, got = threading.Barrier(8), []

    def one(number: int) -> None:
        mine = HostLock("shop", f"run {number}")
        barrier.wait()
        try:
            mine.acquire()
            got.append(mine)
        except Occupied:
            pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(8)))
    assert len(got) == 1


def test_half_a_file_holds_nothing() -> None:
    mine = HostLock("shop", "my run")
    mine.path.parent.mkdir(parents=True)
    mine.path.write_text('{"token": "x", "hol')
    mine.acquire()
    assert json.loads(mine.path.read_text())["holders"][0]["pid"] == os.getpid()
