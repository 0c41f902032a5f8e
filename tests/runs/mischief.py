"""Activities that misbehave, for experiments that put this folder on PYTHONPATH."""

import os
import shutil
import signal
import time
from pathlib import Path

_calls: dict[str, int] = {}


def _newest() -> Path:
    return (Path(os.environ["AFTERSHOCK_JOURNAL"]) / "latest").resolve()


def fail_after_the_first_time() -> bool:
    """True once, as before a method; then an error, as after it."""
    _calls["fail"] = _calls.get("fail", 0) + 1
    if _calls["fail"] > 1:
        raise RuntimeError("the probe stumbled")
    return True


def stumble() -> None:
    """An action that can't do what it is for."""
    raise RuntimeError("the action stumbled")


def nothing() -> None:
    """What a tolerance of two numbers can't be compared with."""


def terminate_this_process() -> str:
    """As `kill` from another terminal, in the middle of an action."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
    return "not reached"


def delete_the_journal() -> str:
    """The run's folder goes, as when somebody tidies up."""
    folder = _newest()
    shutil.rmtree(folder)
    return str(folder)


def obstruct_the_journal(obstructed: bool) -> bool:
    """journal.json can't be written while a folder is in its way."""
    way = _newest() / ".journal.json.new"
    if obstructed:
        way.mkdir()
    else:
        way.rmdir()
    return obstructed


def wait(duration_s: float) -> float:
    """An activity that takes its time."""
    time.sleep(duration_s)
    return duration_s


def kill_chaos(hard: bool = True) -> None:
    """The controller dies here and now."""
    os.kill(os.getpid(), signal.SIGKILL if hard else signal.SIGTERM)
    time.sleep(5)
