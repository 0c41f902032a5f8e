"""The page as a reader gets it: well-formed, with the verdict's numbers, and one lane a curve."""

import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from aftershock.report.chart import NARROW, Lane, Picture, Series, Strip, draw
from aftershock.report.page import render
from aftershock.report.sentences import summary
from aftershock.slo import document
from aftershock.slo.aftermath import Crossing, Losses
from aftershock.slo.levels import load_levels
from aftershock.slo.recovery import BACK, GIVEN_UP, Recovery
from aftershock.slo.timeline import Timeline
from aftershock.slo.verdict import RunFacts, decide

LAB = load_levels("lab")
EFFECT, HEALED, END = 1010.0, 1020.0, 1030.0
NODES = {"node-a": "az-a", "node-b": "az-b"}
VOID = {"meta", "rect", "line", "polyline", "br"}


class Balance(HTMLParser):
    """Complains of tags that are not closed in order; keeps what is read as text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        if tag not in VOID or tag == "rect":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data.replace("\u00a0", " "))


def read(page: str) -> Balance:
    parser = Balance()
    parser.feed(page)
    parser.close()
    assert not parser.open, parser.open
    return parser


def timeline() -> Timeline:
    made = Timeline()
    made.mark("phase:steady", 1000.0)
    made.mark("t_effect", EFFECT)
    made.mark("phase:failing", EFFECT)
    made.mark("t_healed", HEALED)
    times = [1000.0 + n / 10 for n in range(300)]
    kinds = ["timeout" if EFFECT <= at < EFFECT + 2 and n % 3 == 0 else "" for n, at in
             enumerate(times)]  # fmt: skip
    made.feed(
        {"source": "health", "decided": END, "rate": 10.0, "sent": times, "scheduled": times,
         "done": [at + 0.1 for at in times], "kind": kinds}
    )  # fmt: skip
    for second in range(1000, 1030):
        down = EFFECT <= second < HEALED
        for node, zone in NODES.items():
            lost = down and zone == "az-a"
            made.gauge("gpu_utilisation_percent", node, 0.0 if lost else 40.0, second)
            made.gauge("servers_up", zone, 0 if lost else 2, second)
            made.gauge("ready_replicas", zone, 0 if lost else 2, second)
            made.gauge("zone_share", zone, 0.0 if lost else 0.5, second)
    return made


def injection(**more: Any) -> dict[str, Any]:
    pieces = [
        {"name": "dropped", "host": "node-a", "ok": True, "seen": "dropped 21 ingress"},
        {"name": "silent", "host": "node-a", "ok": None, "seen": "no witness was named"},
    ]
    return {
        "fault": "partition", "hosts": ["node-a"], "fired_at": "2026-11-23T22:28:26.918+00:00",
        "fired_at_monotonic_s": EFFECT, "skew_ms": 0.9, "bit": True, "ordered": True,
        "reverted": True, "healed_early": False, "clean": True, "lease_s": 60,
        "evidence": {"bit": True, "pieces": pieces}, "parameters": {"peers": ["0.0.0.0/0"]},
        **more,
    }  # fmt: skip


def told(title: str = "A zone is lost", **more: Any) -> dict[str, Any]:
    back = Recovery(EFFECT, BACK, rto_s=1.234, error_s=0.021, decided_by="health", held_s=8.0,
                    per_source={"health": {"requests": 100, "bad": 7, "rto_s": 1.2,
                                           "error_s": 0.02}})  # fmt: skip
    known: dict[str, Any] = {
        "rto_objective_s": 15.0, "limit_ms": 1000.0, "injections": [injection()],
        "steady_state_met": True, "method_completed": True, "recovery": back, "failback": back,
        "capacity": Crossing(censored_s=10.0, after_heal_s=3.4), "detection": Crossing(1.1, 0.1),
        "losses": Losses(5912, 61, 3, 1, {}), "seed": 4711,
        "generator": {"scheduled": 5912, "sent": 5912, "dispatch_lag_p99_ms": 7.2},
    }  # fmt: skip
    facts = RunFacts(**{**known, **more})
    return {**document.document(facts, decide(facts)), "title": title}


def page(title: str = "A zone is lost", **more: Any) -> str:
    return render(told(title, **more), timeline(), LAB, NODES)


def test_the_page_is_whole_and_holds_the_verdicts_numbers() -> None:
    text = " ".join(read(page()).text)
    for words in ("PASS", "1.23 s", "± 0.021 s", "objective 15 s", "61", "5,912", "1 stream cut",
                  "> 10.0 s", "3.4 s after the heal", "1.10 s", "4711", "node-a",
                  "dropped 21 ingress", "no witness was named"):  # fmt: skip
        assert words in text, words


def test_what_a_title_or_a_host_says_is_text_and_nothing_else() -> None:
    evil = "<script>alert(1)</script>"
    bad = injection(hosts=[evil], evidence={"pieces": [
        {"name": "dropped", "host": evil, "ok": False, "seen": evil}]})  # fmt: skip
    whole = page(evil, injections=[bad])
    assert "script" not in read(whole).seen and whole.count("&lt;script&gt;") >= 4


def test_every_curve_has_its_lane_and_zones_are_not_mixed() -> None:
    wide = ElementTree.fromstring(page().split('<div class="wide">')[1].split("</div>")[0])
    space = "{http://www.w3.org/2000/svg}"
    curves = [line.get("class") for line in wide.iter(f"{space}polyline")]
    # served, bad, health's bad probes, P99; then both zones in share and in GPU utilisation
    assert sorted(filter(None, curves)) == sorted(
        ["good", "bad", "bad", "ink", "z0", "z1", "z0", "z1"]
    )
    states = [box.get("class") for box in wide.iter(f"{space}rect")]
    assert states.count("state none") == 2 and "fault" in states


def test_a_shaded_fault_lies_between_firing_and_heal() -> None:
    box = re.search(r'<rect class="fault" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', page())
    assert box
    scale = (960 - 50 - 14) / 30
    assert float(box[1]) == pytest.approx(50 + 10 * scale, abs=0.2)
    assert float(box[2]) == pytest.approx(10 * scale, abs=0.2)


@pytest.mark.parametrize(
    ("more", "first", "also"),
    [
        ({"recovery": Recovery(EFFECT, GIVEN_UP, censored_s=30.0)},
         "service not back within 30 s (objective 15 s)", "61 of 5,912 requests lost"),
        ({"injections": [injection(bit=False)]},
         "partition on node-a had no effect on the target", "service back in 1.23 s"),
        ({"recovery": None, "injections": [], "steady_state_met": False},
         "the steady state was not met before the fault", "no recovery was measured"),
    ],
)  # fmt: skip
def test_what_decided_comes_first_and_nothing_is_said_twice(
    more: dict[str, Any], first: str, also: str
) -> None:
    lines = summary(told(**more))
    assert lines[0] == first
    assert sum(line.startswith(first[:30]) for line in lines) == 1
    assert any(also in line for line in lines)
    text = " ".join(read(page(**more)).text)
    assert first[1:] in text and also.partition(" of ")[0] in text


def test_a_heal_that_nobody_ordered_is_marked() -> None:
    early = injection(
        healed_early=True, ordered=False, per_host={"node-a": {"reverted_at_monotonic_s": 1013.0}}
    )
    text = " ".join(read(page(injections=[early])).text)
    assert "partition heals by itself" in text and "healed early" in text and "+3.00" in text


def test_a_run_of_which_nothing_is_known_still_has_a_page() -> None:
    facts = RunFacts(rto_objective_s=15, limit_ms=1000)
    text = " ".join(read(render(document.document(facts, decide(facts)), Timeline(), LAB)).text)
    assert "INCONCLUSIVE" in text and "not measured" in text and "Nothing was injected" in text


MARKS = [(0.0, "fault"), (0.1, "detected"), (0.2, "service back 0.20 s"), (9.9, "failed back")]


@pytest.mark.parametrize("width", [400, 960])
def test_labels_of_marks_never_overlap_nor_leave_the_picture(width: int) -> None:
    svg = ElementTree.fromstring(draw(Picture(-5, 10, "s", marks=MARKS), width))
    placed: dict[float, list[tuple[float, float]]] = {}
    for text in svg.iter("{http://www.w3.org/2000/svg}text"):
        if text.get("class") != "mark":
            continue
        x, length = float(text.get("x", 0)), 5.5 * len(text.text or "")
        span = (x - length, x) if text.get("text-anchor") == "end" else (x, x + length)
        assert span[0] >= 0 and span[1] <= width
        for other in placed.setdefault(float(text.get("y", 0)), []):
            assert span[1] < other[0] or other[1] < span[0], text.text
        placed[float(text.get("y", 0))].append(span)
    assert sum(map(len, placed.values())) == len(MARKS)


def test_what_was_not_measured_is_a_gap_and_no_zero() -> None:
    points = [(0.0, 1.0), (1.0, 2.0), (2.0, None), (3.0, 1.0), (4.0, float("nan")), (5.0, 2.0)]
    lane = Lane("x", [Series("a", "good", points)])
    strip = Strip("y", [("az-a", [(0.0, 2), (3.0, 0)])])
    svg = draw(Picture(0, 6, "s", panels=[lane, strip]), NARROW - 1)
    assert svg.count("<polyline") == 3
    assert svg.count('class="state full"') == 1 and svg.count('class="state none"') == 1
