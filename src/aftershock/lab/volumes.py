"""A small volume a zone, as slow as a disk: a loop device in memory with a cgroup's limits on it.

The images lie in the lab's own /dev/shm without a name, and the devices are freed with the lab's
mounts: a device-mapper one, too, which is told to go when nobody has it open. Cgroups outlive a lab
that is killed: see `cgroups`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from aftershock.agent import blkio
from aftershock.agent.cgroups import enter, make
from aftershock.agent.errors import AgentError
from aftershock.lab import cgroups
from aftershock.lab.settings import LabFailed, LabSettings, Place

FOLDER = "/dev/shm/volumes"
WEIGHTS = "weights"


def path_of(zone: str) -> Path:
    """Where a zone's volume is mounted, in the lab."""
    return Path(FOLDER) / zone


def cgroup_of(lab_dir: Path, zone: str = "") -> str:
    """The cgroup of a zone's processes, or of the whole lab."""
    own = f"{blkio.hierarchy().top}/{cgroups.name_of(lab_dir)}"
    return f"{own}/{zone}" if zone else own


def home_of(lab_dir: Path, zone: str) -> str:
    """The cgroup that a zone's processes are in: below its own where version 2 has nodes there."""
    own = cgroup_of(lab_dir, zone)
    return f"{own}/{cgroups.HOST}" if blkio.hierarchy().version == 2 else own


def joined(settings: LabSettings, lab_dir: Path, place: Place) -> dict[str, str]:
    """What tells an agent on a node to be in its zone's cgroup."""
    return {"AFTERSHOCK_JOIN": home_of(lab_dir, place.zone)} if settings.volume_mib else {}


class Volumes:
    """The volumes of a lab, and who is limited on them."""

    def __init__(self, settings: LabSettings, lab_dir: Path) -> None:
        self._settings, self._lab_dir = settings, lab_dir
        self._zones = list(dict.fromkeys(place.zone for place in settings.places()))

    def build(self) -> None:
        """Make them, with a file of weights on each."""
        if not self._settings.volume_mib:
            return
        where = blkio.hierarchy()
        make(cgroup_of(self._lab_dir), where.version, ("io",))
        for zone in self._zones:
            folder = path_of(zone)
            folder.mkdir(parents=True)
            self._mount(folder)
            with (folder / WEIGHTS).open("wb") as file:
                for _ in range(self._settings.weights_mib):
                    file.write(os.urandom(1 << 20))
                os.fsync(file.fileno())
            make(cgroup_of(self._lab_dir, zone), where.version, ("io",))
            make(home_of(self._lab_dir, zone), where.version, ())
            number = folder.stat().st_dev
            rate = int(self._settings.volume_mib_s * (1 << 20))
            wanted = {"rbps": rate, "wbps": rate, "riops": 0, "wiops": 0}
            device = f"{os.major(number)}:{os.minor(number)}"
            blkio.limit(where, cgroup_of(self._lab_dir, zone), device, wanted)

    def _mount(self, folder: Path) -> None:
        image = folder.with_suffix(".img")
        with image.open("wb") as file:
            file.truncate(self._settings.volume_mib << 20)
        options = ["-q", "-m", "0", "-O", "^has_journal", "-E", "nodiscard"]
        _run("mkfs.ext4", *options, str(image))
        if self._settings.volume_mapped:
            self._mount_mapped(image, folder)
        else:
            _run("mount", "-o", "loop", str(image), str(folder))
        image.unlink()

    def _mount_mapped(self, image: Path, folder: Path) -> None:
        """On a linear device-mapper device, as LVM makes them, between mount and loop device."""
        name = f"{cgroups.name_of(self._lab_dir)}-{folder.name}"
        loop = _run("losetup", "--find", "--show", str(image))
        try:
            table = f"0 {self._settings.volume_mib << 11} linear {loop} 0"
            _run("dmsetup", "create", name, "--noudevsync", "--table", table)
            try:
                number = _run("dmsetup", "info", name, "--columns", "--noheadings", "-o", "minor")
                _run("mount", f"/dev/dm-{number}", str(folder))
            finally:
                _run("dmsetup", "remove", "--deferred", "--noudevsync", name)
        finally:
            _run("losetup", "--detach", loop)  # once nobody has it open

    def enter(self, place: Place, pid: int) -> None:
        """Let a pod's process share its zone's limits."""
        if self._settings.volume_mib:
            with contextlib.suppress(AgentError):  # it ended just now
                enter(home_of(self._lab_dir, place.zone), pid)

    def arguments(self, place: Place) -> list[str]:
        """What tells a model server where its weights are."""
        if not self._settings.volume_mib:
            return []
        return ["--weights", str(path_of(place.zone) / WEIGHTS)]


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabFailed(f"{' '.join(words)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()
