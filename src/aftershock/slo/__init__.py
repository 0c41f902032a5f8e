"""From samples to a verdict: timeline, objectives, recovery. Pure functions."""
