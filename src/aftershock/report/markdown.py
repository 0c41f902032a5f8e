"""`report.md`: the verdict for a pull request, a ticket or a chat."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from aftershock.report import answers, cliff, figures, sentences, soak, stages
from aftershock.report.record import Record

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!])")


def markdown(record: Record) -> str:
    """The file's text, in GitHub's Markdown."""
    return "\n".join(_lines(record)) + "\n"


def _lines(record: Record) -> Iterator[str]:
    document = record.document
    told = sentences.summary(document)
    yield f"## {document['verdict']}: {plain(document['title'] or 'Aftershock')}"
    yield ""
    yield f"{plain(figures.sentence(told[0]))}. {plain(figures.where_and_when(record))}"
    yield ""
    if more := figures.why(document):
        yield from (f"- {plain(line)}" for line in more)
        yield ""
    yield from table(
        ["", "", ""], [(f"**{one.name}**", one.value, one.note) for one in figures.tiles(document)]
    )
    yield ""
    yield from _cliff(document)
    yield from _soak(document)
    yield from _faults(document)
    rows = map(stages.cells, stages.slowest(document["replacements"])[: stages.SHOWN])
    yield from _part("What became of the replicas", stages.HEADS, rows)
    yield from _lost(document)
    yield from _answers(document)
    yield from _steady(record)
    yield from _again(document)


def _cliff(document: Mapping[str, Any]) -> Iterator[str]:
    if told := document.get("cliff") or {}:
        yield "### Where it breaks"
        yield ""
        yield from (f"- {plain(figures.sentence(line))}" for line in cliff.sentences(told))
        yield ""
        yield from table(cliff.HEADS, cliff.rows(told))
        yield ""


def _soak(document: Mapping[str, Any]) -> Iterator[str]:
    told = document.get("soak") or {}
    if told:
        yield from _part("After each fault", soak.FAULTS, soak.faults(told))
        yield from _part("In between", soak.drift_heads(told), soak.drift(told))


def _faults(document: Mapping[str, Any]) -> Iterator[str]:
    if not document["injections"]:
        return
    yield "### What was injected"
    yield ""
    rows = []
    for one in document["injections"]:
        said = [s for _, s in figures.ends(one)]
        rows.append((str(one["fault"]), ", ".join(one.get("hosts") or ()), "; ".join(said)))
    yield from table(["Fault", "Where", "What was seen"], rows)
    yield ""


def _lost(document: Mapping[str, Any]) -> Iterator[str]:
    yield from _part("Requests lost", ["Kind", "Requests"], figures.lost_by_kind(document))


def _answers(document: Mapping[str, Any]) -> Iterator[str]:
    good = "How good the answers were"
    yield from _part("Goodput", answers.GOODPUT, answers.goodput(document))
    yield from _part(good, answers.QUALITY, answers.quality(document))
    yield from _part("Bad answers", answers.WORST, answers.worst(document))


def _steady(record: Record) -> Iterator[str]:
    rows = figures.steady_state(record.checks, record.timeline.marks.get("t_effect"))
    yield from _part("Steady state", ["Indicator", "Level", "Bound", "Before", "After"], rows)


def _again(document: Mapping[str, Any]) -> Iterator[str]:
    run = document["run"]
    if command := figures.again(document):
        yield "### To run it again"
        yield ""
        fence = "`" * (3 + max((len(m) for m in re.findall("`+", command)), default=0))
        yield f"{fence}sh"
        yield command
        yield fence
        yield ""
    versions = ", ".join(f"{name} {value}" for name, value in document["versions"].items())
    seed = document["seed"]
    yield f"Seed {'unknown' if seed is None else seed}; {plain(versions) or 'versions unknown'}."
    variables = run.get("variables") or {}
    if variables:
        yield ""
        yield "<details><summary>Variables</summary>"
        yield ""
        yield from table(["Variable", "Value"], [(k, str(v)) for k, v in variables.items()])
        yield ""
        yield "</details>"


def _part(title: str, heads: Iterable[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table with its title; nothing without rows."""
    if cells := list(rows):
        yield f"### {title}"
        yield ""
        yield from table(heads, cells)
        yield ""


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A table; cells are plain text, but for `**` around a whole one."""
    names = list(heads)
    yield f"| {' | '.join(names)} |"
    yield f"|{' --- |' * len(names)}"
    for row in rows:
        yield f"| {' | '.join(_cell(cell) for cell in row)} |"


def _cell(text: str) -> str:
    if text.startswith("**") and text.endswith("**") and len(text) > 4:
        return f"**{plain(text[2:-2])}**"
    return plain(text)


def plain(text: str) -> str:
    """Text that stands as it is: no markup, no line breaks."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))
