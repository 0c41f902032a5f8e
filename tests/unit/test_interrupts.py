"""Signals during a run, delivered for real to a process of its own."""

import signal
import subprocess
import sys
import textwrap

import pytest

PROGRAM = textwrap.dedent(
    """
    import sys, time
    from aftershock.controls.interrupts import Interrupts
    interrupts = Interrupts()
    interrupts.install()
    try:
        print("method", flush=True)
        time.sleep(30)
    except BaseException as error:
        print("ended by", type(error).__name__, getattr(error, "code", ""), flush=True)
    print("rollback", flush=True)
    time.sleep(1)
    print("rolled back", interrupts.received, flush=True)
    """
)


@pytest.mark.parametrize(
    ("number", "ending"),
    [
        (signal.SIGINT, "KeyboardInterrupt"),
        (signal.SIGTERM, "SystemExit 143"),
        (signal.SIGHUP, "SystemExit 129"),
        (signal.SIGUSR1, "SystemExit 20"),
        (signal.SIGUSR2, "SystemExit 30"),
    ],
)
def test_the_first_ends_the_method_and_later_ones_wait(number: int, ending: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == "method\n"
        process.send_signal(number)
        assert process.stdout.readline().startswith(f"ended by {ending}")
        assert process.stdout.readline() == "rollback\n"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "rolled back" in out
    assert "already cleaning up" in err


LOGGING = textwrap.dedent(
    """
    import logging, os, signal, sys, threading, time
    from aftershock.controls.interrupts import Interrupts
    handler = logging.StreamHandler(sys.stdout)
    logging.basicConfig(level="INFO", format="%(message)s", handlers=[handler])
    interrupts = Interrupts()
    interrupts.install()
    held = threading.Event()
    def write_slowly():
        handler.acquire()
        held.set()
        time.sleep(0.3)
        handler.release()  # the main thread has the lock now, but not the interpreter
        os.kill(os.getpid(), signal.SIGTERM)
    thread = threading.Thread(target=write_slowly)
    thread.start()
    held.wait()
    try:
        print("waiting", flush=True)
        logging.info("the main thread's line")
        time.sleep(30)
    except SystemExit as error:
        ended = error
    thread.join()
    worker = threading.Thread(target=logging.info, args=("another thread's line",), daemon=True)
    worker.start()
    worker.join(5)
    print("ended", ended.code, "stuck" if worker.is_alive() else "free", flush=True)
    """
)


def test_a_signal_while_a_line_waits_for_the_log_leaves_the_log_free() -> None:
    """What is raised between taking the log's lock and using it would leave it taken for good."""
    with subprocess.Popen([sys.executable, "-c", LOGGING], stdout=subprocess.PIPE, text=True) as it:
        assert it.stdout
        assert it.stdout.readline() == "waiting\n"
        out, _ = it.communicate(timeout=20)
    assert out.splitlines()[-2:] == ["another thread's line", "ended 143 free"]
