"""What a step of the engine costs. The defaults are near a 7B model on one H100."""

from __future__ import annotations

from dataclasses import dataclass

BLOCK_TOKENS = 16
KV_BYTES_PER_TOKEN = 480 << 10  # 30 layers of 4096, keys and values, 16 bit


@dataclass(frozen=True, slots=True)
class CostModel:
    """Milliseconds per step: what the host spends around it, and what the GPU spends in it."""

    host_ms: float = 3.5
    decode_ms: float = 3.5
    decode_per_sequence_ms: float = 0.15
    prefill_ms: float = 2.0
    prefill_per_token_ms: float = 0.03

    def decode_gpu_s(self, batch: int) -> float:
        """GPU seconds of one decode step: one token for each of `batch` sequences."""
        return (self.decode_ms + self.decode_per_sequence_ms * batch) / 1e3

    def decode_s(self, batch: int) -> float:
        """Seconds of one decode step."""
        return self.host_ms / 1e3 + self.decode_gpu_s(batch)

    def prefill_gpu_s(self, tokens: int) -> float:
        """GPU seconds for prompts of `tokens` in all, up to their first token."""
        return (self.prefill_ms + self.prefill_per_token_ms * tokens) / 1e3

    def prefill_s(self, tokens: int) -> float:
        """Seconds of a prefill step."""
        return self.host_ms / 1e3 + self.prefill_gpu_s(tokens)


def blocks_for(tokens: int) -> int:
    """KV-cache blocks that hold `tokens`."""
    return -(-tokens // BLOCK_TOKENS)
