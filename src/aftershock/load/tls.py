"""Whose certificates are believed."""

from __future__ import annotations

import ssl


def tls_context(verify: bool) -> ssl.SSLContext:
    """The machine's authorities, or SSL_CERT_FILE's; unverified only where that was asked."""
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
