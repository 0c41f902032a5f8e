"""`day.html` and `day.md`: a day's outcome, gates, decisions and follow-ups, as a run's report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

from aftershock.gameday import telling
from aftershock.gameday.record import PLAN_COPY, RUNS, RunTold, Told
from aftershock.report import markdown, tables
from aftershock.report.figures import sentence
from aftershock.report.page import whole
from aftershock.run.folder import RunFolder

_HEADS = ("Run", "Verdict", "Recovery", "Objective", "Drawn", "Why")


def write_page(folder: Path, told: Told) -> Path:
    """The day's page and its Markdown, into its folder."""
    made = RunFolder(folder)
    made.write_text("day.md", day_markdown(told))
    return made.write_text("day.html", page(told, folder))


def page(told: Told, folder: Path) -> str:
    """The page, to be written into the day's folder."""
    word, title = _word(told), _title(told)
    begun = told.begun
    who = f"{begun['at'][:10]} · {begun['owner']} · {folder.name}"
    follow = "".join(f"<li>{escape(line)}</li>" for line in telling.follow_ups(told))
    parts = [
        f'<header><p><span class="word {told.word}">{word}</span> '
        f'<span class="soft">{escape(who)}</span></p><h1>{escape(title)}</h1>'
        f'<p class="headline">{escape(sentence(telling.headline(told)))}</p></header>',
        _tiles(told),
        "<h2>Runs</h2>",
        tables.table(_HEADS, [_row(told, run, folder) for run in telling.runs(told)], "prose"),
        "<h2>Follow-ups</h2>",
        f'<ul class="why">{follow}</ul>' if follow else "<p>None.</p>",
        "<h2>Gates</h2>",
        _prose(("UTC", "Run", "Gate", "Answer", "Value"), telling.gates(told))
        or "<p>None was asked.</p>",
        "<h2>Decisions</h2>",
        _prose(("UTC", "What"), telling.decisions(told)),
        "<h2>To hold it again</h2>",
        f"<pre>{escape(chr(10).join(again(told)))}</pre>",
        f'<ul><li><a href="{PLAN_COPY}">{PLAN_COPY}</a>: the plan as it was</li>'
        '<li><a href="day.md">day.md</a>: the same for a ticket or a chat</li>'
        '<li><a href="decisions.jsonl">decisions.jsonl</a>: the record</li></ul>',
    ]
    return whole(f"{word}: {escape(title)}", "".join(parts))


def _word(told: Told) -> str:
    return told.word if told.ended else "NOT OVER"


def _title(told: Told) -> str:
    kind = told.begun.get("kind", "")
    return f"{'Rehearsal: ' if kind == 'rehearsal' else ''}{told.begun['title']}"


def _prose(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose last cells are sentences; empty without rows."""
    cells = [[escape(cell) for cell in row] for row in rows]
    return tables.table(heads, cells, "prose") if cells else ""


def _row(told: Told, run: RunTold, folder: Path) -> list[str]:
    name = escape(run.key)
    for file in ("verdict.json", "report.html"):  # a run whose controller died has no report
        if (folder / RUNS / run.key / file).exists():
            name = f'<a href="{RUNS}/{escape(run.key, quote=True)}/{file}">{escape(run.key)}</a>'
    word = escape(telling.state(run))
    kind = run.verdict if run.verdict in ("PASS", "FAIL", "INCONCLUSIVE") else ""
    rest = (telling.recovery(run), telling.objective(run), telling.drawn(told, run), run.why)
    return [name, f'<span class="word {kind}">{word}</span>' if kind else word, *map(escape, rest)]


def _tiles(told: Told) -> str:
    runs = telling.runs(told)
    worst = max(
        (run for run in runs if isinstance(run.detail.get("service_rto_s"), (int, float))),
        key=lambda run: float(run.detail["service_rto_s"]),
        default=None,
    )
    asked = telling.gates(told)
    said_no = sum(answer == "no-go" for _, _, _, answer, _ in asked)
    found = [
        ("Runs passed", f"{sum(run.verdict == 'PASS' for run in runs)} of {len(runs)}", ""),
        ("Slowest recovery", telling.recovery(worst) if worst else "–", worst.key if worst else ""),
        ("Gates that said no", f"{said_no} of {len(asked)}", ""),
        ("Lasted", telling.lasted(told), f"from {telling.clock(told.begun['at'])} UTC"),
    ]
    tiles = "".join(
        f"<div><span>{escape(name)}</span><b>{escape(value)}</b><small>{escape(note)}</small></div>"
        for name, value, note in found
    )
    return f'<div class="tiles">{tiles}</div>'


def again(told: Told) -> list[str]:
    """The commands that draw the same runs in the same places: for real, and as a drill."""
    begun = told.begun
    only = "".join(f" --only {name}" for name in begun.get("only") or ())
    same = f"--seed {begun['seed']}{only}"
    drill = f"aftershock gameday rehearse {begun['plan']} {same}  # on the lab"
    if begun.get("kind") == "rehearsal":
        return [drill]
    return [f"aftershock gameday run {begun['plan']} --now {same}", drill]


def day_markdown(told: Told) -> str:
    """The same for a ticket or a chat."""
    return "\n".join(_lines(told)) + "\n"


def _lines(told: Told) -> Iterator[str]:
    plain = markdown.plain
    yield f"## {_word(told)}: {plain(_title(told))}"
    yield ""
    yield f"{plain(sentence(telling.headline(told)))}. Owner: {plain(told.begun['owner'])}."
    yield ""
    rows = [
        (
            run.key,
            f"**{telling.state(run)}**",
            telling.recovery(run),
            telling.objective(run),
            telling.drawn(told, run),
            run.why,
        )
        for run in telling.runs(told)
    ]
    yield from markdown.table(_HEADS, rows)
    if follow := list(telling.follow_ups(told)):
        yield from ("", "### Follow-ups", "", *(f"- {plain(line)}" for line in follow))
    if asked := telling.gates(told):
        yield from ("", "### Gates", "")
        yield from markdown.table(("UTC", "Run", "Gate", "Answer", "Value"), asked)
    yield from ("", "### Decisions", "")
    yield from markdown.table(("UTC", "What"), telling.decisions(told))
    yield from ("", "```", *again(told), "```")
