"""A service that breaks by itself, and the check that no test leaves a process behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from rig import Service, offspring


@pytest.fixture
def start_service() -> Iterator[Any]:
    running: list[Service] = []

    def start(**plan: Any) -> Service:
        running.append(Service(**plan))
        return running[-1]

    yield start
    for service in running:
        service.stop()


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    before = offspring()
    yield
    deadline = time.monotonic() + 2
    while (left := offspring() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, f"processes left behind: {left}"
