"""The control loop: after every change, every controller looks at the whole cluster.

With a few dozen objects one pass takes about a millisecond, and a controller that always sees all
has no event to miss.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aftershock.lab.kubernetes.budgets import keep_budgets
from aftershock.lab.kubernetes.daemonsets import keep_daemonsets
from aftershock.lab.kubernetes.deployments import keep_deployments
from aftershock.lab.kubernetes.endpoints import keep_endpoints
from aftershock.lab.kubernetes.events import Recorder
from aftershock.lab.kubernetes.garbage import collect_garbage
from aftershock.lab.kubernetes.jobs import keep_jobs
from aftershock.lab.kubernetes.replicasets import keep_replicasets
from aftershock.lab.kubernetes.resources import EVENTS
from aftershock.lab.kubernetes.scheduler import Scheduler
from aftershock.lab.kubernetes.statefulsets import keep_statefulsets
from aftershock.lab.kubernetes.store import Change, Store
from aftershock.lab.kubernetes.taints import keep_taints
from aftershock.lab.kubernetes.verbs import Verbs

_log = logging.getLogger(__name__)
_MOST_PASSES = 50


class Controllers:
    """Runs the controllers until a pass changes nothing, then waits for the next change."""

    def __init__(self, store: Store, verbs: Verbs, recorder: Recorder) -> None:
        self._store, self._verbs, self._recorder = store, verbs, recorder
        self._scheduler = Scheduler(store, recorder)
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._alarms: dict[str, asyncio.TimerHandle] = {}

    def start(self) -> None:
        self._store.listen(self._notice)
        self._due.set()
        self._task = asyncio.create_task(self._run(), name="controllers")

    async def stop(self) -> None:
        for alarm in self._alarms.values():
            alarm.cancel()
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _notice(self, change: Change) -> None:
        if change.resource != EVENTS.key:
            self._due.set()

    async def _run(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            for _ in range(_MOST_PASSES):
                before = self._store.version
                self._pass()
                if self._store.version == before:
                    break
                # Watches and kubelets get their turn between passes.
                await asyncio.sleep(0)

    def _pass(self) -> None:
        store, verbs, recorder = self._store, self._verbs, self._recorder
        steps: tuple[Callable[[], None], ...] = (
            lambda: self._wake_in("taints", keep_taints(store, verbs, recorder)),
            lambda: self._wake_in("jobs", keep_jobs(store, verbs)),
            lambda: collect_garbage(store, verbs),
            lambda: keep_endpoints(store, verbs),
            lambda: keep_replicasets(store, verbs, recorder),
            lambda: keep_deployments(store, verbs, recorder),
            lambda: keep_statefulsets(store, verbs, recorder),
            lambda: keep_daemonsets(store, verbs, recorder),
            self._scheduler.run,
            lambda: keep_budgets(store),
        )
        for step in steps:
            try:
                step()
            except Exception:
                _log.exception("a controller failed")

    def _wake_in(self, who: str, delay_s: float | None) -> None:
        if alarm := self._alarms.pop(who, None):
            alarm.cancel()
        if delay_s is not None:
            self._alarms[who] = asyncio.get_running_loop().call_later(delay_s, self._due.set)
