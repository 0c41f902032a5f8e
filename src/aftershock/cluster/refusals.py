"""Why a Kubernetes API was not reached, or refused: one sentence with the mend."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aftershock.errors import HostUnreachable


class NoAccess(HostUnreachable):
    """No cluster is there, or it doesn't let us in; nothing was touched."""


class Refused(HostUnreachable):
    """The API answered with an error: `status` is HTTP's, `message` the server's."""

    def __init__(self, sentence: str, status: int, message: str) -> None:
        super().__init__(sentence)
        self.status, self.message = status, message


class Expired(Refused):
    """The version or page that was asked for is older than what the server remembers (410)."""


def refused(what: str, error: Any, access: Any) -> HostUnreachable:
    """An answer that is an error, as one of ours."""
    status = int(error.status or 0)
    message = message_of(error)
    if status == 401:
        why = access.expiry() or "the credentials are not valid, or have expired"
        return NoAccess(
            f"{access.place} does not know us (401): {why}: log in anew, or name another context"
        )
    if not status:  # TLS: the server was not even spoken to
        return unreached(what, error, access)
    return answered(what, status, message)


def answered(what: str, status: int, message: str) -> Refused:
    """An answer with this status, which is an error."""
    kind = Expired if status == 410 else Refused
    sentence = f"the Kubernetes API refused to {what.replace('_', ' ')}: {status} {message}"
    return kind(sentence, status, message)


def unreached(what: str, error: BaseException, access: Any) -> HostUnreachable:
    """No answer, as one of ours; says why as far as that is known."""
    reason, mend = _reason(error)
    if access.expiry() and "alert" in reason:
        reason, mend = access.expiry(), "log in anew"
    return NoAccess(
        f"the Kubernetes API at {access.place} does not answer ({what.replace('_', ' ')}): "
        f"{reason}: {mend}"
    )


def message_of(error: Any) -> str:
    """What the server said."""
    body = error.body or error.reason or ""
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body)
    with contextlib.suppress(ValueError, AttributeError):
        text = json.loads(text).get("message") or text
    return text.strip()[:300]


def _reason(error: BaseException) -> tuple[str, str]:
    """The innermost cause in words, and what mends it."""
    text = str(getattr(error, "reason", None) or error)
    if "Connection refused" in text:
        return "connection refused", "start the cluster, or name another kubeconfig or context"
    if "resolve" in text or "Name or service" in text:
        return "its name does not resolve", "check the address in the kubeconfig"
    if "CERTIFICATE_VERIFY_FAILED" in text or "certificate verify" in text:
        return (
            "its certificate is not signed by the kubeconfig's certificate authority",
            "fetch the kubeconfig anew",
        )
    if "timed out" in text or "Timeout" in type(error).__name__:
        return "no answer in time", "check the way there (VPN, firewall), or name another context"
    lines = text.strip().splitlines() or [type(error).__name__]
    return lines[-1][:200], "check the kubeconfig"


def expiry_of(settings: Any) -> str:
    """Which of the credentials has expired, and when; empty when none shows it."""
    with contextlib.suppress(OSError, ValueError):
        if settings.cert_file:
            from cryptography import x509

            made = x509.load_pem_x509_certificate(Path(settings.cert_file).read_bytes())
            if made.not_valid_after_utc < datetime.now(UTC):
                return (
                    f"the client certificate expired on {made.not_valid_after_utc:%Y-%m-%d %H:%M}"
                )
    token = str((settings.api_key or {}).get("BearerToken", "")).split(" ")[-1]
    with contextlib.suppress(ValueError, KeyError, IndexError, TypeError):
        middle = token.split(".")[1]
        ends = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))["exp"]
        if ends < time.time():
            return f"the token expired on {datetime.fromtimestamp(ends, UTC):%Y-%m-%d %H:%M}"
    return ""
