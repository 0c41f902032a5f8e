"""An HTTP question, asked from this host's network: a replica behind no gateway."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from typing import Any, Dict, Optional

from .errors import Invalid

_MOST_BYTES = 4 << 20
_LONGEST_S = 120.0


def ask(url: str, body: Optional[str], timeout_s: float) -> Dict[str, Any]:
    """GET, or POST of JSON; {status, body, took_s, said}. Without an answer `status` is None.

    `said` is why there was none. No proxy is used.
    """
    if not url.startswith("http://"):
        raise Invalid(f"ask: {url!r}: an http:// address")
    if not 0 < timeout_s <= _LONGEST_S:
        raise Invalid(f"ask: timeout_s {timeout_s}: more than 0, at most {_LONGEST_S:g}")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    asked = urllib.request.Request(url, data=None if body is None else body.encode())
    asked.add_header("Content-Type", "application/json")
    told: Dict[str, Any] = {"status": None, "body": "", "said": ""}
    began = time.monotonic()
    try:
        with direct.open(asked, timeout=timeout_s) as answer:
            told["status"] = answer.status
            told["body"] = answer.read(_MOST_BYTES).decode(errors="replace")
    except urllib.error.HTTPError as error:
        told["status"], told["body"] = error.code, error.read(_MOST_BYTES).decode(errors="replace")
    except (OSError, ValueError) as error:
        told["said"] = str(error)
    return {**told, "took_s": time.monotonic() - began}
