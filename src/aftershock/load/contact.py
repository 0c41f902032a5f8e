"""One short completion before anything is touched: is there a service, and is it this one?"""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from aftershock.errors import AftershockError
from aftershock.load.tls import tls_context

TIMEOUT_S = 10.0
_PATH = "/v1/completions"


class NoService(AftershockError):
    """What is at the address can't be put under load; the message says why, and what would help."""


def first_contact(
    url: str,
    model: str,
    headers: Mapping[str, str] | None = None,
    verify_tls: bool = True,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Ask for one token. Raises `NoService` with one sentence if it doesn't come."""
    address = urlsplit(url)
    try:
        status, kind, body = _ask(address, model, headers or {}, verify_tls, timeout_s)
    except ssl.SSLCertVerificationError as error:
        raise NoService(
            f"{url}: its certificate does not verify ({error.verify_message}): name its "
            "authority's file in SSL_CERT_FILE, or say verify_tls=false"
        ) from None
    except ssl.SSLError as error:
        raise NoService(f"{url}: no TLS there ({error.reason}): is it http://?") from None
    except TimeoutError:
        raise NoService(
            f"{url}: no answer in {timeout_s:g} s: is the service up, and ready?"
        ) from None
    except socket.gaierror as error:
        raise NoService(f"{url}: {error.strerror}: check the url and this machine's DNS") from None
    except (OSError, http.client.HTTPException) as error:
        told = getattr(error, "strerror", None) or str(error)  # a line, maybe, that came from there
        reason = " ".join(told.split())[:160] or type(error).__name__
        raise NoService(f"{url}: {reason}: is the service up, and the url right?") from None
    secrets = [word for value in (headers or {}).values() for word in value.split()]
    if wrong := _wrong(status, kind, body, model, secrets):
        raise NoService(f"{url}{_PATH}: {wrong}")


def _ask(
    address: SplitResult, model: str, headers: Mapping[str, str], verify: bool, timeout_s: float
) -> tuple[int, str, str]:
    asked = {"model": model, "prompt": "1", "max_tokens": 1, "temperature": 0}
    told = {"Content-Type": "application/json", "Connection": "close", **headers}
    name, port = address.hostname or "", address.port
    line = (
        http.client.HTTPSConnection(name, port, timeout=timeout_s, context=tls_context(verify))
        if address.scheme == "https"
        else http.client.HTTPConnection(name, port, timeout=timeout_s)
    )
    try:
        line.request("POST", address.path.rstrip("/") + _PATH, json.dumps(asked), told)
        answer = line.getresponse()
        kind = answer.getheader("Content-Type") or ""
        return answer.status, kind, answer.read(1 << 16).decode(errors="replace")
    finally:
        line.close()


def _wrong(status: int, kind: str, body: str, model: str, secrets: list[str]) -> str:
    """What is wrong with an answer, "" if nothing is."""
    for word in secrets:
        body = body.replace(word, "***")
    if "html" in kind or body.lstrip()[:1] == "<":
        title = re.search(r"<title>([^<]{1,80})", body)
        named = f" ({title[1].strip()!r})" if title else ""
        return f"it answers with an HTML page{named}: is that the service's address?"
    said = " ".join(body.split())[:160]
    if status in (401, 403):
        return (
            f"HTTP {status}: it wants a token: name the variable of the environment that holds it, "
            f"api_token_env ({said})"
        )
    if status == 404:
        return f"HTTP 404: no such path, or no model {model!r}: check url and model ({said})"
    if status >= 300:
        return f"HTTP {status} ({said})"
    try:
        choices = json.loads(body).get("choices")
    except (ValueError, AttributeError):
        choices = None
    return "" if choices else f"what it answers is no completion ({said})"
