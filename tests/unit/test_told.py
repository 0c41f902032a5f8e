"""What a run writes down of what it was told: enough to repeat it, and no secret."""

import pytest

from aftershock.run.settings import Settings
from aftershock.run.told import HIDDEN, command, told
from aftershock.slo.levels import load_levels, parse_levels


def test_a_command_line_to_copy_without_its_secrets() -> None:
    line = ["/opt/x/bin/chaos", "run", "a b.json", "--var", "zone=az-b", "--var=hf_token=abc"]
    line += ["--var", "db_password=p=q", "--api-key", "xyz", "--var=max_tokens=64"]
    assert command(line).replace(f"{HIDDEN}", "…") == (
        "chaos run 'a b.json' --var zone=az-b '--var=hf_token=…' --var 'db_password=…'"
        " --api-key '…' --var=max_tokens=64"
    )


@pytest.mark.parametrize("name", ["owner", "hosts"])
def test_every_setting_is_there_and_what_comes_from_elsewhere_is_not(name: str) -> None:
    declared = {
        "target": {"type": "env", "key": "AFTERSHOCK_TARGET"},
        "who": {"type": "env", "key": "WHO"},
    }
    given = {"target": "lab", "zone": "az-b", "who": "me", "where": "node-a", "token": "t", "l": []}
    levels = load_levels(name)
    found = told(Settings(zone="az-b"), levels, "A title", given, declared)
    variables = found["variables"]
    assert variables["zone"] == "az-b" and variables["hold_s"] == 15 and variables["seed"] == 7
    assert (variables["who"], variables["token"], variables["where"]) == (HIDDEN, HIDDEN, "node-a")
    assert "l" not in variables and found["experiment"] == "A title"
    assert parse_levels(found["levels"], "verdict.json") == levels
