"""The timeline as a picture that stands alone: what a browser shows of it, and the PNG."""

import base64
import struct
from typing import Any
from xml.etree import ElementTree

import pytest

from aftershock.report import still
from aftershock.report.record import read_record
from aftershock.report.still import ZOOM, timeline_png, timeline_svg
from tests.history.conftest import Command, Made, timeline_of

SVG = "{http://www.w3.org/2000/svg}"
# Two pictures on canvases of one size: how many pixels aren't paper, and how many differ plainly.
COMPARE = """async ([svg, png]) => {
  const pixels = await Promise.all([svg, png].map(async (source) => {
    const image = new Image(); image.src = source; await image.decode();
    const canvas = new OffscreenCanvas(530, 400), paper = canvas.getContext('2d');
    paper.drawImage(image, 0, 0, 530, 400);
    return paper.getImageData(0, 0, 530, 400).data;
  }));
  const drawn = [0, 0], all = 530 * 400; let differ = 0;
  for (let i = 0; i < 4 * all; i += 4) {
    const [a, b] = pixels.map((p) => (p[i] + p[i + 1] + p[i + 2]) / 3);
    drawn[0] += a < 250 && pixels[0][i + 3] > 0; drawn[1] += b < 250 && pixels[1][i + 3] > 0;
    differ += Math.abs(a - b) > 100;
  }
  return [drawn[0] / all, drawn[1] / all, differ / all];
}"""


def test_the_svg_is_whole_and_has_all_that_it_needs(made: Made) -> None:
    folder = made(16.0, title='<b> & "c" ' + 200 * "x")
    timeline_of(folder).close()
    text = timeline_svg(read_record(folder))
    tree = ElementTree.fromstring(text)
    said = " ".join("".join(one.itertext()) for one in tree.iter(f"{SVG}text"))
    for words in ('FAIL <b> & "c" xxx', "Service back in 16.00 s", "target lab", "service back"):
        assert words in said, words
    style = tree.findtext(f"{SVG}style") or ""
    classes = {name for one in tree.iter() for name in one.get("class", "").split()}
    assert "var(" not in style and "http" not in text.replace("http://www.w3.org/2000/svg", "")
    bare = {name for name in classes - {"tick", "ticks", "odd0"} if f".{name}" not in style}
    assert not bare, f"nothing tells how these look: {bare}"
    curves = [one.get("d", "") for one in tree.iter(f"{SVG}path")]
    assert len(curves) == 5 and all(curve.endswith("H1046.0") for curve in curves), "in pixels"
    assert not tree.findall(f".//{SVG}svg"), "a view of its own scales strokes in some viewers"


def test_a_browser_shows_it_alone_and_the_png_shows_the_same(made: Made, browser: Any) -> None:
    folder = made(2.0)
    timeline_of(folder).close()
    record = read_record(folder)
    svg, png = timeline_svg(record), timeline_png(record)
    size = struct.unpack(">II", png[16:24])
    root = ElementTree.fromstring(svg)
    assert size == tuple(ZOOM * int(root.get(side, 0)) for side in ("width", "height"))
    sources = [
        f"data:image/{kind};base64,{base64.b64encode(held).decode()}"
        for kind, held in (("svg+xml", svg.encode()), ("png", png))
    ]
    page = browser.new_page()
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text))
    page.goto("about:blank")
    browser_drew, png_drew, differ = page.evaluate(COMPARE, sources)
    page.close()
    assert not complaints
    assert 0.05 < browser_drew < 0.9 and 0.05 < png_drew < 0.9, "blank, or all black"
    assert differ < 0.02, f"{differ:.1%} of the pixels are plainly otherwise in the PNG"


def test_a_machine_without_fonts_is_told_so(
    made: Made, aftershock: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(still, "_FONTS", "'Nobody Has This'")
    still.has_fonts.cache_clear()
    folder = made(2.0)
    status, printed, _ = aftershock("report", str(folder))
    still.has_fonts.cache_clear()
    assert status == 0 and "no fonts; install some" in printed
    assert (folder / "timeline.svg").exists() and not (folder / "timeline.png").exists()
