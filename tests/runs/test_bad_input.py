"""Bad input: one clear sentence with the mend, before anything was touched, and no traceback."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import CHAOS, ROOT, ChaosRun, Outcome

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]


def told(outcome: Outcome) -> str:
    """The one sentence; asserts what holds of every refusal."""
    assert outcome.status != 0
    assert "Traceback" not in outcome.printed
    critical = [line for line in outcome.printed.splitlines() if "CRITICAL" in line]
    assert len(critical) == 1, outcome.printed
    assert outcome.folder is None, "a run folder was made"
    return critical[0].split("CRITICAL] ")[1]


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("zone", "az-z", "unknown zone 'az-z': the lab has az-a, az-b, az-c"),
        ("hold_s", -3, "hold_s is -3: give a value from 0.5"),
        ("lease_s", "long", "lease_s is 'long': give a number"),
        ("levels", "nowhere.yaml", "levels file nowhere.yaml: No such file"),
        ("load_profile", "nowhere.yaml", "load profile 'nowhere.yaml': No such file"),
        ("load_rps", 99_000, "this machine can't send 99000 requests/s: one costs"),
        ("load_bind", "5557", "load_bind is '5557': give an address, HOST:PORT"),
        ("scorer", "mine", "scorer 'mine': no such entry point in the group aftershock.scorers"),
        ("target", "nowhere.json", "target 'nowhere.json': No such file"),
    ],
)
def test_a_variable_that_makes_no_sense(
    chaos_run: ChaosRun, variable: str, value: object, sentence: str
) -> None:
    assert sentence in told(chaos_run("az-failure.json", **{variable: value}))


@pytest.mark.parametrize(
    ("experiment", "words", "sentence"),
    [
        ("storage-latency.json", {"depth": 0}, "depth 0"),
        ("storage-latency.json", {"by": "dm-crypt"}, "by 'dm-crypt': fio or dm-delay"),
        ("disk-full.json", {"free_mib": "little"}, "free_mib is 'little': give a number"),
        ("network-degradation.json", {"loss_share": 1.4}, "share 1.4: a share from 0 to 1"),
        ("network-partition.json", {"direction": "inward"}, "'inward'"),
        ("host-starvation.json", {"cores": -1}, "cores"),
        ("gpu-hang.json", {"by": "boredom"}, "by 'boredom': one of freeze, cuda-lock"),
    ],
)
def test_a_fault_that_makes_no_sense(
    chaos_run: ChaosRun, experiment: str, words: dict[str, object], sentence: str
) -> None:
    """Before the lab is there, and without a minute of load."""
    assert sentence in told(chaos_run(experiment, **words))


def test_a_port_in_use(chaos_run: ChaosRun) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        sentence = told(chaos_run("az-failure.json", gateway_port=port))
    assert str(port) in sentence and "in use" in sentence


def test_a_missing_binary(chaos_run: ChaosRun) -> None:
    haproxy = shutil.which("haproxy", path="/usr/local/sbin:/usr/sbin:/usr/bin")
    assert haproxy
    # In a mount namespace of its own, what can't be executed stands in its place.
    hidden = f'mount --bind /dev/null {haproxy} && exec "$@"'
    sentence = told(chaos_run("az-failure.json", "unshare", "-m", "sh", "-c", hidden, "sh"))
    assert "haproxy" in sentence and "apt-get install" in sentence


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own below the journal."""
    place = tmp_path / "journal"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_under_the_journal(chaos_run: ChaosRun, disk: Path) -> None:
    assert "MiB left and a run needs 64: free some" in told(chaos_run("az-failure.json"))


def test_an_unwritable_journal(chaos_run: ChaosRun, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro,size=100m", disk], check=True)
    assert "can't be written under" in told(chaos_run("az-failure.json"))


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder that anybody may enter and write to."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def test_not_root(elsewhere: Path) -> None:
    """As nobody: one sentence comes, and nothing else does."""
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if subprocess.run([*nobody, CHAOS, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("the virtual environment can't be read by another user here")
    experiment = elsewhere / "e.json"
    experiment.write_text((ROOT / "experiments/az-failure.json").read_text())
    done = subprocess.run(
        [*nobody, CHAOS, "run", experiment],
        cwd=elsewhere,
        env={**os.environ, "HOME": str(elsewhere), "AFTERSHOCK_JOURNAL": str(elsewhere / "j")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    sentence = told(Outcome(done.returncode, done.stdout, None))
    assert "root" in sentence and "sudo" in sentence
    assert not (elsewhere / "j").exists()
