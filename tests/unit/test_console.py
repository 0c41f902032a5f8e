"""Lines that fit a terminal, and a verdict that stands in one column."""

import io

import pytest

from aftershock.run.console import WIDTH, Console, Status

ZONES = {"az-a": 0.0, "az-b": 0.5, "az-c": None}
BUSY = Status("recovering", 1234.0, 10123.4, 100.0, 100.0, ZONES)
CALM = Status("steady", 41.0, 147.2, 0.0, 21.0, ZONES)


class Terminal(io.StringIO):
    """A stream that says how wide it is."""


def console(monkeypatch: pytest.MonkeyPatch, columns: int) -> tuple[Console, io.StringIO]:
    stream = Terminal()
    monkeypatch.setattr(Console, "width", columns)
    return Console(stream), stream


@pytest.mark.parametrize("status", [BUSY, CALM])
def test_a_seconds_line_fits_a_hundred_columns(
    monkeypatch: pytest.MonkeyPatch, status: Status
) -> None:
    shown, stream = console(monkeypatch, 100)
    shown.status(status)
    line = stream.getvalue().rstrip("\n")
    assert len(line) <= 100 and "az-a ✗ az-b ◐ az-c ?" in line


def test_it_fits_eighty_columns_too(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, stream = console(monkeypatch, 80)
    shown.status(CALM)
    line = stream.getvalue().rstrip("\n")
    assert len(line) <= 80 and "p99  147 ms" in line and "az-a✗ az-b◐ az-c?" in line


@pytest.mark.parametrize("word", ["PASS", "INCONCLUSIVE"])
def test_the_verdicts_lines_begin_in_one_column(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    shown, stream = console(monkeypatch, 80)
    path = "/a/very/long/path/" + "x" * 90 + "/report.html"
    shown.end(word, ["first " * 20, "second", path])
    lines = stream.getvalue().splitlines()
    begin = lines[0].index("first")
    assert all(line[:begin].strip() in ("", word) and line[begin] != " " for line in lines)
    assert lines[-1].strip() == path and len(lines[0]) <= 80


def test_a_long_sentence_goes_on_below_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, stream = console(monkeypatch, 80)
    shown.say("lab", "3 zones, 6 nodes, gateway on http://127.0.0.1:19090, seed 7   (4.4 s)")
    first, second = stream.getvalue().splitlines()
    assert len(first) <= 80 and second.strip() == "(4.4 s)"
    assert second.index("(") == first.index("3 zones")


def test_a_file_has_lines_as_wide_as_they_want() -> None:
    assert Console(io.StringIO()).width == WIDTH
