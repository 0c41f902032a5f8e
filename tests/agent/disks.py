"""A disk of a test's own, to be filled."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_BYTES = 256 << 10


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], Callable[[], None]]]:
    """A disk of its own for what is written there; call to fill it, and the answer to free it."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["-t", "tmpfs", "-o", f"size={_BYTES},mode=700", "tmpfs", str(folder)]
    subprocess.run(["mount", *words], check=True)
    filler = folder / "filler"

    def fill() -> Callable[[], None]:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"\0" * 4096)
        return filler.unlink

    try:
        yield fill
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def volume(folder: Path, mib: int = 32, inodes: int = 2000) -> Iterator[str]:
    """An ext4 of its own on a loop device, mounted at a folder; the device's name is yielded.

    The image has no name by then, and the device is free again when it is unmounted.
    """
    if why := why_no_volume():
        pytest.skip(why)
    folder.mkdir(parents=True, exist_ok=True)
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(mib << 20)
    words = ["mkfs.ext4", "-q", "-m", "0", "-N", str(inodes), "-E", "nodiscard", str(image)]
    subprocess.run(words, check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    image.unlink()
    try:
        yield device_of(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def why_no_volume() -> str:
    """Why no volume can be made here, or nothing."""
    if not shutil.which("mkfs.ext4"):
        return "there is no mkfs.ext4: apt-get install e2fsprogs"
    return "" if Path("/dev/loop-control").exists() else "there are no loop devices: modprobe loop"


def device_of(folder: Path) -> str:
    """The device that is mounted at a folder."""
    words = ["findmnt", "--noheadings", "--output", "SOURCE", str(folder)]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
