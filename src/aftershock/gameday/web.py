"""HTTP for gates and news; errors name the host alone, since paths hold secrets."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from aftershock.errors import AftershockError

_MOST = 1 << 20  # bytes of an answer that are looked at


class Unanswered(AftershockError):
    """No answer came; the message says from where, and why."""


def get(url: str, token: str, timeout_s: float) -> tuple[int, str]:
    """Status and text of a page; `Unanswered`."""
    headers = {"Accept": "application/json, */*"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return _ask("get", url, timeout_s, headers=headers)


def post(url: str, content: dict[str, Any], timeout_s: float) -> int:
    """The status that a JSON object got; `Unanswered`."""
    return _ask("post", url, timeout_s, json=content)[0]


def _ask(verb: str, url: str, timeout_s: float, **more: Any) -> tuple[int, str]:
    import requests  # here: it takes a tenth of a second that not every command should pay

    place = urlsplit(url).netloc.rpartition("@")[2]
    try:
        with requests.request(verb, url, timeout=timeout_s, stream=True, **more) as answer:
            body = answer.raw.read(_MOST, decode_content=True)
            return answer.status_code, body.decode(errors="replace").strip()
    except requests.Timeout:
        raise Unanswered(f"{place}: no answer in {timeout_s:g} s") from None
    except requests.exceptions.SSLError:
        raise Unanswered(f"{place}: its certificate does not verify, or no TLS is there") from None
    except requests.ConnectionError as error:
        text = str(error)
        refused = "refused" if "refused" in text else "its name does not resolve"
        known = "refused" in text or "resolve" in text or "Name or service" in text
        raise Unanswered(f"{place}: {refused if known else 'no connection'}") from None
    except (requests.RequestException, OSError) as error:
        raise Unanswered(f"{place}: {type(error).__name__}") from None
