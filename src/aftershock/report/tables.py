"""The page's tables as HTML: what was injected, what happened when, how it was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from aftershock.report.moments import Moment
from aftershock.report.sentences import count

_PIECES = {
    "dropped": "Packets dropped",
    "silent": "Silent to the witness",
    "spared": "Still reaches its own zone",
    "gone": "Pods gone",
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
    hosts = list(told.get("hosts") or ())
    facts = [
        f"fired {escape(_clock(told.get('fired_at')))}",
        count(len(hosts), "node"),
    ]
    if told.get("skew_ms") is not None and len(hosts) > 1:
        facts.append(f"{told['skew_ms']:.1f} ms apart")
    if told.get("lease_s"):
        facts.append(f"lease {told['lease_s']:g} s")
    ends = [
        _sign(told.get("bit"), "effect seen", "no effect seen", "effect not looked for"),
        _sign(_ordered(told), "held until ordered to go", "healed early", "not ordered to go"),
        _sign(told.get("clean"), "hosts left clean", "not clean", "cleanness not known"),
    ]
    return (
        f"<h3>{escape(str(told['fault']))}</h3><p>{' · '.join(facts)}</p>"
        f'<p class="signs">{" ".join(ends)}</p>{_evidence(told, hosts)}{_parameters(told)}'
    )


def _ordered(told: Mapping[str, Any]) -> bool | None:
    return False if told.get("healed_early") else told.get("ordered")


def _evidence(told: Mapping[str, Any], hosts: Sequence[str]) -> str:
    pieces = (told.get("evidence") or {}).get("pieces") or []
    names = list(dict.fromkeys(piece["name"] for piece in pieces))
    by_place = {(piece["host"], piece["name"]): piece for piece in pieces}
    per_host = told.get("per_host") or {}
    dropped = any((part.get("dropped") or {}) for part in per_host.values())
    if not names:
        return "<p>Nothing was looked for.</p>"
    heads = ["Node", *(_PIECES.get(name, name) for name in names)]
    rows = []
    for host in hosts:
        cells = [f"<b>{escape(host)}</b>"]
        for name in names:
            piece = by_place.get((host, name))
            cells.append(
                _sign(piece["ok"], *[piece["seen"]] * 3) if piece else _sign(None, "", "", "")
            )
        if dropped:
            cells.append(_total(per_host.get(host, {}).get("dropped") or {}))
        rows.append(cells)
    return table([*heads, *(["Dropped in all"] if dropped else [])], rows, "evidence")


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


def _sign(ok: bool | None, yes: str, no: str, unknown: str) -> str:
    kind, sign = _SIGNS[ok]
    text = {True: yes, False: no, None: unknown}[ok]
    return f'<span class="{kind}"><i>{sign}</i> {escape(text)}</span>'


def happened(moments: Iterable[Moment], utc: Callable[[float], str]) -> str:
    """What happened when; `utc` tells the time of day of a moment."""
    rows = [(f"{moment.at:+.2f}", escape(utc(moment.at)), _strong(moment)) for moment in moments]
    return table(["Seconds", "UTC", "What"], rows)


def _strong(moment: Moment) -> str:
    return f"<b>{escape(moment.text)}</b>" if moment.short else escape(moment.text)


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
