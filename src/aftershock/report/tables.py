"""The page's tables as HTML: what was injected, what happened when, how it was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from aftershock.report import figures, stages
from aftershock.report.moments import Moment
from aftershock.report.sentences import count

_PIECES = {
    "dropped": "Packets dropped",
    "diverted": "Packets led through the queue",
    "counted": "Counted by the agent",
    "silent": "Silent to the witness",
    "spared": "Still reaches what is spared",
    "slower": "Round trips",
    "lossy": "Echoes lost",
    "repeated": "Echoes repeated",
    "throttled": "Throttled",
    "reset": "Connections reset",
    "check": "What the check said",
    "gone": "Pods gone",
    "offered": "Requests offered",
    "unschedulable": "Takes no new pods",
}
_SIGNS = {True: ("yes", "✓"), False: ("no", "✗"), None: ("unknown", "–")}


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "plain") -> str:
    """A table of cells that are HTML already, in a box that scrolls by itself on a phone."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    rows_of = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll {kind}"><table>{rows_of}</table></div>'


def injection(told: Mapping[str, Any]) -> str:
    """One fault: how it went, and the evidence host by host."""
    hosts, joined = list(told.get("hosts") or ()), told.get("joined") or {}
    facts = [
        f"fired {escape(_clock(told.get('fired_at')))}",
        count(len(hosts), str(told.get("of", "node"))),
        *(f"without {escape(host)}" for host in told.get("failed_hosts") or ()),
        *(f"{escape(host)} joined after {at:.1f} s" for host, at in joined.items()),
    ]
    if told.get("skew_ms") is not None and len(hosts) > 1:
        facts.append(f"{told['skew_ms']:.1f} ms apart")
    if told.get("lease_s"):
        facts.append(f"lease {told['lease_s']:g} s")
    ends = [_sign(ok, said) for ok, said in figures.ends(told)]
    return (
        f"<h3>{escape(str(told['fault']))}</h3><p>{' · '.join(facts)}</p>"
        f'<p class="signs">{" ".join(ends)}</p>{_evidence(told, hosts)}{_parameters(told)}'
    )


def _evidence(told: Mapping[str, Any], hosts: Sequence[str]) -> str:
    """What was seen before and while it was on, host by host, and how it ended there."""
    pieces = (told.get("evidence") or {}).get("pieces") or []
    names = list(dict.fromkeys(piece["name"] for piece in pieces))
    by_place = {(piece["host"], piece["name"]): piece for piece in pieces}
    per_host = told.get("per_host") or {}
    dropped = any((part.get("dropped") or {}) for part in per_host.values())
    if not names:
        return "<p>Nothing was looked for.</p>"
    heads = ["Node", *(_PIECES.get(name, figures.sentence(name)) for name in names)]
    heads += ["Dropped in all"] if dropped else []
    heads += ["After", "Fingerprint before → after"] if per_host else []
    rows = []
    for host in hosts:
        cells = [f"<b>{escape(host)}</b>"]
        for name in names:
            piece = by_place.get((host, name))
            cells.append(_sign(piece["ok"], piece["seen"]) if piece else _sign(None, ""))
        part = per_host.get(host, {})
        if dropped:
            cells.append(_total(part.get("dropped") or {}))
        if per_host:
            cells += [_after(part, told), _fingerprint(part)]
        rows.append(cells)
    more = [
        f"{host}: {line}"
        for host, changed in (told.get("foreign_changes") or {}).items()
        for line in changed
    ]
    items = "".join(f"<li>{escape(line)}</li>" for line in more)
    others = f"<p>Changed meanwhile by others:</p><ul>{items}</ul>" if more else ""
    return table(heads, rows, "evidence") + others


def _after(part: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    """How and when it ended on one host, and what was left there."""
    if "error" in part or "never_armed" in part:
        return _sign(None, str(part.get("error") or part["never_armed"] or "never armed"))
    at, fired = part.get("reverted_at_monotonic_s"), told.get("fired_at_monotonic_s")
    if at is None:
        return _sign(None, str(part.get("state", "not known")))
    since = f" {at - fired:.2f} s after it fired" if fired is not None else ""
    left = part.get("left") or []
    leaves = f"left: {', '.join(map(str, left))}" if left else "nothing left"
    how = "on order" if part.get("ordered") else f"by {part.get('ended_by') or 'itself'}"
    said = f"{part.get('state')} {how}{since}; {leaves}"
    return _sign(part.get("state") == "reverted" and bool(part.get("ordered")) and not left, said)


def _fingerprint(part: Mapping[str, Any]) -> str:
    print_of = part.get("fingerprint")
    if not print_of:
        return _sign(None, "not written down")
    before, after = print_of["before"], print_of["after"]
    lines = count(print_of["before_lines"], "line")
    if before == after:
        return _sign(True, f"{before} ({lines}), the same after")
    return _sign(None, f"{before} ({lines}) → {after} ({count(print_of['after_lines'], 'line')})")


def _total(dropped: Mapping[str, Mapping[str, int]]) -> str:
    return (
        escape(" · ".join(f"{ways['packets']:,} {name}" for name, ways in dropped.items())) or "–"
    )


def _parameters(told: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<dt>{escape(str(key))}</dt><dd>{escape(_plain(value))}</dd>"
        for key, value in (told.get("parameters") or {}).items()
        if key != "name" and value not in ("", [], {})
    )
    return f"<details><summary>Parameters</summary><dl>{rows}</dl></details>" if rows else ""


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} ({held})" for key, held in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(one) for one in value)
    return str(value)


def _sign(ok: bool | None, said: str) -> str:
    kind, sign = _SIGNS[ok]
    return f'<span class="{kind}"><i>{sign}</i> {escape(said)}</span>'


def happened(moments: Iterable[Moment], utc: Callable[[float], str]) -> str:
    """What happened when; `utc` tells the time of day of a moment."""
    rows = [(f"{moment.at:+.2f}", escape(utc(moment.at)), _strong(moment)) for moment in moments]
    return table(["Seconds", "UTC", "What"], rows)


def _strong(moment: Moment) -> str:
    return f"<b>{escape(moment.text)}</b>" if moment.short else escape(moment.text)


def replacements(rows: Sequence[Mapping[str, Any]]) -> str:
    """The lost replicas and what came for them, in seconds after the fault."""
    if not rows:
        return ""
    told = table(stages.HEADS, [stages.marked_up(row) for row in stages.slowest(rows)])
    return f"<h2>What became of the replicas</h2>{told}"


def plain(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain texts; empty without rows."""
    cells = [[escape(cell) for cell in row] for row in rows]
    return table(heads, cells) if cells else ""


def sources(per_source: Mapping[str, Mapping[str, Any]]) -> str:
    """What each source of samples saw, from the fault to the end of the hold."""
    rows = [
        (
            escape(name),
            f"{seen['requests']:,}",
            f"{seen['bad']:,}",
            f"{seen['rto_s']:.3f} ± {seen['error_s']:.3f}" if "rto_s" in seen else "undisturbed",
        )
        for name, seen in per_source.items()
    ]
    return table(["Source", "Requests", "Bad", "Back after, s"], rows) if rows else ""


def _clock(moment: Any) -> str:
    """A time of day out of an ISO timestamp."""
    return f"{str(moment)[11:23]} UTC" if moment else "never"
