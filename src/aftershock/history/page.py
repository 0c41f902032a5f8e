"""The history page: what many runs say together, in the look of a run's own report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from math import isfinite
from pathlib import Path
from urllib.parse import quote

from aftershock.history import words
from aftershock.history.assess import Assessment, Regression
from aftershock.history.journal import Journal, PastRun
from aftershock.history.scatter import Link, scatter
from aftershock.report import tables
from aftershock.report.chart import Lane, Picture, Series, draw
from aftershock.report.figures import sentence
from aftershock.report.page import NARROW, WIDE, whole
from aftershock.report.scale import round_up


def history_page(found: Iterable[Assessment], journal: Journal, at: Path) -> str:
    """The page, to be written to `at`: links to the runs' own reports are relative to it."""

    def link(run: PastRun) -> str:
        return quote(os.path.relpath(run.folder / "report.html", at.parent))

    where = f'<p class="soft">{escape(str(journal.root))}</p>'
    parts = [f"<header><h1>Recovery times</h1>{where}</header>"]
    for one in found:
        parts += _experiment(one, link)
    if journal.left_out:
        rows = [[name, why] for name, why in journal.left_out]
        parts += ["<h2>Left out</h2>", tables.plain(["Folder", "Why"], rows)]
    return whole("Recovery times", "".join(parts))


def _experiment(one: Assessment, link: Link) -> Iterator[str]:
    word, kind = ("HOLDS", "PASS") if one.holds else ("NOT YET", "INCONCLUSIVE")
    if one.needed != 0 and one.within < one.decided and one.upper < one.claim.share:
        word, kind = "MISSED", "FAIL"  # even the interval's upper end is below what is asked
    asked = (
        f"{100 * one.claim.share:.4g} % of recoveries within {words.objective(one)}, "
        f"with {100 * one.claim.confidence:.4g} % confidence"
    )
    yield f"<h2>{escape(one.experiment)} on {escape(one.target)}</h2>"
    yield f'<p><span class="word {kind}">{word}</span> {escape(asked)}</p>'
    yield f'<p class="headline">{escape(sentence(words.claim(one)))}</p>'
    yield _tiles(one)
    for name, width in (("wide", WIDE), ("narrow", NARROW)):
        yield f'<div class="{name}">{scatter(one, link, width)}</div>'
    yield '<p class="legend soft">'
    for verdict, said in (
        ("PASS", "passed"),
        ("FAIL", "failed; a triangle: not back while it was waited for"),
        ("INCONCLUSIVE", "inconclusive, counted apart"),
    ):
        yield f'<span><i class="{verdict}"></i> {said}</span> '
    yield "</p>"
    yield _distribution(one)
    yield f"<p><b>Trend</b>: {escape(words.trend(one))}</p>"
    yield from _regressions(one.regressions)
    yield _runs(one, link)


def _tiles(one: Assessment) -> str:
    percent = f"{100 * one.claim.confidence:.4g} %"
    share = f"{100 * one.within / one.decided:.1f} %" if one.decided else "–"
    exact = f"exact {percent} interval {100 * one.lower:.1f} to {100 * one.upper:.1f} %"
    needed = "–" if one.needed is None else f"{one.needed:,}"
    found = [
        ("Median RTO", words.span(one.median), f"of {len(one.times)} measured runs"),
        ("90 % within", words.span(one.quantile(0.9)), "nearest rank"),
        ("Worst", words.measured(one.worst) if one.worst else "–",
         one.worst.name if one.worst else "not measured"),
        (f"Within {words.objective(one)}", share, f"{one.within} of {one.decided} · {exact}"),
        ("Clean runs needed", needed, "more, to claim it"),
        ("Counted apart", f"{one.inconclusive + one.undecided}", words.apart(one) or "none"),
    ]  # fmt: skip
    tiles = "".join(
        f"<div><span>{escape(name)}</span><b>{escape(value)}</b><small>{escape(note)}</small></div>"
        for name, value, note in found
    )
    return f'<div class="tiles">{tiles}</div>'


def _distribution(one: Assessment) -> str:
    """The share of runs that were back within each time."""
    times = sorted(one.times)
    if len(times) < 2:
        return ""
    finite = [at for at in times if isfinite(at)]
    goal = one.claim.objective_s or max(run.objective_s for run in one.runs)
    most = max(finite, default=0.0)
    end = round_up(1.1 * (max(most, goal) if most > goal / 20 else most or goal))
    points: list[tuple[float, float | None]] = [(0.0, 0.0)]
    for number, at in enumerate(finite):
        points += [(at, 100 * number / len(times)), (at, 100 * (number + 1) / len(times))]
    points.append((end, 100 * len(finite) / len(times)))
    lane = Lane("Share of the measured runs that were back, %", [Series("back", "ink", points)],
                top=100)  # fmt: skip
    marks = [(goal, f"objective {goal:g} s")] if goal <= end else []
    picture = Picture(0.0, end, "seconds after the fault fired", [lane], marks)
    return "".join(
        f'<div class="{name}">{draw(picture, width)}</div>'
        for name, width in (("wide", WIDE), ("narrow", NARROW))
    )


def _regressions(found: Sequence[Regression]) -> Iterator[str]:
    if found:
        yield "<h3>Where it got worse, and what was changed</h3>"
    for one in found:
        first, *more = words.regression(one)
        changes = "".join(f"<li>{escape(line.strip())}</li>" for line in more)
        yield f'<p class="wraps">{escape(sentence(first))}</p><ul>{changes}</ul>'


def _runs(one: Assessment, link: Link) -> str:
    rows = [
        [
            f'<a href="{escape(link(run), quote=True)}">{escape(words.clock(run))}</a>',
            escape(words.measured(run)),
            f"{run.objective_s:g} s",
            f'<span class="word {run.verdict}">{run.verdict}</span>',
            escape(run.why),
        ]
        for run in reversed(one.runs)
    ]
    told = tables.table(["Began, UTC", "RTO", "Objective", "Verdict", "Why"], rows)
    return (
        f"<details{' open' if len(rows) <= 30 else ''}><summary>Every run</summary>{told}</details>"
    )
