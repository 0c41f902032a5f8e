"""Continuous batching over KV-cache blocks: who runs, waits, is preempted. No clock, no I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from aftershock.lab.model_server.cost import blocks_for


@dataclass(slots=True, eq=False)
class Sequence:
    """One answer in the making. `target` is how many tokens it will have."""

    prompt_tokens: int
    target: int
    streamed: bool = False
    arrived: float = 0.0
    generated: int = 0
    blocks: int = 0
    first_token_at: float | None = None

    @property
    def remaining(self) -> int:
        """Tokens still to come."""
        return self.target - self.generated

    @property
    def finished(self) -> bool:
        """Whether all tokens are there."""
        return self.generated >= self.target


@dataclass(slots=True)
class Scheduler:
    """The state of one engine."""

    total_blocks: int
    max_sequences: int = 256
    max_batched_tokens: int = 8192
    waiting: deque[Sequence] = field(default_factory=deque)
    running: list[Sequence] = field(default_factory=list)
    used_blocks: int = 0
    preemptions: int = 0

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache in use, 0 to 1."""
        return self.used_blocks / self.total_blocks

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self.waiting.append(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def admit(self) -> list[Sequence]:
        """Move those from the queue that fit; each needs a prefill (again, if it was preempted)."""
        admitted: list[Sequence] = []
        tokens = 0
        while self.waiting and len(self.running) < self.max_sequences:
            sequence = self.waiting[0]
            context = sequence.prompt_tokens + sequence.generated
            tokens += context
            if admitted and tokens > self.max_batched_tokens:
                break
            need = blocks_for(context + 1)
            if self.used_blocks + need > self.total_blocks:
                break
            self.waiting.popleft()
            self._resize(sequence, need)
            sequence.generated += 1
            self.running.append(sequence)
            admitted.append(sequence)
        return admitted

    def steps_until(self, boundary: int) -> int:
        """Decode steps until a sequence ends; at most `boundary` where somebody reads along."""
        steps = min(sequence.remaining for sequence in self.running)
        if any(sequence.streamed for sequence in self.running):
            steps = min(steps, boundary)
        return max(1, steps)

    def advance(self, steps: int) -> None:
        """Each running sequence gains `steps` tokens; the youngest give way when blocks run out."""
        for sequence in list(self.running):
            if sequence not in self.running:
                continue
            gained = min(steps, sequence.remaining)
            need = blocks_for(sequence.prompt_tokens + sequence.generated + gained)
            if self._make_room(sequence, need - sequence.blocks):
                self._resize(sequence, need)
                sequence.generated += gained

    def finish(self) -> list[Sequence]:
        """Take out the sequences that have all their tokens."""
        done = [sequence for sequence in self.running if sequence.finished]
        if done:
            self.running = [sequence for sequence in self.running if not sequence.finished]
        for sequence in done:
            self._release(sequence)
        return done

    def _make_room(self, sequence: Sequence, blocks: int) -> bool:
        while self.used_blocks + blocks > self.total_blocks:
            victim = self.running.pop()
            self._release(victim)
            self.waiting.appendleft(victim)
            self.preemptions += 1
            if victim is sequence:
                return False
        return True

    def _resize(self, sequence: Sequence, blocks: int) -> None:
        self.used_blocks += blocks - sequence.blocks
        sequence.blocks = blocks

    def _release(self, sequence: Sequence) -> None:
        self._resize(sequence, 0)
