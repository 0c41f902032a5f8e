"""The guide's example is code that works: taken out of docs/add-a-fault.md and run."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from wires import World

from aftershock.hosts.fleet import Fleet
from aftershock.ledger import Ledger

GUIDE = Path(__file__).parents[2] / "docs/add-a-fault.md"


@pytest.mark.root
def test_the_guides_fault_and_its_test_work(
    wires: World, fleet: Fleet, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, test = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    module = ModuleType("aftershock.faults.isolation")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(fault, "isolation.py", "exec"), module.__dict__)
    names: dict[str, Any] = {"__name__": "test_isolation"}
    exec(compile(test, "test_isolation.py", "exec"), names)
    names["test_an_isolated_host_is_alone_until_the_heal"](wires, fleet, ledger)


def test_the_files_it_names_are_there() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:src|tests|actions|docs)/[\w./-]+)`", text)) | {
        f"src/aftershock/{path}" for path in re.findall(r"`(agent/\w+\.py)`", text)
    }
    own = {"src/aftershock/faults/isolation.py", "tests/agent/test_isolation.py"}
    missing = [path for path in named - own if not (GUIDE.parents[1] / path).exists()]
    assert len(named) > 8 and not missing, missing
