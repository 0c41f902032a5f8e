"""The shapes of partitions: who can't hear whom, for any number of groups and any seed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftershock.errors import InvalidFault
from aftershock.faults.shapes import SHAPES, Deaf, parts, shape

GROUPS = st.integers(3, 9).map(lambda count: [f"az-{n}" for n in range(count)])
SEEDS = st.integers(0, 50)


def hears(deaf: Deaf, hearer: str, speaker: str) -> bool:
    return speaker not in deaf[hearer]


@given(GROUPS, SEEDS)
def test_halves_are_two_complete_parts(groups: list[str], seed: int) -> None:
    deaf = shape("halves", groups, seed)
    first = groups[0]
    ours = {g for g in groups if hears(deaf, first, g)}
    assert len(ours) in (len(groups) // 2, len(groups) - len(groups) // 2)
    for one in groups:
        for other in groups:
            assert hears(deaf, one, other) == ((one in ours) == (other in ours))


@given(GROUPS, SEEDS, st.booleans())
def test_one_is_isolated(groups: list[str], seed: int, named: bool) -> None:
    deaf = shape("isolate", groups, seed, groups[1] if named else "")
    alone = [g for g in groups if len(deaf[g]) == len(groups) - 1]
    assert len(alone) == 1 and (not named or alone == [groups[1]])
    assert all(deaf[g] == {alone[0]} for g in groups if g != alone[0])


@given(GROUPS, SEEDS)
def test_both_sides_of_a_bridge_hear_it(groups: list[str], seed: int) -> None:
    deaf = shape("bridge", groups, seed, groups[2])
    assert not deaf[groups[2]]
    assert all(hears(deaf, g, groups[2]) for g in groups)
    assert all(deaf[g] for g in groups if g != groups[2])


@given(GROUPS, SEEDS)
def test_everyone_in_a_ring_hears_another_bare_majority(groups: list[str], seed: int) -> None:
    deaf = shape("ring", groups, seed)
    heard = [frozenset(groups) - deaf[g] for g in groups]
    assert all(len(one) == len(groups) // 2 + 1 for one in heard)
    assert len(set(heard)) == len(groups)
    assert all(group in one for group, one in zip(groups, heard, strict=True))


@given(GROUPS, SEEDS)
def test_one_way_is_heard_by_the_larger_half(groups: list[str], seed: int) -> None:
    deaf = shape("one-way", groups, seed)
    hard_of_hearing = {g for g in groups if deaf[g]}
    assert len(hard_of_hearing) == len(groups) // 2
    assert all(deaf[g] == set(groups) - hard_of_hearing for g in hard_of_hearing)


@given(st.sampled_from(SHAPES), GROUPS, SEEDS)
def test_a_seed_says_it_all(kind: str, groups: list[str], seed: int) -> None:
    assert shape(kind, groups, seed) == shape(kind, groups, seed)
    assert all(group not in deaf for group, deaf in shape(kind, groups, seed).items())


def test_another_seed_is_another_choice() -> None:
    groups = [f"n{n}" for n in range(7)]
    assert len({str(shape("halves", groups, seed)) for seed in range(20)}) > 10


def test_parts_as_they_are_given() -> None:
    assert parts([["a"], ["b", "c"]]) == {"a": {"b", "c"}, "b": {"a"}, "c": {"a"}}


@pytest.mark.parametrize(
    ("kind", "groups", "first", "said"),
    [
        ("thirds", ["a", "b"], "", "shape 'thirds': one of halves, isolate"),
        ("ring", ["a", "b"], "", "needs 3 groups at least, not 2"),
        ("halves", ["a"], "", "needs 2 groups at least, not 1"),
        ("isolate", ["a", "b"], "c", "no group 'c', only a, b"),
        ("halves", ["a", "a"], "", "named twice"),
    ],
)
def test_nonsense(kind: str, groups: list[str], first: str, said: str) -> None:
    with pytest.raises(InvalidFault, match=said):
        shape(kind, groups, 1, first)
