"""Change the background load."""

from typing import Any

from aftershock.run import climbing, flooding, soaking, surge

__all__ = ["end_step", "exhaust_kv_cache", "find_cliff", "soak", "step_load"]


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


def exhaust_kv_cache(
    add_rps: float = 20.0,
    prompt_tokens: float = 1024.0,
    output_tokens: float = 1024.0,
    hold_s: float = 5.0,
    within_s: float = 60.0,
    streamed: bool = True,
) -> dict[str, Any]:
    """Fill the engines' KV caches with long requests, keep them full, and let go.

    `add_rps` unique prompts a second of `prompt_tokens`, each answered by `output_tokens`, until a
    cache is 95 % used while requests wait or are preempted, and `hold_s` longer; then all of them
    are cut. Proven by vLLM's own metrics on every replica's page; what is not full `within_s` had
    no effect. `streamed`: as streams, whose end a gateway notices at the next token; engines may go
    on working for others whose clients have gone. The flood's own requests are not judged. Recovery
    is counted from its end: does the service come back by itself?
    """
    return flooding.exhaust_kv_cache(
        {
            "add_rps": add_rps,
            "prompt_tokens": prompt_tokens,
            "output_tokens": output_tokens,
            "hold_s": hold_s,
            "within_s": within_s,
        },
        streamed,
    )


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


def soak(
    every_s: float = 600.0,
    faults: str = "fail_zone, partition_zone",
    zones: str = "",
    most_drift_percent_per_h: float = 5.0,
    lease_s: float = 120.0,
) -> dict[str, Any]:
    """Hold the load for the run's `soak_s`, with a fault about every `every_s`, and look for drift.

    When (half as much sooner or later), which of `faults` (comma-separated) and where (`zones`; all
    of them by default) is drawn by the run's seed. Each fault is healed once the service is back
    (or has been given up) and the zone's fail-back is waited for: a recovery that takes longer than
    the objective is a FAIL. Latency and memory in between must not rise by more than
    `most_drift_percent_per_h`, by a trend with a 95 % interval over all of them: one that surely
    does is a FAIL, one that may is INCONCLUSIVE.

    Returns `rounds`, each fault with its recovery and fail-back, and `drift`, each figure's trend.
    Raises `InvalidInput` for words that make no sense, and where no fault fits into `soak_s`.
    """
    return soaking.soak(every_s, faults, zones, most_drift_percent_per_h, lease_s)
