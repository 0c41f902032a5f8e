"""Change the background load."""

from typing import Any

from aftershock.run import climbing, surge

__all__ = ["end_step", "find_cliff", "step_load"]


def step_load(add_rps: float, lease_s: float = 120.0) -> dict[str, Any]:
    """Add requests to the load, at once.

    `add_rps`: requests a second on top of `load_rps`. They end with `end_step`, with the run, with
    the controller, and after `lease_s` by themselves. Returns the injection: whether the added
    requests were seen at the service's gateway. Raises `InvalidFault` for what is no number
    above 0, and `NotApplied` when the generator does not start.
    """
    return surge.step_load(add_rps, lease_s)


def end_step() -> dict[str, Any]:
    """Take the added load away again. Idempotent."""
    return surge.end_step()


def find_cliff(
    from_rps: float,
    most_rps: float,
    factor: float = 1.5,
    step_s: float = 10.0,
    at_least_rps: float = 0.0,
) -> dict[str, Any]:
    """Step the load up until the service breaks, then take the added load away again.

    The steps: `from_rps` requests a second in all, each step `factor` times the one before, up to
    `most_rps`, each for `step_s`. It ends when good answers become fewer, two steps after the first
    that broke, or when the load generator can't keep up. Recovery is counted from its end: does the
    service come back by itself? With `at_least_rps` a knee below that is a FAIL.

    Returns the injection and `cliff`: `knee_rps` (the last rate that held its golden latency and
    throughput, and the first that did not), `collapse_rps`, `capacity_rps` with its 95 % interval,
    what was `saturated`, `shedding_rps` (P99 fell while errors rose), and the `steps`. Raises
    `InvalidFault` for steps that make no sense.
    """
    return climbing.find_cliff(from_rps, factor, most_rps, step_s, at_least_rps)
