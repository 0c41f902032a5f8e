"""A mock card for a test."""

from pathlib import Path

import pytest
from mock_cards import Card


@pytest.fixture
def card(tmp_path: Path) -> Card:
    """One node's card."""
    return Card(tmp_path / "ledger")
