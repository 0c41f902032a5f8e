"""The engine's loop: the scheduler's steps, paced by the cost model.

It wakes where something can be seen from outside (a first token, every `STREAM_STEPS` steps, an
end, an arrival), not at every step: six of these share two cores with the load that they serve.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterable
from typing import Protocol

from aftershock.lab.model_server.cost import KV_BYTES_PER_TOKEN, CostModel
from aftershock.lab.model_server.metrics import Metrics
from aftershock.lab.model_server.scheduler import Scheduler, Sequence

STREAM_STEPS = 4
BEHIND_S = 1.0


class Device(Protocol):
    """Where kernels run."""

    stretch: float
    """How many times as long kernels take as on a device of their own."""

    async def ran(self, seconds: float) -> None:
        """Note GPU time spent up to now; return when the device keeps up."""


class Pages(Protocol):
    """Where KV blocks go that make room for others, and come back from."""

    async def page_in(self, kv_bytes: int) -> None:
        """Return when so many bytes are back."""


class Engine:
    """Runs sequences on one device."""

    def __init__(
        self,
        scheduler: Scheduler,
        cost: CostModel,
        metrics: Metrics,
        device: Device,
        pages: Pages | None = None,
    ) -> None:
        self._pages = pages
        self.scheduler = scheduler
        self.metrics = metrics
        self._cost = cost
        self._device = device
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time()
        self._wake: asyncio.Future[None] | None = None
        self._readers: dict[Sequence, asyncio.Future[None]] = {}
        self._stall_s = 0.0
        self._phase = 0
        self._came = False  # somebody, since the last admission

    async def generate(self, sequence: Sequence) -> AsyncIterator[int]:
        """Yield how many tokens are there, each time that more are; an abandoned one is aborted."""
        sequence.arrived = self._loop.time()
        self.metrics.prompt_tokens += sequence.prompt_tokens
        self.scheduler.add(sequence)
        self._arrived()
        seen = 0
        try:
            while not (sequence.finished and seen == sequence.generated):
                if sequence.generated == seen:
                    reader = self._readers[sequence] = self._loop.create_future()
                    await reader
                if sequence.generated > seen:
                    seen = sequence.generated
                    yield seen
        finally:
            self._readers.pop(sequence, None)
            if not sequence.finished:
                self.scheduler.abort(sequence)
                self.metrics.finished["abort"] += 1

    async def run(self) -> None:
        """Work for ever."""
        while True:
            if not (self.scheduler.waiting or self.scheduler.running):
                await self._until(None)
                self._clock = self._loop.time()
            if self.scheduler.waiting:
                await self._prefill()
            if self.scheduler.running:
                await self._decode()

    async def _prefill(self) -> None:
        self._came = False
        admitted = self.scheduler.admit()
        if not admitted:
            return
        tokens = sum(map(_context, admitted)) - await self._page_in(admitted)
        spent = self._cost.prefill_s(tokens)
        await self._spend(spent, self._cost.prefill_gpu_s(tokens))
        self._stall_s += spent
        now = self._loop.time()
        for sequence in admitted:
            if sequence.first_token_at is None:
                sequence.first_token_at = now
                self.metrics.ttft.observe(now - sequence.arrived)
            self.metrics.generated_tokens += 1
            self._notify(sequence)
        self._finish()

    async def _page_in(self, admitted: Iterable[Sequence]) -> int:
        """Fetch the KV blocks of those who were preempted; how many tokens need no prefill so."""
        tokens = sum(_context(sequence) for sequence in admitted if sequence.generated > 1)
        if not (self._pages and tokens):
            return 0
        began = self._loop.time()
        await self._pages.page_in(tokens * KV_BYTES_PER_TOKEN)
        waited = self._loop.time() - began
        self._clock += waited
        self._stall_s += waited
        self.metrics.paged_in_tokens += tokens
        return tokens

    async def _decode(self) -> None:
        batch = len(self.scheduler.running)
        step_s = self._cost.decode_s(batch)
        steps = self.scheduler.steps_until(STREAM_STEPS - self._phase)
        # Who came while others were prefilled has nobody woken.
        arrival = self._came or await self._until(self._clock + steps * step_s)
        if arrival:  # stop after this step, to let it in
            passed = (self._loop.time() - self._clock) / step_s
            steps = min(steps, max(1, math.ceil(passed)))
        await self._spend(steps * step_s, steps * self._cost.decode_gpu_s(batch))
        self.metrics.itl.observe(step_s + self._stall_s, batch)
        self.metrics.itl.observe(step_s, batch * (steps - 1))
        self._stall_s = 0.0
        self._phase = (self._phase + steps) % STREAM_STEPS
        self.metrics.generated_tokens += steps * len(self.scheduler.running)
        self.scheduler.advance(steps)
        if self._phase == 0:
            for sequence in self.scheduler.running:
                if sequence.streamed:
                    self._notify(sequence)
        self._finish()

    def _finish(self) -> None:
        now = self._loop.time()
        for sequence in self.scheduler.finish():
            self.metrics.e2e.observe(now - sequence.arrived)
            self._notify(sequence)

    async def _spend(self, seconds: float, gpu_s: float) -> None:
        """Let engine time pass; a loop that fell behind catches up, unless by too much."""
        self._clock += seconds + gpu_s * (self._device.stretch - 1)
        now = self._loop.time()
        if now < self._clock:
            await asyncio.sleep(self._clock - now)
        elif now - self._clock > BEHIND_S:
            self._clock = now
        await self._device.ran(gpu_s)

    async def _until(self, when: float | None) -> bool:
        """Wait for a time or an arrival; True for the arrival."""
        self._wake = self._loop.create_future()
        timer = self._loop.call_at(when, self._timed_out, self._wake) if when else None
        try:
            await self._wake
            return timer is None or self._loop.time() < (when or 0)
        finally:
            self._wake = None
            if timer:
                timer.cancel()

    def _timed_out(self, wake: asyncio.Future[None]) -> None:
        if not wake.done():
            wake.set_result(None)

    def _arrived(self) -> None:
        self._came = True
        if self._wake and not self._wake.done():
            self._wake.set_result(None)

    def _notify(self, sequence: Sequence) -> None:
        reader = self._readers.get(sequence)
        if reader and not reader.done():
            reader.set_result(None)


def _context(sequence: Sequence) -> int:
    """Tokens before the one that a prefill makes."""
    return sequence.prompt_tokens + sequence.generated - 1
