"""The page as a reader gets it: well-formed, with the verdict's numbers, and one lane a curve."""

import re
from html import escape
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from aftershock.report.chart import NARROW, Bars, Lane, Picture, Series, Strip, draw
from aftershock.report.page import render
from aftershock.report.picture import MOST_FAULTS, picture_of
from aftershock.report.record import Record
from aftershock.report.scale import scale
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
VOID = {"meta", "link", "rect", "line", "path", "br"}


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
        if self.open and self.open[-1] not in ("style", "script"):
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
    return render(Record(told(title, **more), timeline(), LAB, NODES))


def test_the_page_is_whole_and_holds_the_verdicts_numbers() -> None:
    text = " ".join(read(page()).text)
    for words in ("PASS", "1.23 s", "± 0.021 s", "objective 15 s", "61", "5,912", "1 stream cut",
                  "> 10.0 s", "3.4 s after the heal", "1.10 s", "4711", "node-a",
                  "dropped 21 ingress", "no witness was named"):  # fmt: skip
        assert words in text, words


def row(number: int, **more: Any) -> dict[str, Any]:
    told = {"pod": f"new-{number}", "replaces": f"old-{number}", "node": "node-b", "zone": "az-b",
            "same_pod": False, "deleted_s": 0.1, "scheduled_s": 0.2, "started_s": 1.0,
            "ready_s": float(number), "waits_for": "", "late": []}  # fmt: skip
    return told | more


def test_what_became_of_the_replicas() -> None:
    evil = "<script>alert(2)</script>"
    waits = row(9, scheduled_s=None, started_s=None, ready_s=None, waits_for=evil)
    rows = [*(row(number) for number in range(2, 9)), waits, row(20, late=["ready"])]
    capacity = Crossing(20.0, 1.0, gaps=((12.0, 21.0, "late"),))
    whole = page(replacements=rows, capacity=capacity)
    text = " ".join(read(whole).text)
    for words in ("What became of the replicas", "new-2", "old-8", "≤ 20.00", "20.00 s", "± 1.00 s",
                  "12 to 21 s", evil):  # fmt: skip
        assert words in text, words
    assert read(whole).seen.count("script") == 1  # ours
    lines = summary(told(replacements=rows, capacity=capacity))
    table = lines[next(n for n, line in enumerate(lines) if "scheduled" in line) :]
    assert table[1].split() == ["new-9", "az-b", "0.10", "–", "–", "–"] and evil in table[2]
    assert table[3].split() == ["new-20", "az-b", "0.10", "0.20", "1.00", "≤", "20.00"]
    assert "and 3 more" in table[8]
    assert max(map(len, table)) < 90


def test_what_a_title_or_a_host_says_is_text_and_nothing_else() -> None:
    evil = "<script>alert(1)</script>"
    bad = injection(hosts=[evil], evidence={"pieces": [
        {"name": "dropped", "host": evil, "ok": False, "seen": evil}]})  # fmt: skip
    whole = page(evil, injections=[bad])
    assert read(whole).seen.count("script") == 1 and whole.count("&lt;script&gt;") >= 4


def test_every_curve_has_its_lane_and_zones_are_not_mixed() -> None:
    wide = ElementTree.fromstring(page().split('<div class="wide">')[1].split("</div>")[0])
    space = "{http://www.w3.org/2000/svg}"
    curves = [line.get("class") for line in wide.iter(f"{space}path")]
    # served, bad, health's bad probes, P50, P99; then both zones in share and in GPU utilisation
    assert sorted(filter(None, curves)) == sorted(
        ["good", "bad", "bad", "z5", "ink", "z0", "z1", "z0", "z1"]
    )
    states = [box.get("class") for box in wide.iter(f"{space}rect")]
    assert states.count("state none") == 2 and "fault" in states


def test_a_shaded_fault_lies_between_firing_and_heal() -> None:
    box = re.search(r'<rect class="fault" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', page())
    assert box
    scale = (1060 - 50 - 14) / 30
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
    assert first[1:] in text and also[1:].partition(" of ")[0] in text


def test_a_heal_that_nobody_ordered_is_marked() -> None:
    early = injection(
        healed_early=True, ordered=False, per_host={"node-a": {"reverted_at_monotonic_s": 1013.0}}
    )
    text = " ".join(read(page(injections=[early])).text)
    assert "partition heals by itself" in text and "healed early" in text and "+3.00" in text


def test_a_run_of_which_nothing_is_known_still_has_a_page() -> None:
    facts = RunFacts(rto_objective_s=15, limit_ms=1000)
    text = " ".join(
        read(render(Record(document.document(facts, decide(facts)), Timeline(), LAB))).text
    )
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
    assert svg.count("<path") == 1 and svg.count("M") == 3
    assert svg.count('class="state full"') == 1 and svg.count('class="state none"') == 1


def test_hosts_that_a_fault_went_on_without_are_named() -> None:
    less = [injection(failed_hosts={"node-c": "no answer <5 s"})]
    assert "partition went on without node-c: no answer <5 s" in summary(told(injections=less))
    assert "without node-c" in " ".join(read(page(injections=less)).text)


def test_each_faults_window_is_drawn_from_its_firing_to_its_own_end() -> None:
    first = injection(per_host={"node-a": {"reverted_at_monotonic_s": 1014.0}})
    second = injection(fault="delay", fired_at_monotonic_s=1016.0)
    killed = injection(fault="pod-kill", fired_at_monotonic_s=1012.0, momentary=True)
    picture = picture_of(timeline(), told(injections=[first, second, killed]), LAB, NODES)
    (bars,) = [panel for panel in picture.panels if isinstance(panel, Bars)]
    assert [tuple(row) for row in bars.rows] == [
        ("partition", 0, 4), ("delay", 6, 10), ("pod-kill", 2, 2),
    ]  # fmt: skip
    assert picture.faults == [(0, 4), (6, 10)]
    many = [injection(fault=f"f{n}") for n in range(40)]
    (bars,) = [p for p in picture_of(timeline(), told(injections=many), LAB, NODES).panels
               if isinstance(p, Bars)]  # fmt: skip
    assert len(bars.rows) == MOST_FAULTS + 1 and bars.rows[-1][0] == "28 more"


def test_a_quiet_curve_takes_no_room_and_loses_no_change() -> None:
    values = [(float(n), 3.0 if n == 500 else 1.0) for n in range(1000)]
    svg = draw(Picture(0, 1000, "s", panels=[Lane("x", [Series("a", "good", values)])]))
    path = re.search(r' d="([^"]*)"', svg)
    assert path and path[1] == "M0 56.0H499L500 0.0L501 56.0H999"


@pytest.mark.parametrize(
    ("more", "kind", "said", "at"),
    [
        ({}, "good", "1.23 s ± 0.021", 1.234 / 20),
        ({"rto_objective_s": 1.24}, "bad", "1.23 s ± 0.021", 1.234 / 1.5),
        ({"recovery": Recovery(EFFECT, GIVEN_UP, censored_s=30.0)}, "bad", "> 30 s", 30 / 40),
    ],
)
def test_the_recovery_time_stands_on_a_scale(
    more: dict[str, Any], kind: str, said: str, at: float
) -> None:
    shown = scale(told(**more))
    point = re.search(r'class="point" style="left:([\d.]+)%"', shown)
    assert f'"scale {kind}"' in shown and escape(said) in shown
    assert point and float(point[1]) == pytest.approx(100 * at, abs=0.01)
    assert not scale(told(recovery=None))


def test_how_a_fault_ended_on_each_host_and_the_fingerprints_beside_it() -> None:
    ended = {"state": "reverted", "ordered": True, "ended_by": "order", "left": [],
             "reverted_at_monotonic_s": EFFECT + 9.5}  # fmt: skip
    same = {"before": "aa11", "after": "aa11", "before_lines": 7, "after_lines": 7}
    other = {**same, "after": "bb22", "after_lines": 8}
    hosts = {"node-a": {**ended, "fingerprint": same}, "node-b": {**ended, "fingerprint": other}}
    one = injection(hosts=["node-a", "node-b"], per_host=hosts,
                    foreign_changes={"node-b": ["+ qdisc fq"]})  # fmt: skip
    text = " ".join(read(page(injections=[one])).text)
    for words in ("reverted on order 9.50 s after it fired; nothing left", "+ qdisc fq",
                  "aa11 (7 lines), the same after", "aa11 (7 lines) → bb22 (8 lines)"):  # fmt: skip
        assert words in text, words
