"""The GPUs of this host, by NVML."""

from __future__ import annotations

from typing import Any, Dict, List

from .errors import CannotDo

_MIB = 1 << 20


def gpus() -> List[Dict[str, Any]]:
    """Every GPU with its memory and utilisation; CannotDo where there is no NVML."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise CannotDo(f"no NVML on this host ({error}): install NVIDIA's driver") from None
    try:
        return [_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _gpu(pynvml: Any, index: int) -> Dict[str, Any]:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return {
        "index": index,
        "uuid": _text(pynvml.nvmlDeviceGetUUID(handle)),
        "name": _text(pynvml.nvmlDeviceGetName(handle)),
        "memory_used_mib": memory.used / _MIB,
        "memory_total_mib": memory.total / _MIB,
        "utilisation_percent": _utilisation(pynvml, handle),
    }


def _utilisation(pynvml: Any, handle: Any) -> Any:
    """Time with any kernel running; None where the device doesn't tell (MIG)."""
    try:
        return pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
    except pynvml.NVMLError:
        return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
