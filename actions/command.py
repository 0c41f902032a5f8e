"""Break by your own commands what no action of ours reaches: a switch, a cloud's API."""

from typing import Any

from aftershock import run as runs

__all__ = ["heal_commands", "run_command"]


def run_command(
    where: str,
    apply: str,
    undo: str,
    check: str = "",
    timeout_s: float = 10.0,
    lease_s: float = 120.0,
) -> dict[str, Any]:
    """Run `apply` on hosts, and `undo` when the fault ends, however it ends.

    Under the same lease, ledger and evidence as any other fault. `where`: zones and nodes of the
    target, with commas; `all` for every node. Each command is a program and its words as a shell
    would split them (no shell runs it: say `sh -c '…'` for one). `undo` must be harmless when there
    is nothing to undo. `check` exits with 0 while the effect is there and with 1 while it isn't;
    without one nothing proves the effect, and the run is INCONCLUSIVE. `timeout_s`: for each
    command. `lease_s`: after so many seconds the host undoes it by itself.

    Returns the injection with its evidence. Raises `InvalidFault` for commands that make no sense,
    and `NotApplied` when `apply` failed somewhere (it is then undone everywhere).
    """
    breaking = runs.current().breaking
    return breaking.command(where, apply, undo, check, timeout_s, lease_s)


def heal_commands(where: str = "all") -> dict[str, Any]:
    """Order the undo of every command of this run on some hosts. Idempotent."""
    return runs.current().breaking.heal(where, kinds=("command",))
