"""Whether and when the service came back."""

from typing import Any

from aftershock import run as runs

__all__ = ["failed_back", "service_recovered"]


def service_recovered() -> dict[str, Any]:
    """Wait, while the fault is active, until the service is back and stayed back for the hold.

    Gives up after twice the objective (30 s at least). Returns `recovered`, `service_rto_s` and
    `service_rto_error_s` (95 %), counted from the moment the fault fired to the last bad request.
    """
    return runs.current().await_recovery()


def failed_back() -> dict[str, Any]:
    """Wait, after the heal, until golden levels hold and the zone carries its share again.

    Then holds. Returns `failed_back` and `failback_rto_s`, counted from the ordered heal.
    """
    return runs.current().await_failback()
