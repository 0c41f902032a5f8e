"""What `make demo` installs on a machine that lacks it; apt is a stand-in that keeps a record."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .test_discover import ROOT

TOOLS = ("mkdir", "touch", "rm", "chmod", "tail", "id", "make", "cat")
THERE = (
    *("ip", "tc", "nsenter", "haproxy", "cc", "systemctl"),
    *(
        "sshd",
        "ssh-keygen",
        "cron",
        "sudo",
        "fio",
        "mkfs.ext4",
        "dmsetup",
        "wrk",
        "hey",
        "chromium",
    ),
)
APT = """#!/bin/bash
echo "apt-get $*" >> {record}
[ "$1" = update ] && exit 0
if [ -e {policy} ]; then {policy}; echo "policy says $?" >> {record}; fi
{then}
"""


class Machine:
    """A folder that is the whole PATH, with stand-ins for what may be absent."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.project = folder / "project"
        self.project.mkdir()
        self.record = folder / "record"
        self.policy = folder / "policy-rc.d"
        shutil.copy(ROOT / "Makefile", self.project)
        for name in TOOLS:
            found = shutil.which(name)
            assert found, name
            (self.bin / name).symlink_to(found)
        for name in THERE:
            self.has(name)
        self.has("python3", f'exec {sys.executable} "$@"')
        self.has_apt()

    def has(self, name: str, script: str = "") -> None:
        words = script or f'echo "{name} $*" >> {self.record}'
        (self.bin / name).write_text(f"#!/bin/bash\n{words}\n")
        (self.bin / name).chmod(0o755)

    def has_apt(self, then: str = "exit 0") -> None:
        text = APT.format(record=self.record, policy=self.policy, then=then)
        (self.bin / "apt-get").write_text(text)
        (self.bin / "apt-get").chmod(0o755)

    def lacks(self, name: str) -> None:
        (self.bin / name).unlink()

    def make(self, *words: str, target: str = "build/system") -> "subprocess.CompletedProcess[str]":
        options = [f"POLICY={self.policy}", f"SYSTEM_PATH={self.bin}"]
        return subprocess.run(
            [self.bin / "make", "-C", self.project, target, *options, *words],
            cwd="/",
            env={"PATH": str(self.bin), "HOME": "/nonexistent"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    @property
    def recorded(self) -> list[str]:
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [line for line in lines if line.startswith(("apt-get", "policy", "systemctl"))]

    @property
    def is_done(self) -> bool:
        return (self.project / "build/system").exists()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    if os.geteuid() != 0:
        pytest.skip("installing is for root")
    return Machine(tmp_path)


def test_nothing_is_installed_where_nothing_is_missing(machine: Machine) -> None:
    done = machine.make()
    assert (done.returncode, machine.recorded, machine.is_done) == (0, [], True), done.stdout


def test_haproxy_is_installed_without_its_service(machine: Machine) -> None:
    machine.lacks("haproxy")
    done = machine.make()
    assert done.returncode == 0, done.stdout
    assert machine.recorded == [
        "apt-get update -qq",
        "apt-get install -qq -y --no-install-recommends haproxy",
        "policy says 101",
        "systemctl disable --now haproxy",
    ]
    assert not machine.policy.exists()
    assert "installing from Debian: haproxy" in done.stdout


def test_somebody_elses_policy_stays(machine: Machine) -> None:
    machine.policy.write_text("#!/bin/sh\nexit 104\n")
    machine.policy.chmod(0o755)
    machine.lacks("haproxy")
    assert machine.make().returncode == 0
    assert "policy says 104" in machine.recorded
    assert machine.policy.read_text() == "#!/bin/sh\nexit 104\n"


def test_only_what_is_absent(machine: Machine) -> None:
    machine.lacks("tc")
    machine.lacks("cc")
    assert machine.make().returncode == 0
    assert machine.recorded[1].endswith("--no-install-recommends iproute2 gcc libc6-dev")
    assert not any("systemctl" in line for line in machine.recorded)


def test_a_compiler_without_headers_is_absent(machine: Machine) -> None:
    machine.has("cc", "exit 1")
    assert machine.make().returncode == 0
    assert machine.recorded[1].endswith("gcc libc6-dev")


def test_a_failed_installation_says_why_and_leaves_no_policy(machine: Machine) -> None:
    machine.lacks("haproxy")
    machine.has_apt("echo 'E: Unable to locate package haproxy'; exit 100")
    done = machine.make()
    assert done.returncode != 0
    assert "Unable to locate package haproxy" in done.stdout
    assert not machine.policy.exists()
    assert not machine.is_done


def test_a_python_without_ensurepip(machine: Machine) -> None:
    """As Debian ships it: python3-venv brings it, which the stand-in for apt does as well."""
    marker = machine.project / "has-venv"
    machine.has("python3", f"case $2 in *ensurepip*) [ -e {marker} ];; esac")
    machine.has_apt(f"touch {marker}")
    assert machine.make().returncode == 0
    assert machine.recorded[1].endswith("--no-install-recommends python3-venv")


def test_a_python_that_debian_cannot_mend(machine: Machine) -> None:
    machine.has("python3.99", "case $2 in *ensurepip*) exit 1;; esac")
    done = machine.make("PYTHON=python3.99")
    assert done.returncode != 0 and not machine.is_done
    assert "python3.99 has no venv of its own" in done.stdout


def test_no_python_at_all(machine: Machine) -> None:
    machine.lacks("python3")
    done = machine.make()
    assert done.returncode != 0
    assert "there is no python3: install Python 3.11 or newer" in done.stdout


def test_another_distribution(machine: Machine) -> None:
    machine.lacks("haproxy")
    machine.lacks("apt-get")
    done = machine.make()
    assert done.returncode != 0
    assert "missing: haproxy (as Debian names them); install them" in done.stdout


def test_not_root(machine: Machine) -> None:
    machine.lacks("haproxy")
    machine.lacks("id")
    machine.has("id", "echo 1000")
    done = machine.make()
    assert done.returncode != 0
    assert "sudo apt-get install haproxy" in done.stdout
    assert machine.recorded == []


@pytest.mark.parametrize(
    ("tool", "package", "service"), [("sshd", "openssh-server", "ssh"), ("cron", "cron", "cron")]
)
def test_daemons_are_installed_for_the_tests_without_their_services(
    machine: Machine, tool: str, package: str, service: str
) -> None:
    machine.lacks(tool)
    done = machine.make(target="build/developers")
    assert done.returncode == 0, done.stdout
    assert machine.recorded == [
        "apt-get update -qq",
        f"apt-get install -qq -y --no-install-recommends {package}",
        "policy says 101",
        f"systemctl disable --now {service}",
    ]
    assert (machine.project / "build/developers").exists() and not machine.policy.exists()


def test_an_sshd_that_is_there_is_left_alone(machine: Machine) -> None:
    assert machine.make(target="build/developers").returncode == 0
    assert machine.recorded == []


def test_without_root_tests_over_ssh_are_skipped(machine: Machine) -> None:
    machine.lacks("sshd")
    machine.lacks("id")
    machine.has("id", "echo 1000")
    done = machine.make(target="build/developers")
    assert done.returncode == 0 and machine.recorded == []
    assert "missing: openssh-server; tests that need them are skipped" in done.stdout
