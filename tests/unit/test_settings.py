"""A run's settings: what is taken, and the sentence for what is not."""

import pytest

from aftershock.errors import InvalidInput
from aftershock.run.settings import Settings


def test_values_from_the_command_line_are_words_and_become_numbers() -> None:
    settings = Settings.from_configuration({"rto_objective_s": "3", "zone": "az-b", "seed": "11"})
    assert (settings.rto_objective_s, settings.zone, settings.seed) == (3.0, "az-b", 11)


def test_truths_may_be_words() -> None:
    assert Settings.from_configuration({"node_cgroups": "True"}).node_cgroups is True
    assert Settings.from_configuration({"node_cgroups": False}).node_cgroups is False


def test_keys_of_the_experiment_itself_are_left_alone() -> None:
    assert Settings.from_configuration({"colour": "red"}) == Settings()


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("hold_s", "-5", "hold_s is -5: give a value from 0.5"),
        ("rto_objective_s", "soon", "rto_objective_s is 'soon': give a number"),
        ("rto_objective_s", "nan", "rto_objective_s is 'nan': give a number"),
        ("seed", "1.5", "seed is '1.5': give a whole number"),
        ("seed", True, "seed is True: give a whole number"),
        ("zone", "", "zone is '': give a word"),
        ("gateway", "magic", "gateway is 'magic': choose one of resilient, canary, naive"),
        ("gateway_port", "70000", "gateway_port is 70000: give a value from 1 to 65535"),
        ("node_cgroups", "maybe", "node_cgroups is 'maybe': give true or false"),
        ("node_cpus", "-1", "node_cpus is -1: give a value from 0"),
        ("lease_s", "20", "lease_s is 20: the fault would heal before the verdict is in"),
    ],
)
def test_nonsense_is_named_with_its_mend(key: str, value: object, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Settings.from_configuration({key: value})
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_lease_outlasts_the_longest_wait_for_recovery() -> None:
    settings = Settings(rto_objective_s=40, lease_s=120, hold_s=15)
    assert settings.lease_s >= settings.give_up_s + settings.hold_s
    with pytest.raises(InvalidInput):
        Settings(rto_objective_s=60, lease_s=120, hold_s=15)
