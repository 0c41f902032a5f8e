"""What a run leaves for CI, chats and dashboards, read back with the parsers they use."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as as_openmetrics
from prometheus_client.parser import text_string_to_metric_families as as_prometheus

from aftershock.report.forms import FORMS, PICTURES
from aftershock.report.junit import CASES, THE_RUN, junit
from aftershock.report.markdown import markdown, plain
from aftershock.report.metrics import metrics
from aftershock.report.record import read_record
from aftershock.report.sentences import costs
from aftershock.report.still import has_fonts
from tests.history.conftest import INJECTION, Command, Made, timeline_of
from tests.history.told import CLIFF, GOODPUT, QUALITY, REPLACEMENT

NO_EFFECT: dict[str, Any] = {"injections": [{**INJECTION, "bit": False}]}
EVIL = "<b>| `x` \x07 & [a](http://b) *_~"


def samples(text: str, parse: Any) -> dict[tuple[str, ...], float]:
    """(name, label values…) → value."""
    return {
        (one.name, *one.labels.values()): one.value
        for family in parse(text)
        for one in family.samples
    }


@pytest.mark.parametrize("parse", [as_openmetrics, as_prometheus])
def test_dashboards_read_the_recovery_time(made: Made, parse: Any) -> None:
    document = read_record(made(2.0, title=EVIL, target='a"b\\c\n')).document
    found = samples(metrics(document), parse)
    place = ("az-failure", 'a"b\\c\n')
    assert found["aftershock_rto_seconds", *place] == 2.0
    assert found["aftershock_rto_objective_seconds", *place] == 15.0
    assert found["aftershock_verdict", *place, "PASS"] == 1
    assert found["aftershock_verdict", *place, "INCONCLUSIVE"] == 0
    assert found["aftershock_requests_failed", place[0], "reset", place[1]] == 50
    assert found["aftershock_run_started_timestamp_seconds", *place] == 1793523600
    assert ("aftershock_rto_censored_seconds", *place) not in found


def test_dashboards_read_goodput_quality_and_capacity(made: Made) -> None:
    more = {"goodput": GOODPUT, "quality": QUALITY, "cliff": CLIFF}
    found = samples(metrics(read_record(made(2.0, **more)).document), as_prometheus)
    place = ("az-failure", "lab")

    def phase(name: str, phase: str) -> float | None:
        return found.get((f"aftershock_{name}", "az-failure", phase, "lab"))

    assert phase("goodput_ratio", "before") == 0.99578 and phase("goodput_ratio", "during") == 0.5
    assert phase("goodput_ratio", "after") is None, "nothing was due"
    assert phase("golden_answers", "during") == 73 and phase("golden_answers_bad", "during") == 4
    assert phase("golden_answers", "after") is None, "nobody asked"
    assert phase("golden_questions", "during") == 31
    assert phase("golden_questions_right", "during") == 30
    assert found["aftershock_knee_held_rps", *place] == 20
    assert found["aftershock_knee_broke_rps", *place] == 30
    assert found["aftershock_best_good_rps", *place] == 25.47
    assert found["aftershock_best_good_error_rps", *place] == 3.61
    plain_run = samples(metrics(read_record(made(2.0)).document), as_prometheus)
    names = {key[0] for key in plain_run}
    assert not [n for n in names if "goodput" in n or "golden" in n or "knee" in n or "good_" in n]


def test_markdown_tells_what_broke_and_how_good_the_answers_were(made: Made) -> None:
    told = {"goodput": GOODPUT, "quality": QUALITY, "cliff": CLIFF}
    told |= {"replacements": [REPLACEMENT]}
    text = markdown(read_record(made(2.0, **told)))
    for words in ("- Knee between 20 and 30 requests/s",
                  "| 30 | 25.5 | 317 | – | 25.0 % | queue 4 |",
                  "| during | 700 | 350 | 50.00 % | – |",
                  "| during | 73 | 4 | 30 of 31 | repeats 3, empty 1 | model-b-1 4 | chinese 4 |",
                  "| web-2 | web-1 | az-b node-b | 0.10 | 0.20 | ≤ 1.00 | – |",
                  "| model-b-1 | repeats | 1+1? | 2 2 \\<b\\> |"):  # fmt: skip
        assert words in text, words
    without = markdown(read_record(made(2.0)))
    for heading in ("Where it breaks", "Goodput", "How good the answers were"):
        assert f"### {heading}" in text and heading not in without


def test_a_fail_back_that_nobody_tells_shares_of_says_so(made: Made) -> None:
    """On a cluster no gateway of ours counts who served what."""
    alone = read_record(made(2.0, failback_unseen=["az-a"])).document
    assert "fail-back 2.0 s by golden levels alone: nobody tells az-a's share" in costs(alone)
    assert "· golden levels alone |" in markdown(read_record(made(2.0, failback_unseen=["az-a"])))
    assert "alone" not in costs(read_record(made(2.0)).document)


def test_an_inconclusive_run_plots_no_recovery_time(made: Made) -> None:
    found = samples(metrics(read_record(made(2.0, **NO_EFFECT)).document), as_openmetrics)
    assert found["aftershock_verdict", "az-failure", "lab", "INCONCLUSIVE"] == 1
    assert not [key for key in found if key[0] in ("aftershock_rto_seconds", "aftershock_requests")]
    late = samples(metrics(read_record(made(None)).document), as_openmetrics)
    assert late["aftershock_rto_censored_seconds", "az-failure", "lab"] == 30
    assert ("aftershock_rto_seconds", "az-failure", "lab") not in late


@pytest.mark.parametrize(
    ("more", "failures", "errors", "case"),
    [
        ({}, 0, 0, None),
        (NO_EFFECT, 0, 1, "every fault bites"),
        ({"rto_s": None}, 1, 0, "the service is back"),
        ({"leftovers": ["a veth"]}, 1, 0, "every fault bites"),
        ({"steady_state_met": False}, 0, 1, "the steady state"),
        ({"generator": {}}, 0, 1, "the load keeps"),
        ({"activity_errors": ["x"]}, 1, 0, THE_RUN),
        ({"rto_s": 16.0, "generator": {}, "interrupted_by": ["SIGINT"]}, 1, 2, "the service is"),
    ],
)
def test_ci_is_red_for_everything_but_a_pass(
    made: Made, more: dict[str, Any], failures: int, errors: int, case: str | None
) -> None:
    (suite,) = ElementTree.fromstring(junit(read_record(made(title=EVIL, **more)).document))
    cases = suite.findall("testcase")
    assert int(suite.get("tests", 0)) == len(cases) == len(CASES) + 1
    counted = [len([c for c in cases if c.find(kind) is not None]) for kind in ("failure", "error")]
    assert counted == [failures, errors]
    assert [int(suite.get("failures", 9)), int(suite.get("errors", 9))] == counted
    assert suite.get("skipped") == "0" and suite.find("testcase/skipped") is None
    red = [str(one.get("name")) for one in cases if len(one)]
    assert (case is None and not red) or any(name.startswith(str(case)) for name in red)


def test_every_reason_there_is_has_its_case() -> None:
    """And no case one that there isn't; what is left is about the run itself."""
    there = set()
    for module in ("verdict", "enduring"):
        source = Path(__file__).parents[2] / f"src/aftershock/slo/{module}.py"
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple):
                code = node.value.elts[0]
                there |= {code.value} if isinstance(code, ast.Constant) else set()
    of_the_run = {"activity_failed", "control_failed", "interrupted", "method_cut_short"}
    assert there - of_the_run == {code for codes in CASES.values() for code in codes}


def test_markdown_holds_the_figures_and_how_to_run_it_again(made: Made) -> None:
    folder = made(2.0, title=EVIL)
    (folder / "checks.json").write_text(json.dumps([
        {"indicator": "p99_latency_ms", "level": "golden", "value": 144.7, "bound": 500.0,
         "ok": True, "end": 1005.0},
        {"indicator": "p99_latency_ms", "level": "golden", "value": 612.0, "bound": 500.0,
         "ok": False, "end": 1029.0},
    ]))  # fmt: skip
    timeline_of(folder).close()
    text = markdown(read_record(folder))
    for words in ("## PASS: \\<b\\>\\| \\`x\\`", "| **Service RTO** | 2.00 s | ± 0.020 s",
                  "| partition | node-a | effect seen; held until ordered", "| reset | 50 |",
                  "| P99 latency, ms | golden | ≤ 500 | 144.7 ✓ | 612 ✗ |",
                  "```sh\nchaos run experiments/az-failure.json\n```",
                  "| zone | az-a |"):  # fmt: skip
        assert words in text, words
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith(" |") or line.endswith("-|") or "---" in line for line in rows)
    assert plain("a\n b") == "a b"


def test_a_report_is_made_anew_from_a_folder(made: Made, root: Path, aftershock: Command) -> None:
    folder = made(2.0)
    timeline_of(folder).close()
    (root / "latest").symlink_to(folder.name)
    all_forms = [*FORMS, *(name for name in PICTURES if has_fonts() or name.endswith(".svg"))]
    for name in ("latest", folder.name, str(folder)):
        for form in all_forms:
            (folder / form).unlink(missing_ok=True)
        status, printed, _ = aftershock("report", name)
        assert status == 0 and printed.splitlines() == [str(folder / form) for form in all_forms]
        assert all((folder / form).stat().st_size > 300 for form in all_forms)
    assert not list(folder.glob(".*"))


def test_a_folder_that_tells_less_still_has_its_report(made: Made, aftershock: Command) -> None:
    folder = made(2.0)
    status, printed, _ = aftershock("report", str(folder))  # no timeline, as after a full disk
    assert status == 0 and "not in it: timeline.jsonl can't be read: No such file" in printed
    timeline_of(folder).close()
    with (folder / "timeline.jsonl").open("a") as file:
        file.write('{"gauge": "x"}\n{"mark": "t_eff')
    (folder / "checks.json").write_text("[{")
    status, printed, _ = aftershock("report", str(folder))
    assert status == 0 and "timeline.jsonl can't be read: it is damaged" in printed
    assert "checks.json is damaged" in printed


def test_no_verdict_no_report(made: Made, root: Path, aftershock: Command) -> None:
    folder = made(2.0)
    written = (folder / "verdict.json").read_text()
    (folder / "verdict.json").write_text(written[:200])
    odd = made(2.0)
    (odd / "verdict.json").write_text(
        written.replace('"requests_lost": 61', '"requests_lost": "?"')
    )
    for name, words in (
        (folder.name, "half written"),
        ("nobody", "there is no run 'nobody'"),
        (str(root), "not a run's folder"),
        (odd.name, "verdict.json is damaged"),
    ):
        status, printed, complained = aftershock("report", name)
        assert status == 1 and not printed and words in complained
        assert len(complained.splitlines()) == 1


def test_the_browser_is_opened_or_the_user_told(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(2.0)
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}\n')
    browser.chmod(0o755)
    command = Path(sys.executable).with_name("aftershock")
    for name, words in ((str(browser), ""), ("/nowhere/browser", "open the first file yourself")):
        monkeypatch.setenv("BROWSER", name)
        monkeypatch.setenv("PATH", str(tmp_path))  # and no other browser
        done = subprocess.run(
            [sys.executable, command, "report", str(folder), "--open"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert words in done.stdout
    assert seen.read_text().strip() == (folder / "report.html").as_uri()
