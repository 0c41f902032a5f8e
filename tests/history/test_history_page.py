"""The history page: every run where it belongs, with links, in a browser too."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from aftershock.history.assess import Claim, assess
from aftershock.history.journal import read_journal
from aftershock.history.scatter import HEIGHT, TOP, scatter
from tests.history.conftest import INJECTION, VERSIONS, Command, Made
from tests.unit.test_report import read

SPACE = "{http://www.w3.org/2000/svg}"


def test_each_run_stands_at_its_time_and_links_to_its_report(made: Made, root: Path) -> None:
    made(3.0)
    made(None)
    made(20.0)
    made(2.0, injections=[{**INJECTION, "bit": False}])
    made(2.0, recovery=None)
    (found,) = assess(read_journal(root).runs, Claim(15.0))
    drawn = ElementTree.fromstring(scatter(found, lambda run: f"{run.name}/report.html", 960))
    links = drawn.findall(f"{SPACE}a")
    assert [a.get("href") for a in links] == [f"{run.name}/report.html" for run in found.runs]
    dots = [a.find(f"{SPACE}circle") for a in links]
    heights = [None if dot is None else float(dot.get("cy", 0)) for dot in dots]
    floor, ceiling = TOP + HEIGHT, 40  # which holds the 30 s that were waited for
    assert heights[0] == pytest.approx(floor - HEIGHT * 3 / ceiling, abs=0.1)
    assert heights[1] is None and links[1].find(f"{SPACE}path") is not None  # not back: a triangle
    assert heights[2] == pytest.approx(floor - HEIGHT * 20 / ceiling, abs=0.1)
    assert (heights[4] or 0) > floor  # no time at all
    kinds = [dot.get("class") for dot in dots if dot is not None]
    assert kinds == ["PASS", "FAIL", "INCONCLUSIVE", "INCONCLUSIVE"]
    across = [float(dot.get("cx", 0)) for dot in dots if dot is not None]
    assert across == sorted(across)


@pytest.mark.parametrize(
    ("passes", "misses", "word"), [(59, 0, "HOLDS"), (5, 0, "NOT YET"), (1, 9, "MISSED")]
)
def test_the_page_says_what_may_be_claimed(
    made: Made, root: Path, aftershock: Command, passes: int, misses: int, word: str
) -> None:
    for _ in range(passes):
        made(2.0)
    for _ in range(misses):
        made(20.0, versions={**VERSIONS, "locust": "<2.50>"})
    (root / "notes").mkdir()
    status, printed, _ = aftershock("rto", "--require", "15s", "--html")
    assert printed.splitlines()[-1] == str(root / "rto.html")
    assert status == (0 if word == "HOLDS" else 1)
    text = " ".join(read((root / "rto.html").read_text()).text)
    assert word in text and "not a run's folder" in text
    assert ("version locust: 2.47.0 → <2.50>" in text) == bool(misses)
    assert f"{passes} of {passes + misses}" in text


def test_a_page_elsewhere_links_back_to_the_runs(
    made: Made, root: Path, aftershock: Command
) -> None:
    made(2.0)
    page = root.parent / "site" / "rto.html"
    status, _, complained = aftershock("rto", "--html", str(page))
    assert status == 1 and "can't be written: No such file or directory" in complained
    page.parent.mkdir()
    status, printed, complained = aftershock("rto", "--json", f"--html={page}")
    assert status == 0 and printed.startswith("{") and str(page) in complained
    assert 'href="../journal/20261101T090000Z-az-failure/report.html"' in page.read_text()


def test_the_page_in_a_browser(made: Made, root: Path, aftershock: Command, opened: Any) -> None:
    folders = [made(2.0 + n / 10) for n in range(12)]
    (folders[0] / "report.html").write_text("<title>the run's own</title>")
    assert aftershock("rto", "--html")[0] == 0
    page = opened(root / "rto.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    for what in (".word", ".headline", ".tiles div:first-child"):
        box = page.locator(what).first.bounding_box()
        assert box["y"] + box["height"] <= 844
    page.locator("svg.runs:visible a").first.click()
    assert page.title() == "the run's own"
