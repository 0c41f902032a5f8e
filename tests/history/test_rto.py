"""`aftershock rto` over journals: what it counts, what it claims, and what it leaves out."""

import json
from pathlib import Path
from typing import Any

import pytest

from aftershock.history.assess import Claim, assess, step_up, trend
from aftershock.history.journal import read_journal
from aftershock.history.words import seconds, since
from tests.history.conftest import INJECTION, VERSIONS, Command, Made

NO_EFFECT: dict[str, Any] = {"injections": [{**INJECTION, "bit": False}]}


def test_59_clean_runs_may_claim_and_58_may_not(made: Made, aftershock: Command) -> None:
    for _ in range(58):
        made(2.0)
    status, printed, _ = aftershock("rto", "--require", "15s", "--confidence", "0.95")
    assert status == 1 and "1 more clean run is needed to claim 95 % with 95 %" in printed
    assert "58 of 58 runs = 100.0 % (exact 95 % interval: 93.8 to 100.0 %)" in printed
    made(2.0)
    status, printed, _ = aftershock("rto", "--require", "15s")
    assert status == 0 and "holds: at least 95 %" in printed
    assert aftershock("rto", "--require", "15s", "--confidence", "0.99")[0] == 1
    assert aftershock("rto", "--require", "2010ms")[0] == 1  # ± 0.02 straddles it


def test_inconclusive_runs_are_counted_apart(made: Made, aftershock: Command) -> None:
    for _ in range(59):
        made(1.0, **NO_EFFECT)
    made(1.0)
    status, printed, _ = aftershock("rto", "--require", "15s")
    assert status == 1 and "1 of 1 runs" in printed and "apart: 59 INCONCLUSIVE" in printed
    assert "58 more clean runs" in printed


@pytest.mark.parametrize(
    ("more", "require_s", "within"),
    [
        ({"rto_s": 2.0}, 15, True),
        ({"rto_s": 20.0, "objective_s": 30}, 15, False),  # it passed its own, longer objective
        ({"rto_s": 5.0, "objective_s": 3}, 15, True),  # and failed its own, shorter one
        ({"rto_s": 14.99}, 15, None),  # the error reaches over it
        ({"rto_s": None}, 15, False),
        ({"rto_s": None}, 60, None),  # it was waited for 30 s only
        ({"rto_s": 2.0, "leftovers": ["a veth"]}, 15, False),
        ({"rto_s": 2.0, "activity_errors": ["x"]}, 15, False),
        ({"rto_s": 2.0, **NO_EFFECT}, 15, None),
    ],
)
def test_what_one_run_says_of_an_objective(
    made: Made, root: Path, more: dict[str, Any], require_s: float, within: bool | None
) -> None:
    made(**more)
    assert read_journal(root).runs[0].within(require_s) is within


def test_what_was_changed_where_it_got_worse(made: Made, aftershock: Command) -> None:
    for rto_s in (2.0, 2.1):
        made(rto_s)
    made(2.0, **NO_EFFECT)  # tells nothing, so it is neither before nor after
    newer = {**VERSIONS, "locust": "2.50.0"}
    worse = made(16.0, variables={"zone": "az-b", "gateway_port": 9}, versions=newer)
    status, printed, _ = aftershock("rto")
    assert status == 0
    assert f": {worse.name}: service back in 16.000 s ± 0.020, the objective" in printed
    assert "version locust: 2.47.0 → 2.50.0" in printed and "variable zone: az-a → az-b" in printed
    assert "gateway_port" not in printed and "variable load_rps" not in printed
    told = json.loads(aftershock("rto", "--json")[1])["experiments"][0]
    assert (told["within"], told["decided"], told["inconclusive"]) == (2, 3, 1)
    assert [one["kind"] for one in told["regressions"]] == ["missed"]
    assert told["worst"] == worse.name and told["median_s"] == 2.1


def test_each_experiment_and_target_stands_alone(made: Made, aftershock: Command) -> None:
    for _ in range(59):
        made(2.0)
    made(2.0, experiment="pod-kill")
    made(2.0, target="prod")
    assert aftershock("rto", "--require", "15s")[0] == 1
    for more in (("--experiment", "pod-kill"), ("--target", "prod")):
        status, printed, _ = aftershock("rto", "--require", "15s", *more)
        assert status == 1 and "58 more clean runs" in printed
    assert aftershock("rto", "--require=15s", "--experiment=az-failure", "--target=lab")[0] == 0
    assert aftershock("rto", "--since", "2026-11-03T22:00", "--target", "prod")[0] == 1


def test_folders_that_tell_nothing_are_told_and_left_out(
    made: Made, root: Path, aftershock: Command
) -> None:
    made(2.0)
    odd = {name: made(2.0) for name in ("half", "newer", "running", "list", "field", "word")}
    written = (odd["half"] / "verdict.json").read_text()
    (odd["half"] / "verdict.json").write_text(written[: len(written) // 2])
    (odd["newer"] / "verdict.json").write_text(written.replace('_version": 1', '_version": 2'))
    (odd["running"] / "verdict.json").unlink()
    (odd["list"] / "verdict.json").write_text("[1]")
    (odd["field"] / "verdict.json").write_text(written.replace('"rto_objective_s": 15.0', '"x": 1'))
    (odd["word"] / "verdict.json").write_text(written.replace('"PASS"', '"FINE"'))
    (root / "notes").mkdir()
    (root / "latest").symlink_to(odd["half"].name)
    status, printed, complained = aftershock("rto", "--require", "15s")
    assert status == 1 and "az-failure on lab: 1 run\n" in printed
    said = {line.split(": ")[0].split()[-1]: line for line in complained.splitlines()}
    assert len(said) == 7
    for name, words in {
        "half": "half written", "newer": "of version 2", "running": "aftershock recover",
        "list": "of version None", "field": "no sound rto_objective_s", "word": "no verdict",
    }.items():  # fmt: skip
        assert words in said[odd[name].name]
    assert "not a run's folder" in said["notes"]
    for folder in root.glob("2026*-az-failure"):
        (folder / "verdict.json").unlink(missing_ok=True)
    status, _, complained = aftershock("rto")
    assert (
        status == 1
        and "(8 left out, such as 20261101T090000Z-az-failure: no verdict.json" in complained
    )


def test_runs_of_before_variables_were_written_down(made: Made, aftershock: Command) -> None:
    old = made(2.0)
    told = json.loads((old / "verdict.json").read_text())
    for name in ("run", "title", "relapses_s", "capacity_gaps"):
        del told[name]
    (old / "verdict.json").write_text(json.dumps(told))
    made(16.0)
    status, printed, complained = aftershock("rto", "--experiment", "az-failure")
    assert status == 0 and not complained and "2026-11-01 09:00:00" in printed
    assert "variables were not written down" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--require", "15x"), "give one like 15s"),
        (("--since", "yesterday"), "give a day like 2026-11-01"),
        (("--since", "2026-12-01"), "nothing can be claimed"),
        (("--experiment", "az"), "the journal has az-failure"),
        (("--share", "95"), "between 0 and 1"),
        (("--journal", "/nowhere/at/all"), "No such file or directory"),
    ],
)
def test_bad_input_is_one_sentence(
    made: Made, aftershock: Command, arguments: tuple[str, ...], words: str
) -> None:
    made(2.0)
    status, printed, complained = aftershock("rto", *arguments)
    assert status == 1 and not printed
    assert words in complained and len(complained.splitlines()) == 1


def test_lengths_of_time() -> None:
    assert [seconds(text) for text in ("15", "15s", "500ms", "2 m", "7d")] == [
        15, 15, 0.5, 120, 7 * 86_400,
    ]  # fmt: skip
    assert since("2026-11-01").isoformat() == "2026-11-01T00:00:00+00:00"


def test_a_trend_and_a_step_are_seen_and_noise_is_not(made: Made, root: Path) -> None:
    noise = [2.0, 2.2, 1.9, 2.1, 2.3, 1.8, 2.0, 2.2, 2.1, 1.9]
    slope, chance = trend([2 + n / 10 for n in range(10)])
    assert slope == pytest.approx(0.1) and chance is not None and chance < 0.001
    assert (trend(noise)[1] or 0) > 0.2 and step_up(noise) is None
    assert trend(noise[:7]) == (None, None) and trend([1.0] * 9) == (0.0, 1.0)
    assert step_up([*noise, *(one + 1 for one in noise)]) == 10
    assert step_up([*(one + 1 for one in noise), *noise]) is None  # faster is no regression
    for one in noise:
        made(one)
    for one in noise:
        made(one + 1, variables={"load_rps": 60.0})
    (found,) = assess(read_journal(root).runs, Claim())
    (step,) = found.regressions
    assert step.kind == "slower" and [change.name for change in step.changes] == ["load_rps"]
