"""Whatever dies, whenever: nothing stays on a host. `make survival` plays all, as a table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cells import SENSIBLE, Cell, sample
from table import table

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
Record = Callable[[str, Any], None]
SEED = 7


@pytest.mark.survival
@pytest.mark.parametrize("cell", SENSIBLE, ids=str)
def test_nothing_is_left(cell: Cell, tmp_path: Path, record_property: Record) -> None:
    record_property("cell", str(cell))
    record_property("took_s", cell.play(tmp_path))


@pytest.mark.parametrize("cell", sample(SEED), ids=str)
def test_nothing_is_left_in_a_sample(cell: Cell, tmp_path: Path) -> None:
    cell.play(tmp_path)


def test_the_table_shows_failures_and_why_a_cell_is_not_played() -> None:
    played, failed, skipped = SENSIBLE[:3]
    lines = table({str(played): 0.25, str(failed): None})
    assert "0.25 s" in lines[1] and "FAILED" in lines[1] + lines[2]
    assert any("there is no rollback to interrupt" in line for line in lines)
    assert sum("–" in line for line in lines) >= 3
    assert str(skipped) not in "".join(lines) and "not run" in "".join(lines)
