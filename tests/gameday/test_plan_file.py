"""What is wrong in a plan is one sentence with its line and the mend."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftershock.cli import main
from aftershock.errors import InvalidInput
from aftershock.gameday.plan_file import read_plan

from .conftest import experiment

ROOT = Path(__file__).parents[2]
PLAN = """\
title: Autumn
owner: Ops
calendar:
  cron: "0 10 * * Thu"
  time_zone: Europe/Berlin
  windows: ["Mon-Thu 09:00-16:00"]
  blackout: [2026-12-24, "2026-12-28..2027-01-06"]
  missed: skip
experiments:
  - file: tiny.json
    variables: {hold_s: 3}
    choose: {zone: [az-a, az-b]}
    repeat: 4
    pause: 1m..5m
gates:
  - {name: budget, command: "true", at_least: 0.2}
notify:
  - {webhook_env: SLACK}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "tiny.json").write_text(json.dumps(experiment()))
    return tmp_path


def written(place: Path, text: str) -> Path:
    path = place / "plan.yaml"
    path.write_text(text)
    return path


def test_a_plan_is_read_whole(place: Path) -> None:
    plan = read_plan(written(place, PLAN))
    assert plan.calendar and plan.calendar.zone.key == "Europe/Berlin"
    assert plan.calendar.blackout[0] == (date(2026, 12, 24),) * 2
    (one,) = plan.experiments
    assert one.pause_s == (60, 300) and one.variables == {"hold_s": 3}
    assert plan.gates[0].at_least == 0.2 and plan.notify[0].name == "webhook SLACK"


def test_draws_come_from_the_seed_alone(place: Path) -> None:
    plan = read_plan(written(place, PLAN))
    drawn = [(step.drawn["zone"], step.pause_s) for step in plan.steps(7)]
    assert drawn == [(step.drawn["zone"], step.pause_s) for step in plan.steps(7)]
    assert len({zone for zone, _ in drawn}) == 2 and len({pause for _, pause in drawn}) == 4
    assert all(60 <= pause <= 300 for _, pause in drawn)
    others = {tuple(step.drawn["zone"] for step in plan.steps(seed)) for seed in range(20)}
    assert len(others) > 5


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("owner:", "ownr:", r"line 2: the plan: unknown key 'ownr': did you mean 'owner'\?"),
        ("windows:", "window:", "line 6: calendar: unknown key 'window': did you mean 'windows'"),
        ("tiny.json", "tyni.json", r"line 10: experiment tyni.json: file: there is no file .*tyni"),
        (
            "calendar:",
            "variables: {zone: az-b, hold: 3}\ncalendar:",
            "line 3: the plan: no experiment has a variable 'hold': did you mean 'hold_s'?",
        ),
        ("hold_s", "holds", "line 11: .*tiny.json has no variable 'holds': did you mean 'hold_s'"),
        ("{zone: [", "{zoon: [", "line 12: .*has no variable 'zoon': did you mean 'zone'"),
        ('"0 10 * * Thu"', '"0 0 30 2 *"', "line 4: calendar: cron: .*never fires: no such month"),
        ('"0 10 * * Thu"', '"0 10 * *"', "line 4: .*has 4 fields: give five"),
        ('"0 10 * * Thu"', '"0 99 * * *"', "line 4: .*bad hour"),
        ('"0 10 * * Thu"', '"0 10 L * *"', "line 4: .*'L' is not what every cron knows"),
        (
            "Europe/Berlin",
            "Europe/Berln",
            "line 5: .*no time zone 'Europe/Berln': did you mean 'Eu",
        ),
        ("09:00-16:00", "9-16", "line 6: .*give one like 'Mon-Fri 09:00-17:00'"),
        ("2027-01-06", "2026-01-06", "line 7: .*ends before it begins"),
        ("missed: skip", "missed: later", "line 8: .*give 'skip' or 'catch up'"),
        ("1m..5m", "5m..1m", "line 14: .*ends before it begins"),
        ("1m..5m", "soon", "line 14: .*'soon' is no length of time"),
        ("repeat: 4", "repeat: 0", "line 13: .*repeat is 0: give 1 to 1000"),
        ('command: "true", ', "", "line 16: gate: asks nothing: give one of command, url"),
        ('"true"', '"true", url: "http://x"', "line 16: gate: has command and url: give one"),
        (
            'command: "true", at_least: 0.2',
            "ready_outside: az-a",
            "line 16: gate: ready_outside without at_least",
        ),
        ("webhook_env: SLACK", "webhook: hooks.example.org", "line 18: notify: webhook is 'hooks"),
        ("title: Autumn\n", "", "line 1: the plan: no title: say in a few words"),
        ("  - file: tiny.json", "  - fil: tiny.json", "line 10: .*unknown key 'fil'"),
    ],
)
def test_what_is_wrong_has_a_line_and_a_mend(
    place: Path, old: str, new: str, sentence: str
) -> None:
    assert old in PLAN
    path = written(place, PLAN.replace(old, new, 1))
    with pytest.raises(InvalidInput, match=f"plan.yaml, {sentence}"):
        read_plan(path)


@pytest.mark.parametrize(
    ("experiment", "sentence"),
    [
        ("{", "tiny.json, line 1: not JSON"),
        ("[]", "is no experiment: it has no method"),
    ],
)
def test_a_file_that_is_no_experiment(place: Path, experiment: str, sentence: str) -> None:
    (place / "tiny.json").write_text(experiment)
    with pytest.raises(InvalidInput, match=sentence):
        read_plan(written(place, PLAN))


def test_the_command_says_it_in_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = place / "sound.yaml"
    sound.write_text(PLAN)
    for arguments, said in (
        (
            ["check", str(written(place, PLAN.replace("owner", "ownr")))],
            "line 2: the plan: unknown key 'ownr': did you mean 'owner'?",
        ),
        (["run", str(place / "none.yaml")], "No such file or directory; give the path of a plan"),
        (["abort"], "no game day goes on here"),
        (["abort", str(place / "none.yaml")], "no game day goes on here"),
        (["run", "--only", "tyni", str(sound)], "--only 'tyni': the plan has tiny"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["gameday", *arguments])
        complained = capsys.readouterr().err
        assert ended.value.code == 1 and said in complained
        assert complained.startswith("aftershock: ") and complained.count("\n") == 1


def test_the_same_name_twice_is_refused(place: Path) -> None:
    twice = PLAN.replace("gates:", "  - file: tiny.json\ngates:", 1)
    with pytest.raises(InvalidInput, match="line 15: experiment tiny is in line 10 already"):
        read_plan(written(place, twice))


def test_the_example_is_valid_and_so_is_what_it_leaves_out(tmp_path: Path) -> None:
    example = ROOT / "experiments" / "gameday.yaml"
    plan = read_plan(example)
    assert [one.name for one in plan.experiments] == ["pod-kill", "lose-a-zone"]
    words: list[str] = []
    for line in example.read_text().splitlines():  # every option that stands there as a comment
        bare = line.lstrip()
        option = bare[2:].rstrip() if bare.startswith("# ") else None
        is_yaml = option and (option.startswith(("- {", "  - {")) or option.partition(":")[0] in
                              ("safeguards", "notify", "seed", "confirm"))  # fmt: skip
        indent = line[: len(line) - len(bare)]
        words.append(f"{indent}{option}" if is_yaml else line)
    whole = example.with_name(".gameday-whole.yaml")
    try:
        whole.write_text("\n".join(words))
        told = read_plan(whole)
    finally:
        whole.unlink()
    assert len(told.gates) == 3 and len(told.safeguards) == 1 and len(told.notify) == 2
    assert told.seed == 7 and told.experiments[1].confirm


def test_docs_show_what_is_valid(place: Path) -> None:
    text = (ROOT / "docs" / "gamedays.md").read_text()
    shown: list[Any] = [part.split("```")[0] for part in text.split("```yaml\n")[1:]]
    assert shown
    for part in shown:
        plan = yaml.safe_load(part)
        for one in plan["experiments"]:
            one["file"] = str(ROOT / "experiments" / one["file"])
        read_plan(written(place, yaml.safe_dump(plan)))
