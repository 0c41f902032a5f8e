"""`python -m aftershock.lab.model_server`: one replica, with those of vLLM's arguments it knows."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web

from aftershock.lab.model_server.api import Api
from aftershock.lab.model_server.core import EngineCore
from aftershock.lab.model_server.cost import BLOCK_TOKENS, KV_BYTES_PER_TOKEN, CostModel
from aftershock.lab.model_server.device import GIB, DeviceError, reserve
from aftershock.lab.model_server.engine import Engine
from aftershock.lab.model_server.metrics import Metrics
from aftershock.lab.model_server.scheduler import Scheduler
from aftershock.lab.model_server.spoiling import SPOILED
from aftershock.lab.model_server.weights import Weights

WEIGHTS_BYTES = 14 * GIB
ACTIVATION_BYTES = 2 * GIB


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="aftershock.lab.model_server", allow_abbrev=False)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--served-model-name", default="deepseek-7b")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-model-len", type=int, default=4096)
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument("--max-num-batched-tokens", type=int, default=8192)
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.9)
    parser.add_argument("--num-gpu-blocks-override", type=int)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--spoil", choices=sorted(SPOILED))
    parser.add_argument("--startup-s", type=float, default=1.0)
    for name in CostModel.__dataclass_fields__:
        default = getattr(CostModel(), name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=default)
    return parser.parse_args(given)


def block_count(options: argparse.Namespace, kv_bytes: int) -> int:
    """KV-cache blocks; `DeviceError`, as vLLM has it, when not even one sequence would fit."""
    blocks = options.num_gpu_blocks_override or kv_bytes // (KV_BYTES_PER_TOKEN * BLOCK_TOKENS)
    if blocks * BLOCK_TOKENS < options.max_model_len:
        raise DeviceError(
            f"The model's max seq len ({options.max_model_len}) is larger than the maximum number "
            f"of tokens that can be stored in KV cache ({blocks * BLOCK_TOKENS}). Try increasing "
            "`gpu_memory_utilization` or decreasing `max_model_len`."
        )
    return int(blocks)


async def load(
    options: argparse.Namespace, device: EngineCore, weights: Weights | None
) -> Scheduler:
    """Allocate as an engine does: weights first, that takes its time, then the cache."""
    kv_bytes = reserve(device, options.gpu_memory_utilization) - WEIGHTS_BYTES - ACTIVATION_BYTES
    blocks = block_count(options, kv_bytes)
    device.allocate(WEIGHTS_BYTES)
    if weights:
        await weights.load()
    await asyncio.sleep(options.startup_s)
    device.allocate(ACTIVATION_BYTES)
    device.allocate(max(1, kv_bytes))
    return Scheduler(blocks, options.max_num_seqs, options.max_num_batched_tokens)


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM."""
    device = EngineCore()
    try:
        await _serve(options, device)
    finally:
        device.end()


async def _serve(options: argparse.Namespace, device: EngineCore) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    weights = Weights(options.weights, WEIGHTS_BYTES) if options.weights else None
    scheduler = await load(options, device, weights)
    cost = CostModel(**{name: getattr(options, name) for name in CostModel.__dataclass_fields__})
    engine = Engine(scheduler, cost, Metrics(options.served_model_name), device, weights)
    api = Api(engine, options.served_model_name, options.max_model_len, options.seed)
    api.spoil = options.spoil
    runner = web.AppRunner(
        api.application(), access_log=None, handler_cancellation=True, shutdown_timeout=5.0
    )
    await runner.setup()
    await web.TCPSite(runner, options.host, options.port, backlog=1024).start()
    working, failed = asyncio.create_task(engine.run()), device.attend()
    ends: list[asyncio.Future[Any]] = [working, failed, asyncio.create_task(ended.wait())]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for one in (working, failed):
        if one.done():
            one.result()
    await runner.cleanup()
    working.cancel()
    failed.cancel()


def main() -> None:
    """Exit 1 with one line where the GPU refuses."""
    options = arguments()
    try:
        uvloop.run(serve(options))
    except (DeviceError, OSError) as why:
        sys.exit(f"model server: {why}")


if __name__ == "__main__":
    main()
