"""What can't be covered by a copy is refused by name; what a copy is made of, on any kernel."""

import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from disks import volume

from aftershock.agent import copying, mapper
from aftershock.agent.covering import check
from aftershock.agent.errors import AgentError, CannotDo, Invalid
from aftershock.agent.openfiles import writers
from aftershock.errors import InvalidFault
from aftershock.faults.covering import FileDelay

MIB = 1 << 20
root = pytest.mark.root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "weights"
    made.mkdir()
    (made / "file").write_bytes(os.urandom(2 * MIB))
    return made


def options(folder: Path | str, **more: Any) -> dict[str, Any]:
    return {"kind": "cover", **FileDelay(str(folder), 50, read_only=True).options(), **more}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({}, "below /mnt for writing gets EROFS while it holds: say read_only=True"),
        ({"path": "weights"}, "path 'weights': give it whole, from / on"),
        ({"read_ms": 0}, "read_ms 0: from 1 to 5000"),
        ({"read_ms": 5001}, "read_ms 5001: from 1 to 5000"),
        ({"most_mib": 0}, "most_mib 0: more than 0, at most 4096"),
    ],
)
def test_nonsense_is_refused(words: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidFault, match=said):
        FileDelay(**{"path": "/mnt", "read_ms": 50, **words})


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/", "would hide "),
        ("/usr", "would hide what "),
        ("/usr/share", "would hide what heals (/usr)"),
        ("/etc/ssl", "would hide what the host needs (/etc)"),
        ("/var/lib", "would hide what the host needs (/var/lib)"),
        (str(Path(sys.executable).parent), f"would hide what heals ({sys.executable})"),
        ("/proc/self", "would hide what the host needs (/proc)"),
        ("/nowhere", "it is not there"),
    ],
)
def test_nothing_that_is_needed_is_hidden(path: str, said: str) -> None:
    with pytest.raises(Invalid) as refused:
        check(options(path))
    assert said in str(refused.value)


def test_our_own_records_are_not_hidden(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["agent", "--state", str(folder / "state"), "--host", "x"])
    with pytest.raises(Invalid, match="would hide our own records"):
        check(options(folder))


def test_an_agent_in_a_pod_mounts_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFTERSHOCK_HOST_ROOT", "/proc/1/root")
    with pytest.raises(CannotDo, match="in a pod mounts nothing on its host: reach it by SSH"):
        check(options(folder))


@root
def test_others_mounts_are_not_hidden(folder: Path) -> None:
    with volume(folder / "more"), pytest.raises(Invalid, match="more is mounted below /"):
        check(options(folder))


def test_more_than_was_said_is_not_copied(folder: Path) -> None:
    with pytest.raises(Invalid, match="has more than 1 MiB, or 100000 files, and all would be"):
        check(options(folder, most=MIB))


@root
def test_room_is_left(tmp_path: Path) -> None:
    with volume(tmp_path / "disk", mib=32):
        (tmp_path / "disk" / "file").write_bytes(bytes(14 * MIB))
        with pytest.raises(Invalid, match=r"takes 22\.\d+ MiB, .*disk \(/dev/loop.* must stay so"):
            check(options(tmp_path / "disk"))


@contextmanager
def opened(file: Path, mode: str) -> Iterator[None]:
    with file.open(mode):
        yield


@contextmanager
def mapped(file: Path, mode: str) -> Iterator[None]:
    """Mapped, and closed again."""
    with file.open(mode) as number:
        rights = mmap.ACCESS_WRITE if "+" in mode else mmap.ACCESS_READ
        memory = mmap.mmap(number.fileno(), 4096, access=rights)
    yield
    memory.close()


@pytest.mark.parametrize("way", [opened, mapped])
def test_what_is_written_now_is_not_covered(folder: Path, way: Any) -> None:
    with way(folder / "file", "r+b"):
        with pytest.raises(Invalid) as refused:
            check(options(folder))
        said = f"cover: a file in {folder} is open for writing by process {os.getpid()} ("
        assert said in str(refused.value)
    with way(folder / "file", "rb"):
        assert writers(copying.survey(str(folder), MIB << 10).inodes) == []


def test_a_host_without_what_it_takes_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(**told: Any) -> str:
        with monkeypatch.context() as patch:
            for name, value in told.items():
                patch.setattr(f"aftershock.agent.covering.{name}", value)
            with pytest.raises(CannotDo) as refused:
                check(options(folder))
        return str(refused.value)

    def fail(*_: str) -> bool:
        raise AgentError("dmsetup targets: /dev/mapper/control: open failed")

    have = {"host_program": lambda name, package: [name]}
    none = {"_TOOLS": (("no-such-mkfs", "e2fsprogs"),)}
    assert "there is no no-such-mkfs on this host: install it" in without(**none)
    monkeypatch.setattr(mapper, "has_target", lambda target: False)
    assert "this kernel has no dm-delay: `aftershock doctor` tells" in without(**have)
    monkeypatch.setattr(mapper, "has_target", fail)
    assert "no device-mapper (dmsetup targets: /dev/mapper/control" in without(**have)
    monkeypatch.setattr("aftershock.agent.covering._LOOPS", "/dev/no-loop-control")
    assert "no loop devices on this host: modprobe loop" in without(**have)


@root
def test_a_copy_has_all_that_is_there(folder: Path, tmp_path: Path) -> None:
    (folder / "more").mkdir(mode=0o2750)
    (folder / "more" / "small").write_bytes(b"x")
    os.chown(folder / "more" / "small", 1234, 70000)
    (folder / "link").symlink_to("more/small")
    folder.chmod(0o711)
    tree = copying.survey(str(folder), 8 * MIB)
    file = copying.image(str(folder), tree)
    mounted = tmp_path / "copy"
    mounted.mkdir()
    device, path = copying.on_loop(file)
    try:
        subprocess.run(["mount", "-o", "ro", path, str(mounted)], check=True)
        try:
            copying.check_same("/x", tree, copying.survey(str(mounted), 8 * MIB))
            assert (mounted / "file").read_bytes() == (folder / "file").read_bytes()
        finally:
            subprocess.run(["umount", str(mounted)], check=True)
    finally:
        os.close(device)
        os.close(file)
    assert sorted(one.name for one in folder.iterdir()) == ["file", "link", "more"]


@root
def test_what_a_copy_lacks_is_named(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "socket"))
        tree = copying.survey(str(folder), 8 * MIB)
        (folder / "socket").unlink()
        without = copying.survey(str(folder), 8 * MIB)
        with pytest.raises(AgentError, match=r"/x/socket is not in the copy.*\(a socket, say\)"):
            copying.check_same("/x", tree, without)
