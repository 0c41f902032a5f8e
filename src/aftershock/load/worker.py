"""`python -m aftershock.load.worker`: a worker of the load on another machine than its master.

Locust's own options say where the master is (`--master-host`, `--master-port`) and how many
processes to be (`--processes`). AFTERSHOCK_HEADERS has the headers of every request as JSON, the
service's token among them: the master doesn't send them, since Locust's channel is open to all.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec


def main() -> None:
    """Become Locust."""
    spec = find_spec("aftershock.load.locustfile")
    assert spec and spec.origin
    command = [sys.executable, "-m", "locust", "-f", spec.origin, "--worker", *sys.argv[1:]]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
