"""A guest kernel, booted over this machine's file system; pytest runs in it and tells how it went.

It is user-mode Linux, a process as any other, or runs on QEMU's emulated CPU. The guest sees our
files (through hostfs or virtiofs), to be read only, and writes to memory of its own. What its
console says is kept in a file; on its second serial port come pytest's reports, one line of JSON
each.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import IO, Any

from .fetch import WHY_NOT, started, virtiofsd

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "build" / "guest"
NAME = "AFTERSHOCK_GUEST"
REPORTS = "/dev/ttyS1"
DISKS = ("/dev/ubda", "/dev/vda")  # of user-mode Linux, of QEMU
# An emulated CPU by default: a /dev/kvm that is there but doesn't work stops a guest for ever.
ACCELERATOR = os.environ.get("GUEST_ACCELERATOR", "tcg")
MEMORY_MIB = 1024
PATIENCE_S = 300.0  # for one report, the first one's boot included, on a busy machine
# User-mode Linux has processes beside its own that would outlive it: not their PID namespace.
_BOUND = "setpriv --pdeathsig KILL unshare --pid --fork --kill-child --mount-proc sh -c"
_PREPARE = f"""cd {shlex.quote(str(ROOT))}
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/run
stty -F {REPORTS} raw -echo
"""
_PYTEST = "--timeout=240 -p no:cacheprovider -p pytest_timeout --color=no -q --basetemp=/run/tests"


class GuestFailed(Exception):
    """The guest ended, or said nothing for too long; its console's last lines are in the text."""


def why_not(name: str) -> str:
    """Why this guest can't be booted, or nothing."""
    folder = FOLDER / name
    if (folder / "linux").exists():
        return ""
    if (folder / "vmlinuz").exists() and shutil.which("qemu-system-x86_64"):
        return ""
    told = folder / WHY_NOT
    return told.read_text().strip() if told.exists() else "run `make build/guest/ready` first"


def slowness(name: str) -> int:
    """What to sort kernels by: one that can't be had comes last."""
    if why_not(name):
        return 2
    return 0 if (FOLDER / name / "linux").exists() else 1


class Machine:
    """One boot of a guest kernel that runs a script; `lines` are what this writes to REPORTS.

    `disk`: a file that is its disk, DISKS there, and keeps what is written.
    """

    def __init__(self, name: str, script: str, disk: Path | None = None) -> None:
        self.name = name
        self._scratch = tempfile.TemporaryDirectory(prefix="guest-", dir=FOLDER)
        self._folder = Path(self._scratch.name)
        self._console = self._folder / "console"
        self._lines: Queue[str] = Queue()
        self._failed = ""
        self._disk = disk
        path = self._folder / "script.sh"
        path.write_text(f"{_PREPARE}{script}")
        self.processes: list[subprocess.Popen[str]] = []
        self._boot(FOLDER / name, f"/bin/bash {path}")
        said = self.processes[-1].stdout
        assert said
        self._reader = threading.Thread(target=self._read, args=(said,), daemon=True)
        self._reader.start()

    def _boot(self, kernel: Path, command: str) -> None:
        if (kernel / "linux").exists():
            if (kernel / "lib").exists():
                (self._folder / "lib").symlink_to(kernel / "lib")
            disk = f"ubd0={self._disk}" if self._disk else ""
            words = f"""mem={MEMORY_MIB}M initrd={kernel}/initramfs uml_dir=. {disk}
                con=null con0=null,fd:2 ssl=null ssl1=null,fd:1 quiet -- {command}"""
            self._start([*started(kernel / "linux"), *words.split()], subprocess.PIPE)
            return
        self._share()
        cpu = "max" if ACCELERATOR == "tcg" else "host"
        memory = f"memory-backend-memfd,id=memory,size={MEMORY_MIB}M,share=on"
        drive = f"-drive file={self._disk},format=raw,if=virtio" if self._disk else ""
        words = f"""qemu-system-x86_64 -accel {ACCELERATOR} -cpu {cpu} -smp 1 -m {MEMORY_MIB}
            -object {memory} -numa node,memdev=memory -chardev socket,id=files,path=files
            -device vhost-user-fs-pci,chardev=files,tag=live -nic none -display none -monitor none
            -serial file:/dev/stderr -serial stdio -no-reboot {drive}
            -kernel {kernel}/vmlinuz -initrd {kernel}/initramfs"""
        line = f"console=ttyS0 quiet panic=-1 mitigations=off -- {command}"
        self._start([*words.split(), "-append", line], subprocess.PIPE)

    def _share(self) -> None:
        socket = self._folder / "files"
        words = f"{virtiofsd()} --socket-path={socket} -o source=/ -o cache=always"
        process = self._start([*words.split(), "-o", "sandbox=chroot", "-f"], subprocess.DEVNULL)
        until = time.monotonic() + 5
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > until:
                raise GuestFailed(f"virtiofsd shares nothing\n{self.console()}")
            time.sleep(0.02)

    def _start(self, words: list[str], output: int) -> "subprocess.Popen[str]":
        """A process that ends with this one, however this one ends, and with all its children."""
        with self._console.open("a") as console:
            process = subprocess.Popen(
                [*_BOUND.split(), '"$@"; exit', "sh", *words],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=console,
                text=True,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def _read(self, said: IO[str]) -> None:
        with said:
            for line in said:
                self._lines.put(line)
        self._lines.put("")

    def lines(self) -> Iterator[str]:
        """Lines as they come; GuestFailed, from then on, when they don't."""
        while not self._failed:
            try:
                line = self._lines.get(timeout=PATIENCE_S)
            except Empty:
                self._failed = f"silent for {PATIENCE_S:g} s\n{self.console()}"
                break
            if line:
                yield line
            else:
                self._failed = f"the guest ended\n{self.console()}"
        raise GuestFailed(self._failed)

    def console(self, lines: int = 60) -> str:
        """The last lines of the guest's console."""
        text = self._console.read_text(errors="replace") if self._console.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def end(self) -> None:
        """Switch it off."""
        for process in reversed(self.processes):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._reader.join()
        self._scratch.cleanup()


class Guest(Machine):
    """One boot of a guest kernel that runs some tests."""

    def __init__(self, name: str, tests: Sequence[str]) -> None:
        pytest = f"{shlex.quote(sys.executable)} -m pytest {_PYTEST}"
        settings = f"export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 {NAME}={name}"
        super().__init__(name, f"{settings}\n{pytest} {shlex.join(tests)}\n")

    def reports(self) -> Iterator[dict[str, Any]]:
        """Reports as they come; GuestFailed, from then on, when they don't."""
        yield from (json.loads(line) for line in self.lines() if line.startswith("{"))
