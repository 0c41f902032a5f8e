"""The emulated kubelets: one task a pod, from its binding to a node until its process is gone."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Mapping
from typing import Any

from aftershock.lab.kubernetes import podstatus
from aftershock.lab.kubernetes.events import Recorder
from aftershock.lab.kubernetes.podstatus import Life
from aftershock.lab.kubernetes.resources import NODES, PODS
from aftershock.lab.kubernetes.runtime import LogRuntime, MemoryRuntime, PodRuntime, PodSpec
from aftershock.lab.kubernetes.store import Change, Object, Store, timestamp

_log = logging.getLogger(__name__)
# A container that ran this long is no longer counted as crashing.
_SETTLED_S = 600.0
_PROBE_TIMEOUT_S = 1.0


class Kubelets:
    """Starts a worker for each pod that is bound to a node."""

    def __init__(
        self,
        store: Store,
        runtime: PodRuntime,
        recorder: Recorder,
        environment: Mapping[str, str],
        readiness_period_s: float,
        backoff_first_s: float,
        backoff_most_s: float,
    ) -> None:
        self.store, self.runtime, self.recorder = store, runtime, recorder
        self.environment = environment
        self.readiness_period_s = readiness_period_s
        self.backoff_first_s, self.backoff_most_s = backoff_first_s, backoff_most_s
        self._workers: dict[str, _Worker] = {}
        self._silent: dict[str, asyncio.Event] = {}
        self._stopping = False

    def silence(self, node: str) -> None:
        """The node's kubelet does nothing and writes nothing from now on; its pods run on."""
        self._silent.setdefault(node, asyncio.Event())

    def hear(self, node: str) -> None:
        """It works again, and tells what it missed."""
        if event := self._silent.pop(node, None):
            event.set()
            for worker in self._workers.values():
                if worker.node == node:
                    worker.tell_all()

    def is_silent(self, node: str) -> bool:
        return node in self._silent

    async def awake(self, node: str) -> None:
        """Wait until the node's kubelet works."""
        while event := self._silent.get(node):
            await event.wait()

    def start(self) -> None:
        self.store.listen(self._notice)

    def _notice(self, change: Change) -> None:
        if change.resource != PODS.key or self._stopping:
            return
        pod = change.after or change.before
        assert pod is not None
        uid = pod["metadata"]["uid"]
        worker = self._workers.get(uid)
        if change.after is None:
            if worker:
                worker.removed()
        elif worker:
            worker.changed(pod)
        elif pod["spec"].get("nodeName") and pod["status"].get("phase") == "Pending":
            worker = self._workers[uid] = _Worker(self, pod)
            worker.task.add_done_callback(lambda _: self._workers.pop(uid, None))

    async def vacated(self, node: str) -> None:
        """Wait until the processes of pods that were removed from the node are gone."""
        leaving = [w.task for w in self._workers.values() if w.is_removed and w.node == node]
        if leaving:
            await asyncio.wait(leaving)

    async def stop(self) -> None:
        """End every process at once and every worker with it."""
        self._stopping = True
        workers = list(self._workers.values())
        for worker in workers:
            worker.task.cancel()
        await asyncio.gather(*(worker.task for worker in workers), return_exceptions=True)
        await asyncio.gather(*(self.runtime.stop(w.uid, 0) for w in workers if w.was_started))


class _Worker:
    """One pod's life on its node."""

    def __init__(self, kubelets: Kubelets, pod: Object) -> None:
        self._all = kubelets
        self.uid: str = pod["metadata"]["uid"]
        self.node: str = pod["spec"]["nodeName"]
        self.is_removed = False
        self.was_started = False
        self._pod = pod
        self._place = (pod["metadata"]["namespace"], pod["metadata"]["name"])
        self._life = Life(host=_address(kubelets.store.find(NODES, "", self.node)))
        self._ending = asyncio.Event()
        self._hurry = asyncio.Event()
        self._deadline: float | None = None
        self._stopping: asyncio.Task[None] | None = None
        self.task = asyncio.create_task(self._run(), name=f"pod {self._place[1]}")

    def tell_all(self) -> None:
        """Write the pod's state, of which nothing was written for a while."""
        if self.was_started:
            self._write()

    def changed(self, pod: Object) -> None:
        """Take note of the pod's new state; a (nearer) end wakes the worker."""
        self._pod = pod
        if "deletionTimestamp" not in pod["metadata"]:
            return
        now = asyncio.get_running_loop().time()
        deadline = now + pod["metadata"].get("deletionGracePeriodSeconds", 0)
        self._end_by(deadline)

    def removed(self) -> None:
        """The pod is gone from the API: its process follows at once."""
        self.is_removed = True
        self._end_by(asyncio.get_running_loop().time())

    def _end_by(self, deadline: float) -> None:
        if self._deadline is None:
            self._deadline = deadline
            self._ending.set()
        # Later writes to a dying pod carry the same grace period: only a nearer end counts.
        elif deadline < self._deadline - 0.5 or self.is_removed:
            self._deadline = deadline
            self._hurry.set()

    def _left_s(self) -> float:
        assert self._deadline is not None
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    async def _run(self) -> None:
        seconds = self._pod["spec"].get("activeDeadlineSeconds")
        expiry = seconds and asyncio.get_running_loop().call_later(seconds, self._expire)
        try:
            self._write()
            await self._all.vacated(self.node)
            while not self._ending.is_set():
                exit_status = await self._run_once()
                if self._ending.is_set() or not await self._restart(exit_status):
                    break
            if self._ending.is_set():
                await self._finish()
        except Exception:
            _log.exception("the worker of pod %s failed", self._place[1])
        finally:
            if expiry:
                expiry.cancel()

    def _expire(self) -> None:
        """The pod's activeDeadlineSeconds are over: its process ends, and it is not restarted."""
        self._life.expired = True
        self._tell("DeadlineExceeded", podstatus.EXPIRED, warning=True)
        stop = self._all.runtime.stop(self.uid, self._pod["spec"]["terminationGracePeriodSeconds"])
        self._stopping = asyncio.create_task(stop)

    async def _run_once(self) -> int | None:
        """Start the process and see to it until it ends; None: it could not be started."""
        await self._all.awake(self.node)
        pod, life = self._pod, self._life
        self.was_started = True
        try:
            life.address = await self._all.runtime.start(_spec(pod, self._all.environment))
        except Exception as error:
            life.state = {"waiting": {"reason": "CreateContainerError", "message": str(error)}}
            self._tell("Failed", f"Error: {error}", warning=True)
            self._write()
            return None
        self._tell("Created", "Container created")
        self._tell("Started", "Container started")
        started_at = timestamp()
        life.phase, life.state = "Running", {"running": {"startedAt": started_at}}
        self._write()
        ended = asyncio.create_task(self._all.runtime.wait(self.uid))
        try:
            await self._watch(ended)
            if not ended.done():
                await self._terminate()
            exit_status = await ended
        finally:
            ended.cancel()
        life.ready = False
        which = podstatus.container_id(self.uid, life.restarts)
        runtime = self._all.runtime
        killed = isinstance(runtime, MemoryRuntime) and runtime.was_oom_killed(self.uid)
        life.state = podstatus.terminated(exit_status, started_at, which, killed)
        policy = self._pod["spec"]["containers"][0].get("terminationMessagePolicy")
        if exit_status and policy == "FallbackToLogsOnError" and isinstance(runtime, LogRuntime):
            life.state["terminated"]["message"] = runtime.last_words(self.uid)
        return exit_status

    async def _watch(self, ended: asyncio.Task[int]) -> None:
        """Poll readiness until the process ends or has to."""
        container = self._pod["spec"]["containers"][0]
        allowed = (container.get("readinessProbe") or {}).get("failureThreshold", 3)
        ending = asyncio.create_task(self._ending.wait())
        failures = 0
        try:
            while not (ended.done() or ending.done()):
                await self._all.awake(self.node)
                ready = await self._probe()
                failures = 0 if ready else failures + 1
                if ended.done() or ending.done():
                    break
                if ready != self._life.ready and (ready or failures >= allowed):
                    self._life.ready = ready
                    self._write()
                    if not ready:
                        self._tell("Unhealthy", "Readiness probe failed", warning=True)
                await asyncio.wait(
                    {ended, ending},
                    timeout=self._all.readiness_period_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
        finally:
            ending.cancel()

    async def _probe(self) -> bool:
        try:
            # Not wait_for: before Python 3.12 it loses a cancellation that comes with the answer.
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                return await self._all.runtime.is_ready(self.uid)
        except TimeoutError:
            return False

    async def _terminate(self) -> None:
        """End the process within what is left of the grace period, sooner if that is shortened."""
        await self._all.awake(self.node)
        self._write()
        name = self._pod["spec"]["containers"][0]["name"]
        self._tell("Killing", f"Stopping container {name}")
        await self._pre_stop()
        stops = {asyncio.create_task(self._all.runtime.stop(self.uid, self._left_s()))}
        try:
            while not any(stop.done() for stop in stops):
                hurry = asyncio.create_task(self._hurry.wait())
                await asyncio.wait({*stops, hurry}, return_when=asyncio.FIRST_COMPLETED)
                if hurry.done():
                    self._hurry.clear()
                    sooner = self._all.runtime.stop(self.uid, self._left_s())
                    stops.add(asyncio.create_task(sooner))
                hurry.cancel()
            await asyncio.gather(*stops)
        finally:
            for stop in stops:
                stop.cancel()

    async def _pre_stop(self) -> None:
        hook = (self._pod["spec"]["containers"][0].get("lifecycle") or {}).get("preStop") or {}
        pause_s = min(float((hook.get("sleep") or {}).get("seconds", 0)), self._left_s())
        if pause_s > 0:
            hurry = asyncio.create_task(self._hurry.wait())
            await asyncio.wait({hurry}, timeout=pause_s)
            hurry.cancel()

    async def _restart(self, exit_status: int | None) -> bool:
        """After an end nobody asked for: wait for the next try; False when there is none."""
        await self._all.awake(self.node)
        life, policy = self._life, self._pod["spec"].get("restartPolicy", "Always")
        if life.expired:
            life.phase = "Failed"
            self._write()
            return False
        if (
            exit_status is not None
            and policy != "Always"
            and (policy == "Never" or not exit_status)
        ):
            life.phase = "Failed" if exit_status else "Succeeded"
            self._write()
            return False
        pause_s = 0.0
        if life.restarts or exit_status is None:
            most, first = self._all.backoff_most_s, self._all.backoff_first_s
            pause_s = min(most, first * 2 ** max(0, life.restarts - 1))
        if exit_status is not None:
            self._write()
            life.last = life.state
        if pause_s and exit_status is not None:
            self._back_off(pause_s)
        life.restarts += 1
        if pause_s:
            ending = asyncio.create_task(self._ending.wait())
            await asyncio.wait({ending}, timeout=pause_s)
            ending.cancel()
        return True

    def _back_off(self, pause_s: float) -> None:
        name = self._pod["spec"]["containers"][0]["name"]
        full = f"{self._place[1]}_{self._place[0]}({self.uid})"
        message = f"back-off {pause_s:g}s restarting failed container={name} pod={full}"
        self._life.state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
        told = f"Back-off restarting failed container {name} in pod {full}"
        self._tell("BackOff", told, warning=True)
        self._write()

    async def _finish(self) -> None:
        """Report the end, and take the pod out of the API when its time is over."""
        await self._all.awake(self.node)
        if self.is_removed:
            return
        code = (self._life.state.get("terminated") or {}).get("exitCode", 0)
        self._life.phase, self._life.ready = ("Failed" if code else "Succeeded"), False
        self._write()
        pod = self._all.store.find(PODS, *self._place)
        if pod is None or pod["metadata"]["uid"] != self.uid:
            return
        last = copy.deepcopy(pod)
        last["metadata"] |= {"deletionTimestamp": timestamp(), "deletionGracePeriodSeconds": 0}
        self._all.store.update(PODS, last)

    def _write(self) -> None:
        if self._all.is_silent(self.node):
            return
        pod = self._all.store.find(PODS, *self._place)
        if pod is None or pod["metadata"]["uid"] != self.uid:
            return
        self._all.store.update(PODS, {**pod, "status": podstatus.status_of(pod, self._life)})

    def _tell(self, reason: str, message: str, warning: bool = False) -> None:
        name = self._pod["spec"]["containers"][0]["name"]
        field = f"spec.containers{{{name}}}"
        self._all.recorder.record(
            self._pod, reason, message, "kubelet", self.node, warning=warning, field=field
        )


def _spec(pod: Mapping[str, Any], environment: Mapping[str, str]) -> PodSpec:
    container = pod["spec"]["containers"][0]
    meta = pod["metadata"]
    values = {entry["name"]: entry.get("value", "") for entry in container.get("env") or ()}
    return PodSpec(
        uid=meta["uid"],
        namespace=meta["namespace"],
        name=meta["name"],
        node=pod["spec"]["nodeName"],
        image=container["image"],
        args=tuple((container.get("command") or []) + (container.get("args") or [])),
        env={**environment, **values},
    )


def _address(node: Mapping[str, Any] | None) -> str:
    addresses = ((node or {}).get("status") or {}).get("addresses") or ()
    return next((a["address"] for a in addresses if a["type"] == "InternalIP"), "")
