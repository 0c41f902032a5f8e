"""Break GPUs: their memory and their time taken, their engines hung, a GPU lost.

`where` names zones and nodes of the target, with commas; `all` means every node. `gpus` names GPUs
on each: indexes as NVML counts (`0,1`), UUIDs (`GPU-…`), or `all`; for memory pressure also MIG
instances, by UUID (`MIG-…`; `nvidia-smi -L` lists them). `used_by`: a regular expression for the
command lines of those who use them and are meant; a GPU that anybody else uses is refused, unless
`anyone`. Run by the agent on the GPUs' host with the driver's own libraries: no toolkit and no
framework is needed there.

`lease_s`: seconds after which each host heals by itself, whatever became of us. It raises
`InvalidFault` for what makes no sense and `Unsupported` where there is no driver, both before
anything is touched, and `NotApplied` when a host refused: no such GPU, more memory than there is, a
GPU in exclusive mode, pressed as a whole though MIG splits it, or of somebody who is not meant.
Each injection's evidence has its `level`: `emulated` on the lab, whose driver is a mock.
"""

from typing import Any

from aftershock import run as runs
from aftershock.run import gpus as faults

__all__ = [
    "hang_engine",
    "heal_gpus",
    "lose_gpu",
    "press_gpu_compute",
    "press_gpu_memory",
    "slow_gpu",
]


def press_gpu_memory(
    where: str,
    gpus: str = "0",
    take_mib: float = 0.0,
    free_mib: float = 0.0,
    share: float = 0.0,
    keep: bool = False,
    steps: int = 1,
    over_s: float = 0.0,
    block_mib: float = 0.0,
    used_by: str = "",
    anyone: bool = False,
    lease_s: float = 120.0,
) -> dict[str, Any]:
    """Take memory of GPUs: `take_mib`, or all but `free_mib`, or until a `share` (0 to 1) is used.

    In `steps` equal parts over `over_s` seconds, or at once; written to, so that it is there. An
    engine that took its memory when it started mostly doesn't feel it; one that is restarted
    meanwhile finds too little. `keep`: what others let go of is taken as well, so that it stays
    scarce when an engine ends. A child of the agent holds it; the driver frees it with the child,
    however that ends. Evidence: NVML's used memory, asked from another process.

    `block_mib` (a multiple of 2): fragmented. Twice as much is taken in blocks of that size, and
    every other one freed: large allocations fail then although enough is free. Between a third and
    half of what is free can be held so, in whole blocks; not with `keep` or `steps`. Evidence: the
    largest single allocation that succeeds, tried by another process, which takes nearly all that
    is free for a moment. On a GPU that maps memory in pages it succeeds: the fault had no effect.
    """
    words = {
        "gpus": gpus,
        "take_mib": take_mib,
        "free_mib": free_mib,
        "share": share,
        "keep": keep,
        "steps": steps,
        "over_s": over_s,
        "block_mib": block_mib,
        "used_by": used_by,
        "anyone": anyone,
    }
    return faults.press_memory(runs.current(), where, words, lease_s)


def press_gpu_compute(
    where: str,
    gpus: str = "0",
    duty_percent: float = 100.0,
    bound: str = "compute",
    used_by: str = "",
    anyone: bool = False,
    lease_s: float = 120.0,
) -> dict[str, Any]:
    """Keep GPUs busy for `duty_percent` (1 to 100) of the time, beside whoever uses them.

    By kernels on all multiprocessors, in periods of a tenth of a second; `bound` by `compute`, or
    by the `bandwidth` of the GPU's memory. The driver shares the GPU by time: others wait. A child
    of the agent runs them, and ends with it. Evidence: NVML's utilisation over a window. It tells
    none of a MIG instance: that is refused.
    """
    words = {
        "gpus": gpus,
        "duty_percent": duty_percent,
        "bound": bound,
        "used_by": used_by,
        "anyone": anyone,
    }
    return faults.press_compute(runs.current(), where, words, lease_s)


def slow_gpu(
    where: str,
    gpus: str = "0",
    clock_mhz: float = 0.0,
    power_w: float = 0.0,
    allowed: bool = False,
    used_by: str = "",
    anyone: bool = False,
    lease_s: float = 120.0,
) -> dict[str, Any]:
    """Lock GPUs' clocks to `clock_mhz`, or limit their power to `power_w` watts, or both.

    These outlive whoever set them and are felt by all who use the card: refused unless `allowed`,
    where somebody has set clocks already, and where the driver does not permit it. The agent puts
    them back, or its watcher when the agent is gone, or `aftershock recover`. Evidence: NVML's
    clock over a window, and its power limit; an idle card's clock proves nothing.
    """
    words = {
        "gpus": gpus,
        "clock_mhz": clock_mhz,
        "power_w": power_w,
        "allowed": allowed,
        "used_by": used_by,
        "anyone": anyone,
    }
    return faults.slow_down(runs.current(), where, words, lease_s)


def hang_engine(
    where: str,
    pattern: str = r"VLLM::EngineCore|engine_core",
    count: int = 1,
    timeout_s: float = 2.0,
    lease_s: float = 120.0,
    by: str = "freeze",
) -> dict[str, Any]:
    """Stop an engine's core, as a GPU that hangs does, while its API's process goes on.

    `pattern` is looked for in the command lines of each host's processes, as `pgrep -f` does, and
    must match `count` of them; their descendants stop, too (workers of other GPUs). `by`:

    - `freeze`: ptrace stops all their threads. The agent's death lets them go on, however it dies.
    - `cuda-lock`: CUDA's cuCheckpointProcessLock (NVIDIA's driver 570 or newer) lets them wait in
      their next CUDA call, and run on otherwise. Those of them are locked that use a GPU, as NVML
      tells; refused where none does, or somebody has locked one. It outlives whoever locked: the
      agent unlocks them, or its watcher when the agent is gone, or `aftershock recover`.

    Evidence: another process sees all threads stopped, or is told by the driver that CUDA is
    locked; and each replica on the hosts answers `/health` while it gives no token within
    `timeout_s`. One whose health check fails as well does not hang like a GPU: no effect is seen.
    """
    words = {"pattern": pattern, "count": count, "timeout_s": timeout_s, "by": by}
    return faults.hang(runs.current(), where, words, lease_s)


def lose_gpu(
    where: str,
    gpus: str = "0",
    pattern: str = r"VLLM::EngineCore|engine_core",
    count: int = 1,
    error: str = "device-lost",
    calls: str = "",
    newcomers: bool = True,
    xid: int = 79,
    kernel_log: bool = False,
    lease_s: float = 120.0,
) -> dict[str, Any]:
    """Lose a GPU, as far as its processes and monitoring can tell.

    One half: CUDA `calls` (`cuMemAlloc_v2,cuLaunchKernel`; all that are known by default) fail with
    `error` (device-lost, out-of-memory, illegal-address, launch-failed, ecc) in the `count`
    processes whose command lines match `pattern`, and with `newcomers` in those that are started in
    their place. They must have been started with our library (docs/gpu.md). Held by a lock of the
    agent's: it ends with the agent, however that dies, and at its deadline.

    The other: DCGM shows `xid` for `gpus` (by `dcgmi test --inject`), and with `kernel_log` the
    kernel's log has a line that says it was injected; that line stays. An empty `pattern` or an
    `xid` of 0 leaves one half out, and the evidence says that it is half a fault. Evidence: calls
    that failed, as the processes counted them; what `dcgmi` shows.
    """
    words = {
        "gpus": gpus,
        "pattern": pattern,
        "count": count,
        "error": error,
        "calls": calls,
        "newcomers": newcomers,
        "xid": xid,
        "kernel_log": kernel_log,
    }
    return faults.lose(runs.current(), where, words, lease_s)


def heal_gpus(where: str = "all") -> dict[str, Any]:
    """Order the heal of every GPU fault of this run on some hosts. Idempotent."""
    return runs.current().breaking.heal(where, kinds=faults.KINDS)
