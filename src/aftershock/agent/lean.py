"""pyroute2 without what isn't used of it: its `__init__` imports all there is, at twice the cost.

Only for a process that is the agent's alone: others may want what is left out.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

_PACKAGE = "pyroute2"


def spare() -> None:
    """From here on its modules are imported one by one."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec and _PACKAGE not in sys.modules:
        sys.modules[_PACKAGE] = importlib.util.module_from_spec(spec)


def iproute() -> Any:
    """The class; where a release of pyroute2 wants its `__init__` after all, by way of that."""
    try:
        from pyroute2.iproute.linux import IPRoute
    except (AttributeError, ImportError):
        for name in [one for one in sys.modules if one.split(".")[0] == _PACKAGE]:
            del sys.modules[name]
        from pyroute2.iproute.linux import IPRoute
    return IPRoute
