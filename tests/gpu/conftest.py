"""A real GPU, or a loud skip. Figures go to build/gpu-figures.json, with the card's name."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aftershock.agent import gpu
from aftershock.agent.errors import AgentError
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.inventory import Node
from aftershock.ledger import Ledger

FIGURES = Path(__file__).parents[2] / "build" / "gpu-figures.json"
HERE = Node("here", "none", ("127.0.0.1",), devices=())


@pytest.fixture(scope="session")
def card() -> dict[str, Any]:
    """The first GPU, which nobody may use."""
    try:
        found = gpu.looked_at()[0]
    except (AgentError, IndexError) as error:
        pytest.skip(f"NO NVIDIA GPU HERE ({error}): hardware is not tested on this machine")
    if found["processes"]:
        pytest.skip(f"GPU 0 IS IN USE by {found['processes']}: these tests would disturb that")
    return found


@pytest.fixture
def instances(card: dict[str, Any]) -> list[dict[str, Any]]:
    """The MIG instances of the first GPU."""
    if not card["instances"]:
        pytest.skip("GPU 0 HAS NO MIG INSTANCE (nvidia-smi -mig 1; mig -cgi): none is tested here")
    return list(card["instances"])


@pytest.fixture(autouse=True)
def whole(request: pytest.FixtureRequest, card: dict[str, Any]) -> None:
    """Whoever doesn't ask for instances wants a GPU that isn't split."""
    if card["mig"] and "instances" not in request.fixturenames:
        pytest.skip("GPU 0 IS SPLIT BY MIG: of the whole of it nothing is tested here")


@pytest.fixture(scope="session")
def figures(card: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What was measured, by name; kept beside the card's name and its driver's version."""
    measured: dict[str, Any] = {}
    yield measured
    told = {"card": card["name"], "driver": card["driver"], "level": card["level"], **measured}
    FIGURES.parent.mkdir(exist_ok=True)
    FIGURES.write_text(json.dumps(told, indent=2) + "\n")
    print(f"\n{FIGURES}: {json.dumps(told)}")


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    made = Fleet()
    yield made
    made.close()


@pytest.fixture
def inject(card: dict[str, Any], fleet: Fleet) -> Iterator[Any]:
    """Arm and fire a fault here; whatever happens, it is reverted."""
    ledger, made = Ledger.open("gpu-tests"), []

    def make(fault: Any, fire: bool = True) -> Injection:
        injection = Injection(fault, [HERE], lease_s=120, ledger=ledger, fleet=fleet)
        made.append(injection)
        injection.arm()
        if fire:
            injection.fire()
        return injection

    yield make
    for injection in made:
        injection.revert()
    ledger.close()
