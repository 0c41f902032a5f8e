"""A day whose target somebody else has: who waits for it hears so once, and its record says who."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from aftershock.gameday import commands
from aftershock.lock import HostLock, Occupied

from .conftest import Site, until
from .test_dates import daily

NEWS = {"notify": [{"command": "cat >> news"}]}


@contextmanager
def taken(what: str = "the run 'by hand'") -> Iterator[None]:
    lock = HostLock("lab on port 18080", what)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def news(site: Site) -> list[str]:
    path = site.folder / "news"
    return path.read_text().splitlines() if path.exists() else []


def refused(site: Site, **wish: Any) -> str:
    with pytest.raises(Occupied) as raised:
        site.hold(**wish)
    return str(raised.value)


def test_a_refused_day_is_told_and_on_record_once_for_each_holder(site: Site) -> None:
    site.write({}, {}, **NEWS)
    with taken():
        sentence = refused(site)
        assert news(site) == [f"A day of tiny things: does not begin: {sentence}"]
        told, page = site.told, (site.day / "day.html").read_text()
        assert told.stopped == sentence and told.ended and told.word == "INCONCLUSIVE"
        assert told.holder["what"] == "the run 'by hand'" and told.holder["user"]
        assert [one["there"] for one in told.events if one["event"] == "notified"] == [True]
        assert "did not begin: lab on port 18080 is taken by the run" in page
        assert sentence in (site.day / "day.md").read_text()
        refused(site)
        assert len(news(site)) == len(list(commands.days())) == 1, "nobody is told it again"
        assert "did not begin" in "\n".join(commands.status(str(site.plan)))
    with taken("another run"):
        assert "another run" in refused(site)
    assert len(news(site)) == len(list(commands.days())) == 2
    assert site.notes("tiny-1") == []
    assert site.hold() and site.notes("tiny-1") == ["broken", "healed"]
    assert len(list(commands.days())) == 3 and not site.told.holder


def test_a_date_that_was_refused_is_still_due(site: Site) -> None:
    """A scheduler that wakes again holds it, if the target is free by then."""
    site.write({}, calendar=daily(0.05), **NEWS)
    with taken():
        refused(site, scheduled=True)
        refused(site, scheduled=True)
    assert len(news(site)) == 1
    assert site.hold(scheduled=True) and site.verdicts() == {"01-tiny-1": "PASS"}
    assert site.told.begun["date"], "the same date"


def test_a_day_that_was_cut_off_says_so_in_its_own_record(site: Site) -> None:
    site.write({}, {"pause": "1m"}, **NEWS)
    with site.held() as process:
        until(lambda: [one for one in site.told.events if one["event"] == "pause"])
        process.kill()
        process.wait()
    first = site.day
    with taken():
        sentence = refused(site)
        refused(site)
        told = [line for line in news(site) if "does not go on" in line]
        assert told == [f"A day of tiny things: does not go on: {sentence}"]
        assert site.day == first and not site.told.ended
        assert f"does not go on: {sentence}" in (site.day / "day.md").read_text()


def test_the_plans_own_day_is_no_news(site: Site) -> None:
    site.write({"variables": {"hold_s": 60}}, **NEWS)
    with site.held() as process:
        until(lambda: site.notes("tiny-1") == ["broken"])
        before = news(site)
        refused(site, anew=True)
        assert news(site) == before and len(list(commands.days())) == 1
        process.terminate()
        process.wait()
