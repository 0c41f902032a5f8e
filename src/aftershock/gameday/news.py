"""The day's news to webhooks and commands: told beside it, retried, and never in its way."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from aftershock.errors import AftershockError
from aftershock.gameday import web
from aftershock.gameday.plan import Notification
from aftershock.gameday.shell import shell

WAITS_S = (0.5, 2.0, 5.0)  # before the second try, the third, …
TIMEOUT_S = 10.0
LAST_S = 15.0  # how long the end of a day waits for its news to get out

Report = Callable[[str, str, bool, int, str], None]


class News:
    """Sends to each place in a thread of its own, so one that hangs holds up no other.

    `report` hears name, text, whether it got there, tries, why; one call at a time.
    """

    def __init__(
        self,
        places: Sequence[Notification],
        folder: Path,
        report: Report,
        waits_s: Sequence[float] = WAITS_S,
        last_s: float = LAST_S,
    ) -> None:
        self._folder, self._report, self._waits_s, self._last_s = folder, report, waits_s, last_s
        self._over, self._reporting = threading.Event(), threading.Lock()
        self._senders: list[tuple[queue.Queue[str | None], threading.Thread]] = []
        for place in places:
            texts: queue.Queue[str | None] = queue.Queue()
            name = f"news to {place.name}"
            thread = threading.Thread(
                target=self._work, args=(place, texts), name=name, daemon=True
            )
            thread.start()
            self._senders.append((texts, thread))

    def tell(self, text: str) -> None:
        """Send it to every place, soon."""
        for texts, _ in self._senders:
            texts.put(text)

    def close(self) -> None:
        """Wait a while for what is on its way; what is left then is reported as not sent."""
        for texts, _ in self._senders:
            texts.put(None)
        for wait_s in (self._last_s, TIMEOUT_S + 1):
            until = time.monotonic() + wait_s
            for _, thread in self._senders:
                thread.join(max(until - time.monotonic(), 0.0))
            self._over.set()

    def _work(self, place: Notification, texts: queue.Queue[str | None]) -> None:
        while (text := texts.get()) is not None:
            tries, why = self._try(place, text)
            with self._reporting:
                self._report(place.name, text, not why, tries, why)

    def _try(self, place: Notification, text: str) -> tuple[int, str]:
        if self._over.is_set():
            return 0, "the day was over before it could be sent"
        why = ""
        for number, wait_s in enumerate((0.0, *self._waits_s), 1):
            if wait_s and self._over.wait(wait_s):
                return number - 1, why
            why = self._sent(place, text)
            if not why:
                return number, ""
        return number, why

    def _sent(self, place: Notification, text: str) -> str:
        """Why it did not get there; nothing if it did."""
        try:
            if place.command:
                return self._command(place.command, text)
            url = place.webhook or os.environ.get(place.webhook_env or "")
            return _post(url, text) if url else f"the variable {place.webhook_env} is not set"
        except (OSError, AftershockError) as error:
            return str(error) or type(error).__name__

    def _command(self, command: str, text: str) -> str:
        """A shell's line, with the news on its standard input."""
        status, said = shell(command, self._folder, TIMEOUT_S, text + "\n")
        last = "".join(said.splitlines()[-1:])
        return f"exit status {status}: {last}" if status else ""


def _post(url: str, text: str) -> str:
    """As Slack's incoming webhooks take it, and those that are like them."""
    status = web.post(url, {"text": text}, TIMEOUT_S)
    return "" if 200 <= status < 300 else f"HTTP {status}"
