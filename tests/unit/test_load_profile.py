"""Profiles and traces: what they mean, and that each mistake names its line."""

from __future__ import annotations

import json
from itertools import islice, pairwise
from pathlib import Path
from random import Random
from statistics import fmean, pstdev

import pytest

from aftershock.errors import InvalidInput
from aftershock.load.arrivals import arrivals, schedule
from aftershock.load.profile import SHIPPED, constant, load_profile
from aftershock.load.prompts import request
from aftershock.load.settings import LoadSettings, Stage
from aftershock.load.trace import Row, check, rows

URL = "http://127.0.0.1:1"


def written(folder: Path, text: str, name: str = "p.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(("burstiness", "spread"), [(0.25, 2.0), (1.0, 1.0), (16.0, 0.25)])
def test_gamma_arrivals_are_as_bursty_as_told(burstiness: float, spread: float) -> None:
    times = list(arrivals([Stage(200, 100)], "gamma", 3, burstiness=burstiness))
    gaps = [b - a for a, b in pairwise(times)]
    assert len(times) == pytest.approx(20_000, rel=0.05)
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(spread, rel=0.05)
    assert times != list(arrivals([Stage(200, 100)], "gamma", 4, burstiness=burstiness))


@pytest.mark.parametrize("pattern", ["constant", "poisson", "gamma"])
def test_workers_share_one_seeded_schedule(pattern: str) -> None:
    stages = [Stage(5, 20, 60), Stage(5, 60)]
    alone = list(arrivals(stages, pattern, 7, burstiness=0.5))
    shared = [at for i in range(3) for at in arrivals(stages, pattern, 7, i, 3, 0.5)]
    assert sorted(shared) == alone


@pytest.mark.parametrize("name", SHIPPED[:3])
def test_a_profile_that_ships_grows_as_its_name_says_and_has_a_stage_for_faults(name: str) -> None:
    profile = load_profile(name)
    low, high = (float(word) if word.isdigit() else 0.0 for word in name.split("-"))
    assert profile.rate_at(0) == low
    rates = [profile.rate_at(at) for at in range(int(profile.length_s))]
    assert max(rates) >= (high or 2 * low)
    assert profile.stage_at(profile.chaos_at_s) == "chaos"
    assert profile.stage_at(profile.chaos_at_s - 1) != "chaos"


def test_the_last_rate_is_held_and_a_spike_comes_down_again(tmp_path: Path) -> None:
    text = """
stages:
  - {kind: spike, rate_rps: 10, peak_rps: 50, duration_s: 4}
  - kind: chaos
    rate_rps: 20
    duration_s: 5
"""
    profile = load_profile(written(tmp_path, text))
    assert [profile.rate_at(at) for at in (0, 1, 2, 3, 4, 8.9, 500)] == [10, 30, 50, 30, 20, 20, 20]
    assert (profile.chaos_at_s, profile.length_s) == (4, 9)
    settings = profile.onto(LoadSettings(URL), 100)
    assert settings.duration_s == 109
    due = [due.at for due in schedule(settings)]
    assert len(due) == pytest.approx(60 * 2 + 60 + 105 * 20, rel=0.1)
    assert due[-1] > 105
    assert constant(40).onto(LoadSettings(URL), 100).stages[-1].rate == 40


GOOD = "stages:\n  - {kind: baseline, rate_rps: 10, duration_s: 5}\n"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "empty: see docs/load.md"),
        ("stages: [", 1, "not YAML"),
        ("- 1\n", 1, "mapping of keys"),
        ("stages:\n", 1, "stages or a trace"),
        (GOOD + "trace: t.csv\n", 3, "stages or a trace"),
        (GOOD + "burst: 2\n", 3, "did you mean 'burstiness'?"),
        ("arrivals: uniform\n" + GOOD, 1, "arrivals is 'uniform': give one of constant"),
        ("arrivals: gamma\n" + GOOD, 1, "belong together"),
        (GOOD + "burstiness: 2\n", 3, "belong together"),
        (GOOD + "trace_speed: 2\n", 3, "trace_speed is for a trace"),
        (GOOD + "  - {rate_rps: 3}\n", 3, "no kind: give one of baseline"),
        (GOOD + "  - {kind: ramp, rate_rps: 3, duration_s: 1}\n", 3, "kind is 'ramp'"),
        (GOOD + "  - {kind: step, rate_rps: fast, duration_s: 1}\n", 3, "rate_rps is 'fast'"),
        (GOOD + "  - kind: step\n    rate_rps: 3\n    duration_s: 0\n", 5, "above 0"),
        (GOOD + "  - {kind: step, rate_rps: 3}\n", 3, "no duration_s: a step has rate_rps"),
        (GOOD + "  - {kind: step, rate_rps: -3, duration_s: 1}\n", 3, "rate_rps is -3: give 0 to"),
        (GOOD + "  - {kind: step, rate_rps: 3, duration_s: 1, to_rps: 4}\n", 3, "not for a step"),
        (GOOD + "  - {kind: soak, rate_rps: 0, duration_s: 1}\n", 3, "above 0"),
        (GOOD + "  - {kind: linear, rate_rps: 9, to_rps: 0, duration_s: 1}\n", 3, "ends at 0"),
        ("trace: nowhere.csv\n", 1, "there is no file"),
    ],
)
def test_a_malformed_profile_names_its_line(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InvalidInput) as raised:
        load_profile(path)
    assert str(raised.value).startswith(f"{path}, line {line}: "), raised.value
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


ASKED = """stages: [{kind: soak, rate_rps: 10, duration_s: 5}]
requests:
  chat_share: 0.5
  stream_share: 1
  prompts: [korean, shared]
  prompt_tokens: {file: lengths.txt}
  output_tokens: {median: 200, p99: 1500, min: 64, max: 2048}
  temperatures: {from: 0.1, to: 1.0, step: 0.1}
  ignore_eos: true
  min_tokens: 8
  timeout_s: 60
  retries: 2
  usage: false
  headers:
    x-tenant: chaos
    x-api-key: {env: API_KEY}
"""


def test_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "# tokens\n10\n300\n", "lengths.txt")
    monkeypatch.setenv("API_KEY", "sk-secret-7")
    profile = load_profile(written(tmp_path, ASKED))
    settings = LoadSettings.from_json(profile.onto(LoadSettings(URL), 9).to_json())
    assert settings.headers == {"x-tenant": "chaos", "x-api-key": "sk-secret-7"}
    assert "sk-secret-7" not in repr(settings) + repr(profile)
    assert (settings.timeout_s, settings.retries, settings.usage) == (60, 2, False)
    rng = Random(1)
    bodies = [request(rng, settings, i)[1] for i in range(3000)]
    assert [body["temperature"] for body in bodies[:11]] == [
        *(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        0.1,
    ]
    lengths = sorted(body["max_tokens"] for body in bodies)
    assert lengths[0] == 64 and lengths[-1] == 2048
    assert lengths[1500] == pytest.approx(200, rel=0.1)
    assert lengths[2970] == pytest.approx(1500, rel=0.25)
    assert all(body["ignore_eos"] and body["min_tokens"] == 8 for body in bodies)
    assert not any("stream_options" in body for body in bodies)
    prompts = [body["prompt"] for body in bodies if "prompt" in body]
    assert len(prompts) == pytest.approx(1500, rel=0.15)
    assert {round(len(text.encode()) / 4, -1) for text in prompts} == {10, 300}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("streams: 1", "did you mean 'stream_share'?"),
        ("chat_share: 2", "chat_share is 2: give 0 to 1"),
        ("prompts: [latin]", "prompts has 'latin'"),
        ("output_tokens: 0", "output_tokens is 0: give 1 to"),
        ("output_tokens: {uniform: [64]}", "uniform is [lowest, highest]"),
        ("output_tokens: {uniform: [64, 8]}", "lowest first"),
        ("output_tokens: {median: 64}", "needs a p99"),
        ("output_tokens: {median: 64, p99: 8}", "the p99 is not less"),
        ("output_tokens: {min: 64}", "give one of uniform, median"),
        ("output_tokens: {file: bad.txt}", "line 2: 'many': give 1 to"),
        ("output_tokens: {file: nowhere.txt}", "there is no file"),
        ("temperatures: [0.1, hot]", "temperatures has 'hot'"),
        ("temperatures: {from: 1, to: 0.1, step: 0.1}", "from low to high"),
        ("retries: 99", "retries is 99"),
        ("ignore_eos: maybe", "give true or false"),
        ("headers: {a b: c}", "no name of a header"),
        ("headers: {x: 3}", "give a text, in quotes"),
        ("headers: {x: {env: NOT_SET}}", "the variable NOT_SET of the environment is not set"),
    ],
)
def test_a_malformed_request_names_its_line(tmp_path: Path, told: str, said: str) -> None:
    written(tmp_path, "5\nmany\n", "bad.txt")
    path = written(tmp_path, f"{GOOD}requests:\n  timeout_s: 9\n  {told}\n")
    with pytest.raises(InvalidInput) as raised:
        load_profile(path)
    assert str(raised.value).startswith(f"{path}, line 5: "), raised.value
    assert said in str(raised.value)


def test_a_profile_that_is_not_there_tells_which_ship() -> None:
    with pytest.raises(InvalidInput, match=r"'nowhere\.yaml': No such file.*10-100, 100-1000"):
        load_profile("nowhere.yaml")


AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,374,44
2023-11-16 18:17:04.4799600,396,109
"""
MOONCAKE = (
    '{"timestamp": 1000, "input_length": 374, "output_length": 44, "hash_ids": [1]}\n'
    '{"timestamp": 1500, "input_length": 396, "output_length": 109, "hash_ids": [2]}\n'
)
BURST = "Timestamp,Model,Request tokens,Response tokens\n5,m,374,44\n5.5,m,396,109\n"
PLAIN = "# seconds, prompt, output\n0,374,44\n0.5,396,109\n"


@pytest.mark.parametrize("text", [AZURE, MOONCAKE, BURST, PLAIN])
def test_public_traces_are_read_alike_and_replayed_in_turns(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text, "trace")
    found = list(rows(Path(path)))
    assert found == [Row(0, 374, 44), (pytest.approx(0.5, abs=1e-4), 396, 109)]
    assert check(Path(path)).rate == pytest.approx(2, rel=0.01)
    profile = load_profile(written(tmp_path, "trace: trace\ntrace_speed: 2\n"))
    assert profile.rate_at(99) == pytest.approx(4, rel=0.01)
    settings = profile.onto(LoadSettings(URL), 100)
    settings = LoadSettings.from_json(settings.to_json())
    due = list(islice(schedule(settings), 5))
    assert [one.at for one in due] == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=0.01)
    assert [one.output_tokens for one in due] == [44, 109, 44, 109, 44]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("0\n1\nsoon\n", 3, "at_s is 'soon': give a number or a date"),
        ("0\n2\n1\n", 3, "1 s comes after 2 s: sort it by time"),
        ("0,1\n1,-5\n", 2, "prompt_tokens is '-5': give a whole number"),
        ("0,1\n1,2,3,4\n", 2, "4 cells under 3 columns"),
        ("when,what\n0,1\n", 1, "no column of times"),
        ("at_s,output_tokens\n0,1\n,4\n", 3, "no time"),
        (MOONCAKE + "{broken\n", 3, "not JSON"),
        (MOONCAKE + json.dumps({"timestamp": True}), 3, "timestamp is True"),
        (MOONCAKE + json.dumps({"timestamp": 2e3, "output_length": 1.5}), 3, "output_length"),
    ],
)
def test_a_malformed_trace_names_its_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    path = written(tmp_path, text, "trace")
    with pytest.raises(InvalidInput) as raised:
        check(Path(path))
    assert str(raised.value).startswith(f"{path}, line {line}: "), raised.value
    assert said in str(raised.value)
    with pytest.raises(InvalidInput, match=f"line {line}: "):
        load_profile(written(tmp_path, "trace: trace\n"))


def test_a_trace_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="two requests at least"):
        check(Path(written(tmp_path, "0\n", "trace")))
