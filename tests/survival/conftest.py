"""The matrix' results, gathered into a table at the end."""

from __future__ import annotations

from typing import Any

import pytest
from table import table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of what was played, if any of it was."""
    took: dict[str, float | None] = {}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            known: dict[str, Any] = dict(getattr(report, "user_properties", []))
            if "cell" in known:
                took[known["cell"]] = known.get("took_s") if outcome == "passed" else None
    if took:
        terminalreporter.section("survival")
        terminalreporter.write("\n".join(table(took)) + "\n")
