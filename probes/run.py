"""Whether this run is recorded and judged at all."""

from aftershock import run as runs

__all__ = ["is_recorded"]


def is_recorded() -> bool:
    """True while the aftershock control is at work; raises `NoRun` otherwise.

    Chaos Toolkit only warns about a control that it can't import. As the first steady-state probe
    this one keeps such an experiment from running without a verdict.
    """
    return runs.current().recording()
