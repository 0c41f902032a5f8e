"""`report.html`: the verdict and why, the timeline, what was injected. One file, opens offline."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

from aftershock.report import answers, climb, endurance, figures, sentences, tables
from aftershock.report.chart import draw
from aftershock.report.moments import moments, zero_of
from aftershock.report.picture import picture_of
from aftershock.report.record import Record
from aftershock.report.scale import scale
from aftershock.slo.levels import Levels
from aftershock.slo.timeline import Timeline

_OWN = files("aftershock.report")
STYLE = _OWN.joinpath("page.css").read_text(encoding="utf-8")
SCRIPT = _OWN.joinpath("zoom.js").read_text(encoding="utf-8")
WIDE, NARROW = 1060, 400
FILES = {
    "report.md": "the same for a pull request or a chat",
    "junit.xml": "for CI",
    "verdict.prom": "for dashboards: OpenMetrics",
    "verdict.json": "the verdict for machines",
    "injections.json": "every fault with its evidence",
    "journal.json": "Chaos Toolkit's journal",
    "timeline.jsonl": "everything that was measured",
}


def render(record: Record) -> str:
    """The page."""
    document = record.document
    word = escape(str(document["verdict"]))
    title = escape(str(document["title"] or "Aftershock"))
    headline = figures.sentence(sentences.summary(document)[0])
    parts = [
        f'<header><p><span class="word {word}">{word}</span> '
        f'<span class="soft">{escape(figures.where_and_when(record))}</span></p>',
        f"<h1>{title}</h1>",
        f'<p class="headline">{escape(headline)}</p></header>',
        _why(document),
        scale(document),
        _tiles(document),
        *_timeline(record),
        climb.section(document.get("cliff") or {}),
        endurance.section(record),
        "<h2>What was injected, and what was seen of it</h2>",
        "".join(tables.injection(one) for one in document["injections"])
        or "<p>Nothing was injected.</p>",
        tables.replacements(document["replacements"]),
        *_costs(record),
        _answers(document),
        "<h2>What happened when</h2>",
        _happened(document, record.timeline),
        "<h2>How it was measured</h2>",
        _measured(document, record.levels),
        "<h2>To run it again</h2>",
        _again(document),
        _files(),
    ]
    return whole(f"{word}: {title}", "".join(parts), SCRIPT)


def whole(title: str, body: str, script: str = "") -> str:
    """A page of one file, with its style in it; `title` and `body` are HTML."""
    played = f"<script>{script}</script>" if script else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{title}</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main>{played}</body></html>\n"
    )


def _timeline(record: Record) -> list[str]:
    picture = picture_of(record.timeline, record.document, record.levels, record.zones)
    away = [f"<p>Not in this report: {escape(line)}.</p>" for line in record.missing]
    return [
        "<h2>Timeline</h2>",
        *away,
        _zoom(record.document, record.timeline),
        f'<div class="wide">{draw(picture, WIDE)}</div>',
        f'<div class="narrow">{draw(picture, NARROW)}</div>',
    ]


def _zoom(document: Mapping[str, Any], timeline: Timeline) -> str:
    """Buttons that the script shows; the picture can be drawn upon, too."""
    back = document["service_rto_s"] or document["service_rto_censored_s"] or 0.0
    around = f"-2 {max(1.5 * back, back + 3):.2f}" if "t_effect" in timeline.marks else ""
    buttons = [
        ("all", "All"),
        *([("around", "Around the failure")] if around else []),
        ("in", "+"),
        ("out", "−"),
        ("back", "◀"),
        ("on", "▶"),
    ]
    names = {"in": "zoom in", "out": "zoom out", "back": "earlier", "on": "later"}
    told = "".join(
        f'<button type="button" data-do="{do}" aria-label="{names.get(do, said)}">{said}</button>'
        for do, said in buttons
    )
    return (
        f'<div class="zoom" data-around="{around}" hidden>{told}<output></output>'
        '<span class="at"></span><small>drag over the picture to zoom in</small></div>'
    )


def _costs(record: Record) -> list[str]:
    """What it cost, and the steady state before and after."""
    effect = record.timeline.marks.get("t_effect")
    lost = tables.plain(["Requests", ""], figures.lost_by_kind(record.document))
    heads = ["Indicator", "Level", "Bound", "Before", "After"]
    steady = tables.plain(heads, figures.steady_state(record.checks, effect))
    return [
        f"<h2>Requests lost, by kind</h2>{lost}" if lost else "",
        f"<h2>The steady state</h2>{steady}" if steady else "",
    ]


def _answers(document: Mapping[str, Any]) -> str:
    """How good the answers were, where golden prompts were asked."""
    told = tables.plain(answers.QUALITY, answers.quality(document))
    bad = tables.plain(answers.WORST, answers.worst(document))
    more = f"<details><summary>Bad answers</summary>{bad}</details>" if bad else ""
    return f"<h2>How good the answers were</h2>{told}{more}" if told else ""


def _why(document: Mapping[str, Any]) -> str:
    rows = "".join(f"<li>{escape(text)}</li>" for text in figures.why(document))
    return f'<ul class="why">{rows}</ul>' if rows else ""


def _tiles(document: Mapping[str, Any]) -> str:
    """The figures that people sign, large."""
    return f'<div class="tiles">{"".join(map(_tile, figures.tiles(document)))}</div>'


def _tile(tile: figures.Tile) -> str:
    note = re.sub(r"(\d) s\b", "\\1\u00a0s", tile.note)  # a number keeps its unit beside it
    name, value = escape(tile.name), escape(tile.value)
    return f"<div><span>{name}</span><b>{value}</b><small>{escape(note)}</small></div>"


def _happened(document: Mapping[str, Any], timeline: Timeline) -> str:
    zero = zero_of(timeline)
    return tables.happened(
        moments(timeline, document), lambda at: _utc(timeline, zero + at, "%H:%M:%S")
    )


def _utc(timeline: Timeline, at: float, form: str) -> str:
    return time.strftime(form, time.gmtime(timeline.utc(at)))


def _measured(document: Mapping[str, Any], levels: Levels) -> str:
    generator = document["generator"]
    lag = generator.get("dispatch_lag_p99_ms")
    met = {
        True: "held before the fault",
        False: "did not hold before the fault",
        None: "not looked",
    }
    gaps = [f"{source}: {a:g} to {b:g} s" for source, a, b in document["gaps"]]
    facts = {
        "Golden levels": met[document["steady_state_met"]],
        "Load": f"{generator.get('scheduled', 0):,} due, {generator.get('sent', 0):,} sent"
        + (f", p99 {lag:.1f} ms behind schedule" if lag is not None else ""),
        "Lowest throughput": f"{document['lowest_throughput_rps']:g} good answers a second"
        if document["lowest_throughput_rps"] is not None
        else "not measured",
        "Decided by": document["decided_by"] or "nothing",
        "Watched after it was back": f"{document['held_s']:.1f} s" if document["held_s"] else "not",
        "Gaps in the samples": "; ".join(gaps) or "none",
        "Gaps in the watch over replicas": _watch_gaps(document),
        "Left behind": "; ".join(document["leftovers"]) or "nothing",
        "Levels": f"{levels.target}: {_levels(levels)}",
    }
    goodput = tables.plain(answers.GOODPUT, answers.goodput(document))
    return f"{tables.sources(document['per_source'])}{goodput}{_facts(facts)}"


def _facts(facts: Mapping[str, Any]) -> str:
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items())
    return f"<dl>{rows}</dl>"


def _again(document: Mapping[str, Any]) -> str:
    """The exact command, and what it stood on."""
    run, command = document["run"], figures.again(document)
    facts = {
        "In the folder": run.get("directory"),
        "Begun": run.get("started_at"),
        "Seed": document["seed"],
        "Versions": ", ".join(f"{k} {v}" for k, v in document["versions"].items()),
    }
    told = f"<pre>{escape(command)}</pre>" if command else "<p>Its command isn't known.</p>"
    variables = run.get("variables") or {}
    listed = tables.plain(["Variable", "Value"], [(k, str(v)) for k, v in variables.items()])
    more = f"<details><summary>Variables</summary>{listed}</details>" if listed else ""
    return told + _facts({k: v for k, v in facts.items() if v not in (None, "")}) + more


def _files() -> str:
    links = "".join(
        f'<li><a href="{name}">{name}</a>: {escape(what)}</li>' for name, what in FILES.items()
    )
    return f"<h2>Files beside this page</h2><ul>{links}</ul>"


def _watch_gaps(document: Mapping[str, Any]) -> str:
    known = {"late": "what changed is known, not when", "lost": "what came and went is not known"}
    gaps = document["capacity_gaps"]
    return "; ".join(f"{a:g} to {b:g} s ({known.get(kind, kind)})" for a, b, kind in gaps) or "none"


def _levels(levels: Levels) -> str:
    return ", ".join(f"{name} {bound:g} tolerated" for name, bound in levels.tolerated.items())
