"""`report.html`: the verdict and why, the timeline, what was injected. One file, opens offline."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

from aftershock.report import sentences, tables
from aftershock.report.chart import draw
from aftershock.report.moments import moments, zero_of
from aftershock.report.picture import picture_of
from aftershock.slo.levels import Levels
from aftershock.slo.timeline import Timeline

STYLE = files("aftershock.report").joinpath("page.css").read_text(encoding="utf-8")
WIDE, NARROW = 960, 400
FILES = {
    "verdict.json": "the verdict for machines",
    "injections.json": "every fault with its evidence",
    "journal.json": "Chaos Toolkit's journal",
    "timeline.jsonl": "everything that was measured",
}


def render(
    document: Mapping[str, Any],
    timeline: Timeline,
    levels: Levels,
    zones: Mapping[str, str] | None = None,
) -> str:
    """The page. `document`: the content of verdict.json; `zones`: node → its zone."""
    word = escape(str(document["verdict"]))
    title = escape(str(document.get("title", "Aftershock")))
    picture = picture_of(timeline, document, levels, zones)
    parts = [
        f'<header><p><span class="word {word}">{word}</span> '
        f'<span class="soft">{_where_and_when(document, timeline)}</span></p>',
        f"<h1>{title}</h1>",
        f'<p class="headline">{escape(_sentence(sentences.summary(document)[0]))}</p></header>',
        _why(document),
        _tiles(document),
        "<h2>Timeline</h2>",
        f'<div class="wide">{draw(picture, WIDE)}</div>',
        f'<div class="narrow">{draw(picture, NARROW)}</div>',
        "<h2>What was injected, and what was seen of it</h2>",
        "".join(tables.injection(one) for one in document["injections"])
        or "<p>Nothing was injected.</p>",
        "<h2>What happened when</h2>",
        _happened(document, timeline),
        "<h2>How it was measured</h2>",
        _measured(document, levels),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{word}: {title}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _where_and_when(document: Mapping[str, Any], timeline: Timeline) -> str:
    began = min(timeline.marks.values(), default=None)
    day = "" if began is None else f" · {_utc(timeline, began, '%Y-%m-%d %H:%M')} UTC"
    target = str(document["target"])
    emulated = " (GPUs and Kubernetes are emulated)" if target == "lab" else ""
    return escape(f"target {target}{emulated}{day}")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _why(document: Mapping[str, Any]) -> str:
    """The reasons that the headline hasn't told, and the measured time where a reason led."""
    first, told = sentences.summary(document)[0], sentences.headline(document)
    more = [text for text in sentences.reasons(document) if text != first]
    more += [f"measured all the same: {told}"] if told != first else []
    rows = "".join(f"<li>{escape(_sentence(text))}</li>" for text in more)
    return f'<ul class="why">{rows}</ul>' if rows else ""


def _tiles(document: Mapping[str, Any]) -> str:
    """The figures that people sign, large."""
    found = [
        _rto(document),
        _failback(document),
        _capacity(document),
        _lost(document),
        _detected(document),
    ]
    return f'<div class="tiles">{"".join(found)}</div>'


def _tile(name: str, value: str, note: str) -> str:
    if value == "–":
        note = "not measured"
    note = re.sub(r"(\d) s\b", "\\1\u00a0s", note)  # a number keeps its unit beside it
    return (
        f"<div><span>{escape(name)}</span><b>{escape(value)}</b><small>{escape(note)}</small></div>"
    )


def _rto(document: Mapping[str, Any]) -> str:
    value, error = document["service_rto_s"], document["service_rto_error_s"]
    objective = f"objective {document['rto_objective_s']:g} s"
    if value is not None:
        return _tile("Service RTO", f"{value:.2f} s", f"± {error:.3f} s · {objective}")
    censored = document["service_rto_censored_s"]
    if censored is not None:
        return _tile("Service RTO", f"> {censored:g} s", f"not back by then · {objective}")
    return _tile("Service RTO", "–", "")


def _capacity(document: Mapping[str, Any]) -> str:
    rto, censored = document["capacity_rto_s"], document["capacity_censored_s"]
    after = document["capacity_after_heal_s"]
    if rto is not None:
        return _tile("Capacity RTO", f"{rto:.1f} s", "as many replicas as before")
    if censored is None:
        return _tile("Capacity RTO", "–", "")
    note = f"{after:.1f} s after the heal" if after is not None else "nor after the heal"
    return _tile("Capacity RTO", f"> {censored:.1f} s", f"not during the fault; {note}")


def _lost(document: Mapping[str, Any]) -> str:
    if document["requests_total"] is None:
        return _tile("Requests lost", "–", "")
    cut = sentences.count(document["streams_cut"], "stream")
    slow = f"{document['requests_slow']:,} too late"
    note = f"of {document['requests_total']:,} · {slow} · {cut} cut"
    return _tile("Requests lost", f"{document['requests_lost']:,}", note)


def _failback(document: Mapping[str, Any]) -> str:
    value, error = document["failback_rto_s"], document["failback_rto_error_s"]
    if value is None:
        return _tile("Fail-back", "–", "")
    return _tile("Fail-back", f"{value:.2f} s", f"± {error or 0:.2f} s · after the heal")


def _detected(document: Mapping[str, Any]) -> str:
    value, error = document["time_to_detect_s"], document["time_to_detect_error_s"]
    if value is None and document["service_state"] is None:
        return _tile("Detected", "–", "")
    if value is None:
        return _tile("Detected", "never", "the gateway counted no server as down")
    return _tile("Detected", f"{value:.2f} s", f"± {error or 0:.2f} s · by the gateway")


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
        "Left behind": "; ".join(document["leftovers"]) or "nothing",
        "Levels": f"{levels.target}: {_levels(levels)}",
        "Seed": document["seed"],
        "Versions": ", ".join(f"{k} {v}" for k, v in document["versions"].items()),
    }
    rows = "".join(f"<dt>{k}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items())
    links = "".join(
        f'<li><a href="{name}">{name}</a>: {escape(what)}</li>' for name, what in FILES.items()
    )
    return (
        f"{tables.sources(document['per_source'])}<dl>{rows}</dl>"
        f"<h2>Files beside this page</h2><ul>{links}</ul>"
    )


def _levels(levels: Levels) -> str:
    return ", ".join(f"{name} {bound:g} tolerated" for name, bound in levels.tolerated.items())
