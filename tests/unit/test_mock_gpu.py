"""The GPU's stand-in, through unmodified pynvml and libcuda, in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mock_cards import GIB, Card, say

from aftershock.errors import Unsupported
from aftershock.lab import gpu
from aftershock.lab.gpu.ledger import utilisation_percent


def test_an_idle_card(card: Card) -> None:
    seen = card.read()
    assert (seen["count"], seen["total"], seen["used"], seen["busy"]) == (1, 80 * GIB, 0, 0)
    assert (seen["watts"], seen["celsius"], seen["holders"]) == (70, 34, {})
    assert seen["uuid"] == card.read()["uuid"]


def test_memory_is_its_holders_and_returns_with_free_and_with_sigkill(card: Card) -> None:
    with card.hold(10 * GIB) as first, card.hold(20 * GIB) as second:
        assert say(first) == say(second) == 0
        assert card.read()["holders"] == {str(first.pid): 10 * GIB, str(second.pid): 20 * GIB}
        assert card.read()["used"] == 30 * GIB
        assert say(first, "free") == 0
        assert card.read()["used"] == 20 * GIB
        second.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, second.pid, os.WEXITED | os.WNOWAIT)
        assert card.read()["used"] == 0, "a zombie holds nothing"


def test_a_full_card_says_so(card: Card) -> None:
    with card.hold(79 * GIB) as first:
        assert say(first) == 0
        with card.hold(2 * GIB) as second:
            assert say(second) == 2


def test_utilisation_is_the_share_of_the_last_second(card: Card, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    assert utilisation_percent(ledger) is None
    with card.hold(GIB) as working:
        assert say(working) == 0
        assert utilisation_percent(ledger) == 0
        noted, seen = _looked_at_once(working, card, ledger)
        assert noted == pytest.approx(seen["busy"], abs=11), "as NVML says, a bucket later"
        assert 35 <= seen["busy"] <= 50
        assert seen["watts"] > 200
        assert seen["mhz"] == 1980


def _looked_at_once(working: Any, card: Card, ledger: Path) -> tuple[float | None, Any]:
    """What is noted and what NVML says before the second of the work has moved on."""
    for _ in range(20):
        assert say(working, "work") == 0
        began = time.monotonic()
        noted, seen = utilisation_percent(ledger), card.read()
        if time.monotonic() - began < 0.35:
            break
        time.sleep(1.1)  # a busy machine: idle again, and once more
    return noted, seen


def test_many_at_once_lose_no_byte(card: Card) -> None:
    crowd = [card.hold(GIB) for _ in range(8)]
    assert [say(process) for process in crowd] == [0] * 8
    assert card.read()["used"] == 8 * GIB
    for process in crowd:
        process.communicate()
    assert card.read()["used"] == 0


def test_a_reused_pid_does_not_inherit(card: Card) -> None:
    """The same PID with another start time: what a slot looks like after the PID came round."""
    ledger = Path(card.env["MOCKGPU_LEDGER"])
    with card.hold(10 * GIB) as holder:
        assert say(holder) == 0
        raw = bytearray(ledger.read_bytes())
        at = raw.index(holder.pid.to_bytes(4, "little"), 64)
        raw[at + 8 : at + 16] = (1).to_bytes(8, "little")
        ledger.write_bytes(raw)
        assert card.read()["used"] == 0


def test_a_stranger_to_the_pid_namespace_is_turned_away(card: Card) -> None:
    """It would take every holder for dead."""
    if os.geteuid() != 0:
        pytest.skip("a PID namespace needs root")
    with card.hold(10 * GIB) as holder:
        assert say(holder) == 0
        code = "import pynvml; pynvml.nvmlInit()"
        ran = subprocess.run(
            ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code],
            env=card.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Driver Not Loaded" in ran.stderr
        assert card.read()["used"] == 10 * GIB


def test_without_a_compiler_the_sentence_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match="no `cc`: install gcc"):
        gpu.build()


def test_it_is_built_once_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built = gpu.build()
    stamps = [(built / name).stat().st_mtime_ns for name in gpu.LIBRARIES.values()]
    assert built.is_relative_to(tmp_path / "aftershock")
    assert gpu.build() == built
    assert stamps == [(built / name).stat().st_mtime_ns for name in gpu.LIBRARIES.values()]
    assert [path.name for path in built.parent.iterdir()] == [built.name]
