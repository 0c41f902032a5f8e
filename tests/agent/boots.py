"""A machine that seems to have been restarted."""

import subprocess
import sys
from pathlib import Path

_BOOT = "/proc/sys/kernel/random/boot_id"


def another_boot(folder: Path) -> tuple[str, ...]:
    """Words that make what follows believe that the machine was restarted."""
    fake = folder / "boot_id"
    fake.write_text("00000000-1111-2222-3333-444444444444\n")
    script = f'mount --bind {fake} {_BOOT} && exec "$@"'
    return ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")


def recover_after_restart(folder: Path) -> str:
    """What `aftershock recover` says on a machine that seems to have been restarted."""
    words = [*another_boot(folder), str(Path(sys.executable).with_name("aftershock")), "recover"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
