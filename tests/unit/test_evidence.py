"""When pieces of evidence prove an effect."""

import pytest

from aftershock.evidence import FELT, Piece, bites, felt, slower
from aftershock.faults.base import Effect


def piece(name: str, ok: bool | None, host: str = "a") -> Piece:
    return Piece(name, host, ok, "")


@pytest.mark.parametrize(
    ("pieces", "proven"),
    [
        ([], False),
        ([piece("dropped", True)], True),
        ([piece("dropped", False)], False),
        ([piece("dropped", True), piece("silent", None), piece("spared", None)], True),
        ([piece("dropped", True), piece("silent", True), piece("spared", True)], True),
        ([piece("dropped", True), piece("silent", False)], False),
        ([piece("dropped", True), piece("spared", False)], False),
        ([piece("spared", True)], False),
        ([piece("dropped", True), piece("dropped", False, "b")], False),
        ([piece("dropped", True), piece("spared", True, "b")], False),
        ([piece("dropped", True), piece("dropped", True, "b")], True),
    ],
)
def test_every_host_needs_proof_and_nothing_may_speak_against(
    pieces: list[Piece], proven: bool
) -> None:
    assert bites(pieces) is proven


@pytest.mark.parametrize("seen", [True, False, None])
def test_a_witness_that_was_named_must_have_seen_it(seen: bool | None) -> None:
    pieces = [piece("dropped", True), piece("silent", seen)]
    assert bites(pieces, needed=["silent"]) is (seen is True)
    assert not bites(pieces[:1], needed=["silent"])


@pytest.mark.parametrize(
    ("before", "now", "seen"),
    [
        ([1, 1, 2], [81, 82, 83], True),
        ([1, 40, 60], [81, 82, 83], True),  # a busy machine before
        ([1, 2, 60], [3, 4, 90], False),  # a busy machine afterwards
        ([1, 1, 2], [20, 21, 22], False),
        ([1, 1, 2], [1, 150, 160], True),  # jitter
        ([1, 1, 2], [], False),
    ],
)
def test_round_trips_are_slower_if_half_or_even_the_quickest_are(
    before: list[float], now: list[float], seen: bool
) -> None:
    assert slower("a", before, now, Effect("slower", 80)).ok is seen


@pytest.mark.parametrize(
    ("told", "met"),
    [((), None), ((None,), None), ((False, None), False), ((False, True), True)],
)
def test_one_host_where_somebody_met_it_is_enough(
    told: tuple[bool | None, ...], met: bool | None
) -> None:
    pieces = [piece(FELT, ok, f"node-{number}") for number, ok in enumerate(told)]
    assert felt([*pieces, piece("after", False)]) is met
