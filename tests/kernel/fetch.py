"""Fetch the guest kernels that network faults are tested on, from Debian, by package name.

    python -m tests.kernel.fetch build/guest [NAME]

QEMU and busybox are installed where they are missing; kernels are unpacked, never installed. What
can't be had is told, written down for the tests to say, and no failure. User-mode Linux comes
first where its version fits, since it runs as fast as this machine; but it doesn't on each: Debian
12's dies on CPUs with AMX. So it is tried, and an ordinary kernel on an emulated CPU comes next.
"""

import gzip
import lzma
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from .debian import Missing, Package, Release, install, run

INIT = Path(__file__).parent / "init.sh"
WHY_NOT = "why-not"
TOOLS = {"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static"}
# Before Debian 13 QEMU's own package brings virtiofsd.
VIRTIOFSD = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd")
MODULES = (
    *("virtio_pci", "virtio_blk", "virtiofs", "overlay", "ext4", "veth", "bridge", "ifb", "dummy"),
    *("tun", "tcp_diag", "8021q", "rdma_rxe", "crc32_generic", "crc32c_generic"),
    *("cls_bpf", "cls_u32", "cls_flower", "cls_matchall", "act_gact", "act_mirred", "act_police"),
    *("loop", "null_blk", "dm-mod", "dm-delay", "dm-flakey"),  # as their files are called
    *("sch_ingress", "sch_netem", "sch_tbf", "sch_htb", "sch_prio", "sch_sfq", "sch_fq_codel"),
)


class Kernel(NamedTuple):
    """A guest kernel: the packages that may bring it, and the versions that will do."""

    packages: tuple[Package, ...]
    least: tuple[int, int]
    below: tuple[int, int]

    def fits(self, version: str) -> bool:
        """Whether a version such as 6.12.117+deb12 will do."""
        major, minor = version.split(".")[:2]
        return self.least <= (int(major), int(minor)) < self.below


USER_MODE = "user-mode-linux"
OWN_LOADER, LOADER = b"/lib64/ld-linux-x86-64.so.2", b"lib/ld-linux-x86-64.so.2"
KERNELS = {
    "tcx": Kernel(
        (
            Package(USER_MODE),
            Package(USER_MODE, "trixie"),
            Package(USER_MODE, "sid"),  # the first that runs on CPUs with AMX
            Package("linux-image-6.12-cloud-amd64"),
            Package("linux-image-cloud-amd64"),
        ),
        (6, 6),
        (99, 0),
    ),
    "clsact": Kernel((Package(USER_MODE), Package("linux-image-cloud-amd64")), (5, 10), (6, 6)),
}
# A machine's own, with what those have not (null_blk, Soft-RoCE); on an emulated CPU, so for a few
# tests.
ORDINARY = "ordinary"
ON_REQUEST = {ORDINARY: Kernel((Package("linux-image-amd64"),), (5, 10), (99, 0))}


def has_netem() -> bool:
    """Whether this machine's own kernel has netem: then no guest is needed."""
    words = "tc qdisc add dev lo root netem delay 1ms"
    try:
        tried = subprocess.run(
            ["unshare", "--net", *words.split()], check=False, capture_output=True
        )
    except OSError:
        return False
    return tried.returncode == 0


def virtiofsd() -> str:
    """The daemon that shares this machine's file system with a guest."""
    for path in VIRTIOFSD:
        if Path(path).exists():
            return path
    raise Missing("no virtiofsd here: install the package virtiofsd")


def fetch(folder: Path, kernels: Mapping[str, Kernel] = KERNELS) -> bool:
    """The guest kernels, ready to boot; whether all of them are."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if kernels is KERNELS and has_netem():
        return True
    try:
        _install_tools()
    except Missing as error:
        for name in kernels:
            _tell(folder / name, str(error))
        return False
    fetched = [fetch_kernel(folder / name, kernel) for name, kernel in kernels.items()]
    return all(fetched)


def _install_tools() -> None:
    if platform.machine() != "x86_64":
        raise Missing(f"the guest kernels are for x86_64, not {platform.machine()}")
    if not shutil.which("apt-get"):
        raise Missing("there is no apt-get to fetch a kernel with netem by")
    run("apt-get", "update", "-qq")
    missing = [package for tool, package in TOOLS.items() if not shutil.which(tool)]
    if missing:
        install(missing)
    try:
        virtiofsd()
    except Missing:
        install(["virtiofsd"])


def fetch_kernel(folder: Path, kernel: Kernel) -> bool:
    """One kernel, ready to boot, from the first package that brings it; whether it is."""
    if _is_current(folder / "initramfs"):
        return True
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    said = []
    for asked in kernel.packages:
        try:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                _unpack(asked, kernel, Path(scratch), folder)
            return True
        except Missing as error:
            said.append(f"{asked}: {error}")
            print(f"not {said[-1]}", flush=True)
    _tell(folder, "; ".join(said))
    return False


def _is_current(initramfs: Path) -> bool:
    """Whether it was made of the init and the modules that it should have by now."""
    sources = max(path.stat().st_mtime for path in (INIT, Path(__file__)))
    return initramfs.exists() and initramfs.stat().st_mtime > sources


def _tell(folder: Path, why: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / WHY_NOT).write_text(why + "\n")
    print(f"no guest kernel {folder.name}, its tests will be skipped: {why}", flush=True)


def _unpack(asked: Package, kernel: Kernel, scratch: Path, folder: Path) -> None:
    release = Release(asked.release, scratch)
    package, version = release.version_of(asked.name)
    if not kernel.fits(version):
        raise Missing(f"it is {version}")
    print(f"unpacking from Debian: {package} {version}", flush=True)
    tree = release.unpack(package, scratch)
    found = next(path for path in tree.glob("**/modules/*") if path.is_dir())
    modules, small = (scratch / name / "lib/modules" / found.name for name in ("all", "small"))
    modules.parent.mkdir(parents=True)
    found.rename(modules)
    _depmod(modules)
    _pick(modules, small)
    _depmod(small)
    initramfs = scratch / "initramfs"
    initramfs.write_bytes(gzip.compress(_cpio(scratch / "small"), 1))
    if package == USER_MODE:
        program = tree / "usr/bin/linux.uml"
        if asked.release:
            _bring_library(program, release, scratch, folder)
        _try(program, initramfs, scratch)
        program.replace(folder / "linux")
    else:
        next((tree / "boot").glob("vmlinuz-*")).replace(folder / "vmlinuz")
    initramfs.replace(folder / "initramfs")


def _bring_library(program: Path, release: Release, scratch: Path, folder: Path) -> None:
    """Let a program of another release find that release's C library in ./lib, and nothing else."""
    library = next(release.unpack("libc6", scratch).glob("**/libc.so.6")).parent
    shutil.copytree(library, folder / "lib", dirs_exist_ok=True)
    (scratch / "lib").symlink_to(folder.absolute() / "lib")
    content = program.read_bytes()
    if content.count(OWN_LOADER + b"\0") != 1:
        raise Missing("its loader is another one than expected")
    name = LOADER.ljust(len(OWN_LOADER), b"\0")
    program.write_bytes(content.replace(OWN_LOADER, name))


def _try(program: Path, initramfs: Path, scratch: Path) -> None:
    words = [*started(program), "mem=256M", f"initrd={initramfs}", "uml_dir=.", "con=null"]
    try:
        tried = subprocess.run(
            [*words, "con0=null,fd:1", "--", "/usr/bin/printf", "%o", "20000"],
            check=False,
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(str(error)) from None
    if b"47040" not in tried.stdout:  # no word of the command line, which the kernel prints, too
        raise Missing((tried.stdout.decode(errors="replace").strip() or "silent").splitlines()[-1])


def started(program: Path) -> list[str]:
    """How user-mode Linux is started, in a folder where ./lib is its own library if it has one."""
    return ["env", "LD_LIBRARY_PATH=lib", str(program)]


def _depmod(modules: Path) -> None:
    run("busybox", "depmod", "-b", str(modules.parents[2]), modules.name)


def _pick(modules: Path, small: Path) -> None:
    """Copy the modules that are needed, and what they need; what is built in is no file."""
    needs = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        name, _, rest = line.partition(":")
        needs[Path(name).name.split(".")[0]] = [name, *rest.split()]
    for path in {path for name in MODULES for path in needs.get(name, ())}:
        target = small / path.removesuffix(".xz")
        target.parent.mkdir(parents=True, exist_ok=True)
        content = (modules / path).read_bytes()
        target.write_bytes(lzma.decompress(content) if path.endswith(".xz") else content)
    for name in ("modules.order", "modules.builtin"):
        shutil.copy(modules / name, small)


def _cpio(tree: Path) -> bytes:
    """An initramfs of a tree of modules, busybox and our init (cpio's newc format)."""
    busybox = shutil.which("busybox")
    assert busybox
    files: list[tuple[str, int, bytes]] = [("bin", 0o40755, b"")]
    files.append(("bin/busybox", 0o100755, Path(busybox).read_bytes()))
    files.append(("bin/modprobe", 0o120777, b"busybox"))
    files.append(("init", 0o100755, INIT.read_bytes()))
    files += _files(tree)
    files.append(("TRAILER!!!", 0, b""))
    parts = []
    for number, (name, mode, content) in enumerate(files, 1):
        path = name.encode() + b"\0"
        numbers = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
        head = b"070701" + b"".join(b"%08x" % one for one in numbers) + path
        parts += [head, b"\0" * (-len(head) % 4), content, b"\0" * (-len(content) % 4)]
    return b"".join(parts)


def _files(tree: Path) -> Iterator[tuple[str, int, bytes]]:
    for path in sorted(tree.rglob("*")):
        name = str(path.relative_to(tree))
        if path.is_dir():
            yield name, 0o40755, b""
        else:
            yield name, 0o100644, path.read_bytes()


def main(folder: str, name: str = "") -> None:
    """What all tests want, or a kernel that only few do."""
    if fetch(Path(folder), {name: ON_REQUEST[name]} if name else KERNELS):
        (Path(folder) / (f"{name}-ready" if name else "ready")).touch()


if __name__ == "__main__":
    main(*sys.argv[1:])
