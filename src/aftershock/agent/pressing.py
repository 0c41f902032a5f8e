"""A step that keeps a volume's device busy: fio, on a file without a name, in a process of ours.

The process dies with the agent, the file with the process, and fio itself ends at the deadline: so
nothing outlives the agent, whether it is killed or stopped.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import select
import signal
import subprocess
import sys
from typing import Any, Dict, List, Mapping, Optional, Tuple

from .classifier import check_options
from .clock import boottime
from .errors import AgentError, CannotDo, Invalid, NotUndone, Over
from .filling import open_nameless
from .programs import ends_with_us, host_program
from .volumes import Volume, find, room

SHAPE = ("pattern", "block", "depth", "jobs", "rate", "read_share", "direct", "engine")
OPTIONS = ("path", "volume", "size", "reserve", *SHAPE)
PATTERNS = ("read", "write", "randread", "randwrite", "rw", "randrw")
ENGINES = ("io_uring", "libaio")
_FIO = ("fio", "fio")  # the program, and the package that brings it
_LEAST_BYTES = 4 << 20
_CHUNK = 1 << 20
_PERCENTILES = (50, 90, 95, 99, 99.9)
_TRIAL_S = 10.0
_READY_S = 10.0
_ENDED_S = 2.3  # twice at most: the controller waits for 5 s
_TOLD_EVERY_S = 2
_LATE_S = 0.5  # after the deadline: the agent itself goes first
_LIBC = ctypes.CDLL(None, use_errno=True)


def check(options: Mapping[str, Any], again: bool = False) -> Tuple[Volume, int, str]:
    """The volume, the file's size and the engine; refuses what can't be, and touches nothing.

    `again`: an engine that was named is not tried once more.
    """
    check_options(options, OPTIONS)
    if options["pattern"] not in PATTERNS:
        raise Invalid(f"fio: pattern {options['pattern']!r}: one of {', '.join(PATTERNS)}")
    volume = find(options["path"], options["volume"])
    if volume.kind in ("tmpfs", "ramfs", "devtmpfs"):
        raise Invalid(f"fio: {volume} is memory: it has no device to keep busy")
    there = room(volume.path)["free_bytes"]
    spare = options["reserve"] if volume.needed else there // 10
    size = min(options["size"], (there - spare) // 2) // options["block"] * options["block"]
    if size < max(_LEAST_BYTES, options["block"]):
        raise Invalid(
            f"fio: {volume} has {there >> 20} MiB free, and {spare >> 20} of them must stay so: "
            "free some, or name another volume"
        )
    if again and options["engine"] in ENGINES:
        return volume, size, options["engine"]
    return volume, size, _engine(volume, options)


def _engine(volume: Volume, options: Mapping[str, Any]) -> str:
    """The engine that was asked for, or the first that works, tried on a small file there."""
    asked = ENGINES if options["engine"] == "auto" else (options["engine"],)
    said = []
    for engine in asked:
        if engine not in ENGINES:
            raise Invalid(f"fio: engine {engine!r}: auto, {' or '.join(ENGINES)}")
        if not (why := _refusal(volume, engine, options)):
            return engine
        said.append(f"{engine}: {why}")
    raise CannotDo(f"fio: {volume}: {'; '.join(said)}: name another engine, or volume")


def _refusal(volume: Volume, engine: str, options: Mapping[str, Any]) -> str:
    """Why an engine does not work here, or nothing."""
    file = open_nameless(volume.path)
    try:
        os.pwrite(file, b"\0" * options["block"], 0)
        small = {**options, "pattern": "read", "depth": 1, "jobs": 1, "rate": 0}
        words = [*ends_with_us(), *host_program(*_FIO), *_words(small, file, engine)]
        words.append(f"--size={options['block']}")
        done = subprocess.run(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            pass_fds=(file,),
            timeout=_TRIAL_S,
            check=False,
            cwd="/",
        )
    except subprocess.TimeoutExpired:
        return f"a trial took longer than {_TRIAL_S:g} s"
    except OSError as error:
        raise AgentError(f"fio: {volume}: {error.strerror}") from None
    finally:
        os.close(file)
    if done.returncode == 0:
        return ""
    lines = [x.strip() for x in done.stdout.decode(errors="replace").splitlines() if "fio" in x]
    return lines[0] if lines else f"a trial ended {done.returncode}"


def _words(options: Mapping[str, Any], file: int, engine: str) -> List[str]:
    """fio's arguments for one file, by its descriptor, and jobs that are threads of one process."""
    words = {
        "name": "aftershock",
        "filename": f"/proc/self/fd/{file}",
        "rw": options["pattern"],
        "bs": options["block"],
        "iodepth": options["depth"],
        "numjobs": options["jobs"],
        "direct": int(options["direct"]),
        "ioengine": engine,
        "rwmixread": round(100 * options["read_share"]),
        "overwrite": 1,  # else it would remove the file, to make it anew
        "percentile_list": ":".join(f"{one:g}" for one in _PERCENTILES),
        "output-format": "json",
        "eta": "never",
        "status-interval": _TOLD_EVERY_S,
    }
    if options["rate"]:
        words["rate"] = max(1, int(options["rate"] / options["jobs"]))
    flags = ["--thread", "--group_reporting", "--norandommap"]
    return [*(f"--{name}={value}" for name, value in words.items()), *flags]


class Press:
    """fio, waiting for the word, then at work until the end."""

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        self._volume, self._size, self._engine = check(options, again=True)
        self.kind = "press"
        self.outlives = self.rash = False
        self.about: Dict[str, Any] = {key: options[key] for key in OPTIONS}
        self.about.update(engine=self._engine, size=self._size)
        self._options = dict(options)
        self._process: Optional["subprocess.Popen[bytes]"] = None
        self._output = -1
        self._on = False
        self._result: Dict[str, Any] = {}

    def intent(self) -> Dict[str, Any]:
        """Nothing undoes it: it dies with the agent."""
        return {}

    def attach(self) -> Dict[str, Any]:
        """The process is there and has its file; nothing is felt."""
        self._output = os.memfd_create("fio")
        words = [*host_program(*_FIO), *_words(self._options, 0, self._engine)]
        ours, theirs = os.pipe()
        told = {"folder": self._volume.path, "size": self._size, "words": words, "ready": theirs}
        told.update(reads=self._options["pattern"] not in ("write", "randwrite"))
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", sys.argv[0], "press", str(os.getpid()), json.dumps(told)],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
            pass_fds=(theirs,),
            cwd="/",
        )
        os.close(theirs)
        ready, _, _ = select.select([ours], [], [], _READY_S)
        size = os.read(ours, 32) if ready else b""
        os.close(ours)
        if not size:
            raise AgentError(f"fio: its file on {self._volume}: {self._last_words()}")
        self._size = int(size)
        return {"owned": [], "undo": self.intent()}

    def fire(self, until: float) -> None:
        """Give the word, and how long fio is to run by itself."""
        assert self._process and self._process.stdin
        try:
            self._process.stdin.write(b"%f\n" % until)
            self._process.stdin.close()
        except OSError:
            raise AgentError(f"fio: {self._last_words() or 'it ended before its time'}") from None
        self._on = True

    def tick(self) -> None:
        """It must still be there."""
        if self._on and self._process and self._process.poll() is not None:
            raise Over(f"fio ended by itself: {self._last_words()}")

    def shut(self) -> None:
        """Let fio end and tell; twice is fine."""
        self._on = False
        process = self._process
        if process is None or self._result:
            return
        for number in (signal.SIGINT, signal.SIGKILL):
            if process.poll() is None:
                process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_ENDED_S)
        self._result = summary(self._said())

    def observe(self) -> Dict[str, Any]:
        """Whether it is at work; after its end, what it measured."""
        running = self._process is not None and self._process.poll() is None
        seen = {"kind": self.kind, "counts": {}, "running": running, "engine": self._engine}
        return {**seen, "size": self._size, **({"fio": self._result} if self._result else {})}

    def detach(self) -> List[str]:
        """The process must be gone: its file is gone with it."""
        self.shut()
        if self._process and self._process.poll() is None:
            raise NotUndone(f"fio: process {self._process.pid} does not end: its device hangs")
        return []

    def close(self) -> None:
        """Give up what is left."""
        if self._process and self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._output >= 0:
            os.close(self._output)
        self._output = -1

    def _said(self) -> str:
        if self._output < 0:
            return ""
        return os.pread(self._output, 4 << 20, 0).decode(errors="replace")

    def _last_words(self) -> str:
        text = self._said().partition("{\n")[0] or self._said()
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"


def summary(said: str) -> Dict[str, Any]:
    """fio's last JSON in short: for reads and writes IOPS, MiB/s and latency percentiles in ms."""
    job: Dict[str, Any] = {}
    at = said.find("{\n")
    while at >= 0:
        try:
            found, end = json.JSONDecoder().raw_decode(said, at)
            job = found["jobs"][0]
        except (ValueError, LookupError):
            break
        at = said.find("{\n", end)
    told: Dict[str, Any] = {}
    for way in ("read", "write"):
        part = job.get(way) or {}
        if not part.get("total_ios"):
            continue
        points = (part.get("clat_ns") or {}).get("percentile") or {}
        told[way] = {
            "iops": round(part["iops"], 1),
            "mib_per_s": round(part["bw_bytes"] / 2**20, 2),
            "mean_ms": round((part.get("clat_ns") or {}).get("mean", 0.0) / 1e6, 3),
            **{f"p{float(at):g}_ms": round(ns / 1e6, 3) for at, ns in points.items()},
        }
    return told or {"why": "fio told nothing: it was killed, or never began"}


def press(agent: str, order: str) -> None:
    """The life of the process that becomes fio."""
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(agent):
        raise SystemExit("the agent is gone")
    told = json.loads(order)
    file = open_nameless(told["folder"])
    size = _take_room(file, told["size"])
    os.write(told["ready"], b"%d" % size)
    os.close(told["ready"])
    line = sys.stdin.readline()
    if not line:
        raise SystemExit("the agent let go")
    if told["reads"]:
        _write_out(file, size)
    left = float(line) + _LATE_S - boottime()
    if left < _LATE_S:
        raise SystemExit("the lease was over before the file was written")
    os.set_inheritable(file, True)
    words = [word.replace("/proc/self/fd/0", f"/proc/self/fd/{file}") for word in told["words"]]
    os.execv(
        words[0], [*words, f"--size={size}", "--time_based", f"--runtime={int(left * 1000)}ms"]
    )


def _take_room(file: int, size: int) -> int:
    """Reserve as much, or less where somebody else, such as another agent, is taking it now."""
    while size >= _LEAST_BYTES:
        try:
            os.posix_fallocate(file, 0, size)
            return size
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            os.ftruncate(file, 0)
            size //= 2
    raise SystemExit("no room is left")


def _write_out(file: int, size: int) -> None:
    """What was only reserved is read without asking the device: it has to be written first."""
    import fcntl

    with contextlib.suppress(OSError):
        fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_DIRECT)
    buffer, at = mmap.mmap(-1, _CHUNK), 0
    buffer.write(os.urandom(_CHUNK))
    while at < size:
        at += os.pwritev(file, [memoryview(buffer)[: min(_CHUNK, size - at)]], at)
    fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) & ~os.O_DIRECT)
    os.fdatasync(file)
