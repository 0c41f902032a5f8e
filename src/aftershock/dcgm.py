"""GPUs as dcgm-exporter's page of metrics tells of them; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Figure → dcgm-exporter's name; memory is in MiB there, too.
NAMES: Mapping[str, str] = {
    "utilisation_percent": "DCGM_FI_DEV_GPU_UTIL",
    "memory_used_mib": "DCGM_FI_DEV_FB_USED",
    "memory_free_mib": "DCGM_FI_DEV_FB_FREE",
    "power_w": "DCGM_FI_DEV_POWER_USAGE",
    "temperature_c": "DCGM_FI_DEV_GPU_TEMP",
    "sm_clock_mhz": "DCGM_FI_DEV_SM_CLOCK",
    "ecc_uncorrected": "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
    "last_xid": "DCGM_FI_DEV_XID_ERRORS",
}


def cards(page: str) -> list[dict[str, Any]]:
    """Each GPU's figures, by the names of `NAMES`; what the page lacks is None.

    `last_xid` is sticky: the last there was, however long ago; 0 for none.
    """
    from prometheus_client.parser import text_string_to_metric_families

    by_name = {name: figure for figure, name in NAMES.items()}
    found: dict[str, dict[str, Any]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if figure := by_name.get(sample.name):
                key = sample.labels.get("UUID") or sample.labels.get("gpu", "")
                card = found.setdefault(key, _empty(sample.labels))
                card[figure] = sample.value
    return [found[key] for key in sorted(found, key=lambda one: found[one]["index"])]


def _empty(labels: Mapping[str, str]) -> dict[str, Any]:
    index = labels.get("gpu", "0")
    told = {"index": int(index) if index.isdecimal() else 0, "uuid": labels.get("UUID", "")}
    return {**told, "name": labels.get("modelName", ""), "lost": False, **dict.fromkeys(NAMES)}
