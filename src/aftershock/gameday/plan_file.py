"""Game-day plans: YAML; what is wrong in one is `InvalidInput` with file, line and the mend.

docs/gamedays.md has an example. Paths in a plan are relative to its own folder.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from aftershock.errors import InvalidInput
from aftershock.gameday import calendar as calendars
from aftershock.gameday.calendar import Calendar
from aftershock.gameday.plan import (
    END,
    SKIP,
    WAYS,
    Confirmation,
    Experiment,
    Notification,
    Plan,
    Question,
)
from aftershock.gameday.told import declared
from aftershock.history.words import seconds
from aftershock.inventory_yaml import Block, File, Said

_PEOPLE = ("may_abort", "may_confirm")
_TOP = ("title", "owner", *_PEOPLE, "seed", "target", "variables", "calendar", "gates",
        "safeguards", "experiments", "notify")  # fmt: skip
_CALENDAR = ("cron", "time_zone", "windows", "blackout", "missed", "catch_up_within", "late",
             "spread")  # fmt: skip
_EXPERIMENT = ("name", "file", "variables", "choose", "repeat", "pause", "gates", "confirm", "rto",
               "limit")  # fmt: skip
_QUESTION = ("name", *WAYS, "json", "selector", "token_env", "at_least", "at_most", "equals",
             "contains", "timeout", "otherwise")  # fmt: skip
_NOTIFY = ("webhook", "webhook_env", "command")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CATCH_UP = 86_400.0


def read_plan(path: str | Path) -> Plan:
    """A plan file's day; `InvalidInput` names file and line."""
    file = File(
        Path(path),
        what="game day",
        mend="give the path of a plan file",
        guide="docs/gamedays.md",
    )
    top = Block(file, file.read(), "the plan", _TOP)
    common = _values(file, top, "variables")
    if target := top.word("target"):
        common["target"] = _target(file, top, target)
    listed = _list(top, "experiments")
    if not listed:
        raise top.wrong("experiments", "no experiments: list them below `experiments:`")
    experiments = tuple(_experiment(file, said, common) for said in listed)
    _refuse_twins(file, listed, experiments)
    _refuse_unused(file, top, experiments)
    return Plan(
        path=Path(path).absolute(),
        title=top.needed("title", "say in a few words what the day is for"),
        owner=top.needed("owner", "say who answers for it"),
        experiments=experiments,
        may_abort=top.words("may_abort"),
        may_confirm=top.words("may_confirm") or top.words("may_abort"),
        seed=top.number("seed", 0, 2**63),
        calendar=_calendar(file, top),
        gates=_questions(file, top, "gates"),
        safeguards=_questions(file, top, "safeguards", more=("every",)),
        notify=tuple(
            _notification(Block(file, one, "notify", _NOTIFY)) for one in _list(top, "notify")
        ),
    )


def _target(file: File, top: Block, word: str) -> str:
    return word if word == "lab" else str(top.path("target"))


def _experiment(file: File, said: Said, common: Mapping[str, Any]) -> Experiment:
    block = Block(file, said, _title(said), _EXPERIMENT)
    block.needed("file", "name the experiment's file")
    path = Path(str(block.path("file")))
    name = block.word("name") or path.stem
    if not _NAME.fullmatch(name):
        raise block.wrong("name", f"name {name!r}: letters, digits, dot, dash and underscore only")
    known = declared(path)
    own = _values(file, block, "variables")
    choose = _choices(file, block)
    rto_s = _length(block, "rto")
    for key, names in (("variables", own), ("choose", choose)):
        for one in names:
            if one not in known:
                raise file.wrong(
                    _line(block, key, one), f"{block.what}: {_unknown(one, known, path)}"
                )
    if rto_s is not None and "rto_objective_s" not in known:
        raise block.wrong(
            "rto", f"{path.name} lists no rto_objective_s: its runs could not be held to it"
        )
    return Experiment(
        name=name,
        file=path,
        variables={**{k: v for k, v in common.items() if k in known}, **own},
        choose=choose,
        repeat=block.number("repeat", 1, 1000) or 1,
        pause_s=_range(block, "pause"),
        gates=_questions(file, block, "gates"),
        confirm=_confirmation(file, block),
        rto_s=rto_s,
        limit_s=_length(block, "limit") or 1800.0,
        defaults={k: v for k, v in known.items() if isinstance(v, (bool, int, float, str))},
    )


def _unknown(name: str, known: Mapping[str, Any], path: Path) -> str:
    return f"{path.name} has no variable {name!r}: {_mend(name, known, 'it lists')}"


def _mend(name: str, known: Iterable[str], lists: str) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]!r}?" if near else f"{lists} {', '.join(names) or 'none'}"


def _line(block: Block, key: str, name: str) -> int:
    said = block.raw(key)
    return int(said.value[name].line) if said else block.line


def _title(said: Said) -> str:
    value = (
        said.value.get("name") or said.value.get("file")
        if isinstance(said.value, Mapping)
        else None
    )
    return f"experiment {value.value}" if isinstance(value, Said) else "an experiment"


def _refuse_twins(file: File, listed: list[Said], found: tuple[Experiment, ...]) -> None:
    seen: dict[str, int] = {}
    for said, experiment in zip(listed, found, strict=True):
        if experiment.name in seen:
            raise file.wrong(
                said.line,
                f"experiment {experiment.name} is in line {seen[experiment.name]} already: give "
                "one of them another `name`, or `repeat` it",
            )
        seen[experiment.name] = said.line


def _refuse_unused(file: File, top: Block, found: tuple[Experiment, ...]) -> None:
    """A variable of the whole plan that goes to nobody is a slip."""
    known = {name for one in found for name in declared(one.file)}
    said = top.raw("variables")
    for name in said.value if said else ():
        if name not in known:
            mend = _mend(name, known, "they list")
            line = _line(top, "variables", name)
            raise file.wrong(line, f"the plan: no experiment has a variable {name!r}: {mend}")


def _values(file: File, block: Block, key: str) -> dict[str, Any]:
    """Variables with plain values."""
    if (said := block.raw(key)) is None:
        return {}
    if not isinstance(said.value, Mapping):
        raise block.wrong(key, f"{key} is a mapping of variables to values")
    return {
        name: _plain(file, f"{block.what}: {name}", value) for name, value in said.value.items()
    }


def _plain(file: File, what: str, said: Said) -> Any:
    if isinstance(said.value, (bool, int, float, str)):
        return said.value
    raise file.wrong(said.line, f"{what} is no text, number, true or false: give one of them")


def _choices(file: File, block: Block) -> dict[str, list[Any]]:
    if (said := block.raw("choose")) is None:
        return {}
    if not isinstance(said.value, Mapping):
        raise block.wrong("choose", "choose is a mapping of variables to lists of values")
    found: dict[str, list[Any]] = {}
    for name, values in said.value.items():
        if not isinstance(values.value, list) or not values.value:
            raise file.wrong(values.line, f"{block.what}: choose {name}: give a list of values")
        found[name] = [_plain(file, f"{block.what}: choose {name}", one) for one in values.value]
    return found


def _confirmation(file: File, block: Block) -> Confirmation | None:
    if (said := block.raw("confirm")) is None:
        return None
    own = Block(file, said, f"{block.what}: confirm", ("ask", "within"))
    ask = own.needed("ask", "say what is to be confirmed")
    return Confirmation(ask, _length(own, "within") or 600.0)


def _questions(
    file: File, block: Block, key: str, more: tuple[str, ...] = ()
) -> tuple[Question, ...]:
    what = {"gates": "gate", "safeguards": "safeguard"}[key]
    where = "" if block.what == "the plan" else f"{block.what}: "
    known = (*(one for one in _QUESTION if key == "gates" or one != "otherwise"), *more)
    return tuple(
        _question(Block(file, said, f"{where}{what}", known)) for said in _list(block, key)
    )


def _question(block: Block) -> Question:
    asked = [way for way in WAYS if way in block]
    if len(asked) != 1:
        many = f"has {' and '.join(asked)}" if asked else "asks nothing"
        raise block.wrong(asked[1] if asked else "name", f"{many}: give one of {', '.join(WAYS)}")
    way = asked[0]
    if way == "ready_outside" and "at_least" not in block:
        raise block.wrong(way, "ready_outside without at_least: say how many must be ready")
    if way == "alone" and block.truth("alone") is not True:
        raise block.wrong(way, "alone is true, or not there")
    for name in ("json", "token_env"):
        if name in block and way != "url":
            raise block.wrong(name, f"{name} is for a url")
    otherwise = block.word("otherwise") or SKIP
    if otherwise not in (SKIP, END):
        raise block.wrong("otherwise", f"otherwise is {otherwise!r}: give skip or end")
    token_env = _variable(block, "token_env")
    url = block.word("url")
    if url and not re.match(r"https?://", url):
        raise block.wrong("url", f"url is {url!r}: give http://… or https://…")
    equals = block.raw("equals")
    return Question(
        name=block.word("name") or _called(block, way),
        command=block.word("command"),
        url=url,
        ready_outside=block.word("ready_outside"),
        alone=way == "alone",
        json=block.word("json") or "",
        selector=block.word("selector") or "",
        token_env=token_env or "",
        at_least=block.number("at_least", -1e15, 1e15, float),
        at_most=block.number("at_most", -1e15, 1e15, float),
        equals=None if equals is None else str(equals.value),
        contains=block.word("contains"),
        timeout_s=_length(block, "timeout") or 10.0,
        every_s=_length(block, "every") or 5.0,
        otherwise=otherwise,
    )


def _called(block: Block, way: str) -> str:
    named = {"alone": "no other run in progress", "ready_outside": "ready capacity in other zones"}
    return named.get(way) or str(block.word(way))


def _notification(block: Block) -> Notification:
    given = [name for name in _NOTIFY if name in block]
    if len(given) != 1:
        raise block.wrong(given[1] if given else "webhook", f"give one of {', '.join(_NOTIFY)}")
    webhook = block.word("webhook")
    if webhook and not re.match(r"https?://", webhook):
        raise block.wrong("webhook", f"webhook is {webhook!r}: give http://… or https://…")
    return Notification(webhook, _variable(block, "webhook_env"), block.word("command"))


def _variable(block: Block, key: str) -> str | None:
    word = block.word(key)
    if word and not _VARIABLE.fullmatch(word):
        raise block.wrong(key, f"{key} {word!r}: the name of a variable of the environment")
    return word


def _calendar(file: File, top: Block) -> Calendar | None:
    if (said := top.raw("calendar")) is None:
        return None
    block = Block(file, said, "calendar", _CALENDAR)
    cron = block.needed("cron", "give a cron line of five fields, such as '0 10 * * Thu'")
    missed = block.word("missed") or "skip"
    if missed not in ("skip", "catch up"):
        raise block.wrong("missed", f"missed is {missed!r}: give 'skip' or 'catch up'")
    if missed == "skip" and "catch_up_within" in block:
        raise block.wrong("catch_up_within", "catch_up_within is for `missed: catch up`")
    catch_up_s = (_length(block, "catch_up_within") or _CATCH_UP) if missed == "catch up" else 0.0
    spread_s = _length(block, "spread") or 0.0
    if spread_s > 12 * 3600:
        raise block.wrong("spread", "spread is more than 12 h: a day waits that long to begin")
    return Calendar(
        cron=_asking(block, "cron", lambda: calendars.checked_cron(cron)),
        zone=_zone(block),
        windows=tuple(
            _asking(block, "windows", lambda: calendars.window(text))  # noqa: B023
            for text in block.words("windows")
        ),
        blackout=tuple(
            _asking(block, "blackout", lambda: calendars.blackout(text))  # noqa: B023
            for text in _dates(block)
        ),
        late_s=_length(block, "late") or 900.0,
        catch_up_s=catch_up_s,
        spread_s=spread_s,
    )


def _dates(block: Block) -> list[str]:
    """Texts, and dates that YAML has read as such."""
    said = block.raw("blackout")
    values = [] if said is None else said.value if isinstance(said.value, list) else [said]
    return [str(one.value) for one in values]


def _zone(block: Block) -> ZoneInfo:
    name = block.needed("time_zone", "say in which, such as Europe/Berlin or UTC")
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        from zoneinfo import available_timezones

        near = difflib.get_close_matches(name, available_timezones(), 1)
        mend = f"did you mean {near[0]!r}?" if near else "give one like Europe/Berlin"
        raise block.wrong("time_zone", f"there is no time zone {name!r}: {mend}") from None


def _list(block: Block, key: str) -> list[Said]:
    if (said := block.raw(key)) is None:
        return []
    if not isinstance(said.value, list):
        raise block.wrong(key, f"{key} is a list: begin each with a dash")
    return list(said.value)


def _length(block: Block, key: str) -> float | None:
    if (said := block.raw(key)) is None:
        return None
    found: float = _asking(block, key, lambda: seconds(str(said.value)))
    return found


def _range(block: Block, key: str) -> tuple[float, float]:
    """`5m`, or `5m..30m`."""
    if (said := block.raw(key)) is None:
        return 0.0, 0.0
    first, _, last = (part.strip() for part in str(said.value).partition(".."))
    low = _asking(block, key, lambda: seconds(first))
    high = _asking(block, key, lambda: seconds(last or first))
    if high < low:
        raise block.wrong(key, f"{key} {said.value!r} ends before it begins: swap the two")
    return low, high


def _asking(block: Block, key: str, call: Callable[[], Any]) -> Any:
    """What is wrong with a value, with its place."""
    try:
        return call()
    except InvalidInput as error:
        raise block.wrong(key, f"{key}: {error}") from None
