"""The day's news to webhooks and commands: told beside it, retried, and never in its way."""

from __future__ import annotations

import os
import queue
import threading
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
    """Sends in a thread of its own. `report` hears name, text, whether it got there, tries, why."""

    def __init__(
        self,
        places: Sequence[Notification],
        folder: Path,
        report: Report,
        waits_s: Sequence[float] = WAITS_S,
    ) -> None:
        self._places, self._folder, self._report, self._waits_s = places, folder, report, waits_s
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="news", daemon=True)
        if places:
            self._thread.start()

    def tell(self, text: str) -> None:
        """Send it to every place, soon."""
        if self._places:
            self._queue.put(text)

    def close(self) -> None:
        """Wait a while for what is on its way; what is left then is reported as not sent."""
        if not self._places:
            return
        self._queue.put(None)
        self._thread.join(LAST_S)
        self._over.set()
        self._thread.join(TIMEOUT_S + 1)

    def _work(self) -> None:
        while (text := self._queue.get()) is not None:
            for place in self._places:
                tries, why = self._try(place, text)
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
