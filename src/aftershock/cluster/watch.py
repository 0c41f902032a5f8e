"""A watch over pods: who is ready where, from the API's own stream of changes, never by polling.

A thread of its own lists the pods in pages, then follows them from the list's resourceVersion. Of
each pod it keeps the few fields of a `Life`, so that 5,000 pods fit in a few megabytes. Every few
seconds the stream is renewed: a connection that died silently is noticed by then.

When the stream breaks, the next one begins at the last version heard, and nothing is missed; but
when those changes happened is known only to lie in the stretch without a stream (a `late` gap). Is
that version too old for the server (410), all is listed anew, and what came and went in between is
unknown (a `lost` gap). A network that stalls without breaking the stream is noticed by a question
beside it (`pulse`), and the stream is opened anew. A stall of under 1.5 s goes unnoticed: a change
in it is told late by that much, never early.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aftershock.cluster.lives import Life, born, died, seen
from aftershock.cluster.pulse import Pulse
from aftershock.cluster.refusals import Expired, answered
from aftershock.cluster.rest import TIMEOUT_S, Rest
from aftershock.errors import AftershockError, HostUnreachable

if TYPE_CHECKING:
    from aftershock.cluster.api import Cluster

logger = logging.getLogger("chaostoolkit")

RENEW_S = 5
SLACK_S = 2.0  # a stream that is silent for so long after its end was due is dead
SEAM_S = 0.2  # a shorter time without a stream is a renewal, not a gap
MOST_DEAD = 5000  # pods that are gone, remembered
MOST_RESTARTS = 20_000
LATE, LOST = "late", "lost"
NO_ZONE = "no zone"


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch without a stream, CLOCK_MONOTONIC.

    `late`: every change in it is known, its moment is not. `lost`: what came and went in it is
    unknown; how things stood at its end is known.
    """

    start: float
    end: float
    kind: str
    why: str


@dataclass(frozen=True, slots=True)
class Count:
    """How many pods served in each zone from `at` on."""

    at: float
    ready: Mapping[str, int]


class PodWatch:
    """Follows the pods that match a selector in a cluster's namespace. Any thread may look.

    `zones` are told of from the beginning, with 0 while nothing serves there. `heard` is called
    with every new count, `gap_heard` with every gap, before the count that it ends with.
    """

    def __init__(
        self,
        cluster: Cluster,
        selector: str,
        *,
        zones: Iterable[str] = (),
        zone_of: Callable[[str], str] = lambda node: "",
        heard: Callable[[Count], None] = lambda count: None,
        gap_heard: Callable[[Gap], None] = lambda gap: None,
    ) -> None:
        self.selector = selector
        self.restarts: deque[tuple[float, str]] = deque(maxlen=MOST_RESTARTS)
        self.since: float | None = None  # when the first list was complete
        self.problem: AftershockError | None = None  # what keeps it from hearing, right now
        self._rest = Rest(cluster, retries=0)  # it tries again by itself
        self._pulse = Pulse(self._rest, self._stalled)
        self._well_until: float | None = None  # the network stalled then
        self._zone_of, self._heard, self._gap_heard = zone_of, heard, gap_heard
        self._alive: dict[str, Life] = {}
        self._dead: deque[Life] = deque(maxlen=MOST_DEAD)
        self._serving = dict.fromkeys(zones, 0)
        self._told: dict[str, int] | None = None
        self._gaps: list[Gap] = []
        self._version = ""
        self._known_until = 0.0  # all that happened before has been heard
        self._broke_at: float | None = None  # since then, changes up to `_backlog` are told late
        self._backlog = 0
        self._backlog_heard_at = 0.0
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._listed = threading.Event()
        self._stream: Any = None
        self._thread = threading.Thread(target=self._run, name="watch-pods", daemon=True)

    def begin(self) -> None:
        """Begin to watch; nothing is known yet when it returns."""
        self._thread.start()
        self._pulse.begin()

    @property
    def delay_s(self) -> float:
        """How long the server last took to answer: what is heard happened by that much before."""
        return self._pulse.delay_s

    def start(self, within_s: float = 15.0) -> None:
        """Begin; returns when all pods are known. `HostUnreachable`, with the API's own reason."""
        self.begin()
        if not self._listed.wait(within_s):
            problem = self.problem
            self.stop()
            raise problem or HostUnreachable(f"pods could not be listed within {within_s:g} s")

    def stop(self) -> None:
        """Stop, after a last look whether the stream had told all. Idempotent."""
        self._stopping.set()
        self._pulse.stop()
        self._end_stream()
        if self._thread.is_alive():
            self._thread.join(timeout=RENEW_S + SLACK_S + TIMEOUT_S)
        self._rest.close()

    def _stalled(self, well_until: float) -> None:
        """What was told since then may be old news: a new stream tells where news begin again."""
        with self._lock:
            self._well_until = min(self._well_until or well_until, well_until)
        self._end_stream()

    def _end_stream(self) -> None:
        stream = self._stream
        if stream is not None:
            with contextlib.suppress(Exception):  # it may have ended by itself just now
                stream.shutdown()

    def lives(self) -> list[Life]:
        """Every pod that was seen, the living and the dead. Don't change them."""
        with self._lock:
            return [*self._dead, *self._alive.values()]

    def ready_by_zone(self) -> dict[str, int]:
        """Pods that serve, by zone, as last heard."""
        with self._lock:
            return dict(self._serving)

    def gaps(self) -> list[Gap]:
        """All gaps so far; one that is still open ends now."""
        now = time.monotonic()
        with self._lock:
            found = list(self._gaps)
            if self._broke_at is not None:
                found.append(Gap(self._broke_at, now, LATE, self._why()))
            elif self.problem is not None and self._listed.is_set():
                found.append(Gap(self._known_until, now, LOST, self._why()))
        return found

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            began = time.monotonic()
            try:
                if not self._version:
                    self._list()
                self._follow()
                # A server that ends its streams at once is not asked without a pause.
                pause_s = 0.0 if time.monotonic() - began > 1 else 0.2
            except Exception as error:
                if self._stopping.is_set():
                    break
                pause_s = self._pause_after(error, pause_s)
        if self._listed.is_set():
            self._settle()

    def _pause_after(self, error: Exception, pause_s: float) -> float:
        logger.debug("the watch over pods broke: %s", error, exc_info=True)
        self._broke_at = None
        if isinstance(error, AftershockError):
            self.problem = error
        else:
            self.problem, self._version = HostUnreachable(f"the watch failed: {error!r}"), ""
        if isinstance(error, Expired):
            self._version = ""
        return 0.0 if isinstance(error, Expired) and not pause_s else min(1.0, 2 * pause_s or 0.05)

    def _list(self, **named: Any) -> None:
        """All pods as they are now; what is different from what was known happened meanwhile."""
        asked, first, version = time.monotonic(), not self._listed.is_set(), ""
        there: set[str] = set()
        for page in self._rest.pages(*self._pods, **self._chosen, **named):
            version = version or page["metadata"]["resourceVersion"]
            heard_at = time.monotonic()
            with self._lock:
                for pod in page["items"]:
                    there.add(pod["metadata"]["uid"])
                    self._take(pod, heard_at, is_news=not first)
        now = time.monotonic()
        with self._lock:
            for uid in [uid for uid in self._alive if uid not in there]:
                self._bury(uid, now)
            if not first and not self._stopping.is_set():
                self._note(Gap(self._known_until, now, LOST, self._why()))
            self.problem = None
        # A list in pages is that of its first page's moment, and the stream goes on from there.
        self._known_until, self._version, self.since = asked, version, self.since or now
        self._tell(now)
        self._listed.set()

    @property
    def _pods(self) -> tuple[Any, str]:
        return self._rest.core.list_namespaced_pod, self._rest.namespace

    @property
    def _chosen(self) -> dict[str, str]:
        return {"label_selector": self.selector}

    def _follow(self) -> None:
        """One stream, until it ends. Raises `Expired` and `HostUnreachable`."""
        with self._lock:
            well_until, self._well_until = self._well_until, None
            self._known_until = min(self._known_until, well_until or self._known_until)
        if time.monotonic() - self._known_until > SEAM_S:
            # Up to here the stream will tell of what happened while there was none.
            page = self._rest.get(*self._pods, **self._chosen, limit=1)
            version = page["metadata"]["resourceVersion"]
            self._backlog = int(version) if version.isdecimal() else 0
            self._broke_at = self._known_until
        self._stream = stream = self._rest.open(
            *self._pods,
            **self._chosen,
            watch=True,
            resource_version=self._version,
            allow_watch_bookmarks=True,
            timeout_seconds=RENEW_S,
            _request_timeout=(TIMEOUT_S, RENEW_S + SLACK_S),
        )
        try:
            self._backlog_heard_at = time.monotonic()
            caught_up = self._version.isdecimal() and int(self._version) >= self._backlog
            if self._broke_at is None or caught_up:
                self._resumed()
            # What came while it was being opened found no stream to end.
            over = self._stopping.is_set() or self._well_until is not None
            events = iter(()) if over else events_of(stream)
            for event in events:
                self._hear(event, time.monotonic())
            if not over and not self._stopping.is_set():
                self._resumed()
                self._known_until = time.monotonic()
        finally:
            self._stream = None
            stream.close()

    def _hear(self, event: Mapping[str, Any], now: float) -> None:
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            raise answered("follow pods", int(item.get("code") or 500), str(item.get("message")))
        version = item["metadata"]["resourceVersion"]
        if version.isdecimal() and int(version) <= self._backlog:
            self._backlog_heard_at = now
        else:
            self._resumed()
        if kind != "BOOKMARK":
            with self._lock:
                self._take(item, now, is_news=True)
                if kind == "DELETED":
                    self._bury(item["metadata"]["uid"], now)
            self._tell(now)
        self._version = version
        self._known_until = now

    def _resumed(self) -> None:
        with self._lock:
            self._backlog = 0
            if self._broke_at is not None:
                self._note(Gap(self._broke_at, self._backlog_heard_at, LATE, self._why()))
            self._broke_at = self.problem = None

    def _settle(self) -> None:
        """A last list: if the stream had told everything before, there is nothing new in it."""
        with self._lock:
            since = min(self._known_until, self._well_until or self._known_until)
            resuming, broken = self._broke_at, self.problem is not None
            self._broke_at, why = None, self._why()
        before = self._standing()
        try:
            self._list(_request_timeout=2.0)
        except Exception as error:
            self.problem = None
            self._note(Gap(resuming or since, time.monotonic(), LOST, str(error)))
            return
        now, same = time.monotonic(), before == self._standing()
        if resuming is not None:
            self._note(Gap(resuming, now, LATE if same else LOST, why))
        elif broken or self._well_until or (not same and now - since > SEAM_S):
            self._note(Gap(since, now, LOST if broken else LATE, "nothing had been heard"))

    def _standing(self) -> dict[str, tuple[bool, int]]:
        with self._lock:
            return {life.uid: (life.serves, life.restarts) for life in self._alive.values()}

    def _take(self, pod: Mapping[str, Any], at: float, is_news: bool) -> None:
        uid = pod["metadata"]["uid"]
        life = self._alive.get(uid)
        if life is None:
            life = self._alive[uid] = born(pod, at, is_news)
        else:
            self._count(life, -1)
            self.restarts.extend([(at, uid)] * seen(life, pod, at))
        if life.node and not life.zone:
            labels = pod["metadata"].get("labels") or {}
            life.zone = self._zone_of(life.node) or labels.get(self._rest.zone_label) or NO_ZONE
        self._count(life, 1)

    def _bury(self, uid: str, at: float) -> None:
        life = self._alive.pop(uid)
        self._count(life, -1)
        died(life, at)
        self._dead.append(life)

    def _count(self, life: Life, step: int) -> None:
        if life.serves:
            self._serving[life.zone] = self._serving.get(life.zone, 0) + step

    def _tell(self, at: float) -> None:
        with self._lock:
            count = dict(self._serving)
            changed, self._told = count != self._told, count
        if changed:
            self._heard(Count(at, count))

    def _note(self, gap: Gap) -> None:
        with self._lock:
            self._gaps.append(gap)
        self._gap_heard(gap)

    def _why(self) -> str:
        return str(self.problem) if self.problem else "the stream of changes ended too early"


def events_of(stream: Any) -> Iterator[dict[str, Any]]:
    """The events of a watch's response as they come; `HostUnreachable` when it breaks."""
    from urllib3.exceptions import HTTPError

    rest = b""
    try:
        for chunk in stream.stream(amt=None):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    yield json.loads(line)
    except (HTTPError, OSError) as error:
        name = type(error).__name__
        raise HostUnreachable(f"the stream of changes was lost ({name})") from error
