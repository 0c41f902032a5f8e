"""Aftershock: chaos engineering for AI inference services, as a Chaos Toolkit extension."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def discover(discover_system: bool = True) -> dict[str, Any]:
    """For `chaos discover aftershock`: the actions and probes; it looks at no system."""
    from aftershock.discovery import capabilities

    del discover_system
    return capabilities()
