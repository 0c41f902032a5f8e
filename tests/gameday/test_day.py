"""A day from its first gate to its page; each run is the real `chaos run`."""

import functools
import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from aftershock.errors import InvalidInput
from aftershock.gameday import commands, day
from aftershock.gameday.news import News
from aftershock.gameday.record import Told
from aftershock.lock import HostLock, Occupied, holders

from .conftest import Site, until


def events(told: Told, name: str) -> list[dict[str, Any]]:
    return [one for one in told.events if one["event"] == name]


def test_a_day_goes_by_its_gates_and_says_so(site: Site) -> None:
    site.write(
        {"repeat": 2, "choose": {"zone": ["az-a", "az-b", "az-c"]}, "rto": "15s"},
        {"gates": [{"name": "budget left", "command": "echo 40 left of ${zone}; exit 3"}]},
        {"variables": {"verdict": "FAIL"}, "gates": [{"command": "echo 7", "at_least": 5}]},
        gates=[{"alone": True}],
        seed=7,
    )
    assert site.hold() is False
    assert site.verdicts() == {
        "01-tiny-1": "PASS",
        "02-tiny-1": "PASS",
        "03-tiny-2": "SKIPPED",
        "04-tiny-3": "FAIL",
    }
    told = site.told
    assert told.word == "FAIL" and told.ended
    gates = {(one["run"], one["name"]): (one["go"], one["value"]) for one in events(told, "gate")}
    assert len(gates) == 6
    assert gates["03-tiny-2", "budget left"] == (False, "40 left of az-a, exit status 3")
    assert gates["04-tiny-3", "echo 7"] == (True, "7")
    assert gates["01-tiny-1", "no other run in progress"] == (True, "none")
    for key in ("01-tiny-1", "04-tiny-3"):
        assert (site.day / "runs" / key / "verdict.json").exists(), "linked to the journal's folder"
    assert site.notes("tiny-1") == ["broken", "healed"] * 2 and site.notes("tiny-2") == []
    begun = events(told, "run begun")
    assert all(one["variables"]["rto_objective_s"] == 15 for one in begun[:2])
    page = (site.day / "day.html").read_text()
    assert "2 of 4 runs passed" in page and "40 left of az-a" in page
    assert page.count('class="word PASS"') == 2 and "1.50 s" in page
    assert "04-tiny-3 is FAIL" in (site.day / "day.md").read_text()
    assert "seed 7" in page and "--seed 7" in page
    assert holders() == [], "its locks are gone"
    first = [one["drawn"] for one in begun]
    site.hold(seed=told.begun["seed"], only=("tiny-1",))
    assert [one["drawn"] for one in events(site.told, "run begun")] == first[:2]


def test_who_may_not_abort_is_refused_and_who_may_heals_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write({"variables": {"hold_s": 60}}, {}, may_abort=["alice"])
    with site.held() as process:
        until(lambda: site.notes("tiny-1") == ["broken"])
        with pytest.raises(Occupied, match="A day of tiny things"):
            site.hold(anew=True)
        with pytest.raises(Occupied):
            HostLock("lab on port 18080", "a run by hand").acquire()
        monkeypatch.setenv("SUDO_USER", "mallory")
        with pytest.raises(InvalidInput, match="does not let mallory abort"):
            list(commands.order("abort", None))
        assert process.poll() is None and site.notes("tiny-1") == ["broken"]
        monkeypatch.setenv("SUDO_USER", "alice")
        said = list(commands.order("abort", site.day.name, "the pager rang"))
        assert said == [
            f"abort asked of {site.day.name} as alice",
            "it ends: the current run is being healed",
        ]
        assert process.wait(60) == 1
    assert site.notes("tiny-1") == ["broken", "healed"] and site.notes("tiny-2") == []
    told = site.told
    (stopped,) = events(told, "stopped")
    assert stopped["by"] == "alice" and "the pager rang" in stopped["why"]
    assert [one["by"] for one in events(told, "refused")] == ["mallory"]
    assert told.word == "INCONCLUSIVE" and site.verdicts() == {"01-tiny-1": "INCONCLUSIVE"}
    page = (site.day / "day.html").read_text()
    assert "aborted by alice at 20" in page and "02-tiny-2 did not begin" in page


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_ends_the_day_with_its_run_healed(site: Site, number: signal.Signals) -> None:
    site.write({"variables": {"hold_s": 60}}, {})
    with site.held() as process:
        until(lambda: site.notes("tiny-1") == ["broken"])
        process.send_signal(number)
        assert process.wait(60) == 1
    assert site.notes("tiny-1") == ["broken", "healed"]
    assert events(site.told, "stopped")[0]["why"].startswith(number.name)
    assert site.told.ended and not holders()


def test_a_safeguard_that_trips_ends_the_day(site: Site, tmp_path: Path) -> None:
    site.write(
        {"variables": {"hold_s": 60}},
        {},
        safeguards=[{"name": "errors", "command": "test ! -e errors", "every": "100ms"}],
    )
    with site.held() as process:
        until(lambda: site.notes("tiny-1") == ["broken"])
        (tmp_path / "errors").touch()
        assert process.wait(60) == 1
    assert site.notes("tiny-1") == ["broken", "healed"]
    assert site.told.stopped == "safeguard said no: errors: no-go (exit status 1)"


def test_a_safeguard_is_asked_of_the_run_that_is_on(site: Site) -> None:
    guard = {"name": "where", "command": "echo ${zone} >> asked", "every": "50ms"}
    steps = [{"variables": {"zone": zone}, "pause": "300ms"} for zone in ("az-a", "az-b")]
    site.write(*steps, safeguards=[guard])
    assert site.hold()
    asked = (site.folder / "asked").read_text().split()
    assert set(asked) == {"az-a", "az-b"} and asked == sorted(asked)


def test_a_day_whose_process_died_goes_on_where_it_was(site: Site) -> None:
    site.write({}, {"variables": {"hold_s": 60}}, {}, seed=3)
    with site.held() as process:
        until(lambda: site.notes("tiny-2") == ["broken"])
        process.kill()
        process.wait()
    first = site.day
    assert "cut off" in "\n".join(commands.status())
    until(lambda: site.notes("tiny-2") == ["broken", "healed"])  # the kernel told it to end
    assert site.hold() is False
    assert site.day == first, "the same day"
    assert site.verdicts() == {
        "01-tiny-1": "PASS",
        "02-tiny-2": "INCONCLUSIVE",
        "03-tiny-3": "PASS",
    }
    assert site.notes("tiny-1") == ["broken", "healed"], "it was not run again"
    assert [one["event"] for one in site.told.events].count("resumed") == 1
    assert "the process that held it had died" in (site.day / "day.html").read_text()
    assert site.hold(only=("tiny-1",)) and site.day != first, "one that is over is not gone on with"


def test_a_day_that_was_cut_off_long_ago_is_only_ended(site: Site) -> None:
    site.write({}, {"pause": "1m"})
    with site.held() as process:
        until(lambda: events(site.told, "pause"))
        process.kill()
        process.wait()
    first = site.day / "decisions.jsonl"
    year = datetime.now(UTC).strftime('"at": "%Y')
    first.write_text(first.read_text().replace(year, '"at": "2020'))
    assert site.hold(only=("tiny-1",)) is True
    (_, old), (_, new) = commands.days()
    assert old.ended and "its process had died, and that" in old.stopped
    assert old.word == "INCONCLUSIVE" and new.word == "PASS" and "02-tiny-2" not in old.runs


def test_confirmations_that_nobody_gives_mean_no(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"ask": "Is the on-call engineer here?", "within": "1m"}
    site.write(
        {"confirm": {**asked, "within": "300ms"}},
        {"confirm": asked},
        {"confirm": asked},
        may_confirm=["alice"],
    )
    with site.held() as process:
        until(lambda: len(events(site.told, "asked")) == 2)
        monkeypatch.setenv("SUDO_USER", "mallory")
        list(commands.order("confirm", None))
        until(lambda: events(site.told, "refused"))
        monkeypatch.setenv("SUDO_USER", "alice")
        list(commands.order("confirm", None))
        until(lambda: len(events(site.told, "asked")) == 3)
        list(commands.order("decline", None))
        process.wait(60)
    assert site.verdicts() == {"01-tiny-1": "SKIPPED", "02-tiny-2": "PASS", "03-tiny-3": "SKIPPED"}
    assert site.told.runs["01-tiny-1"].why == "nobody confirmed in time"
    answers = [(one["yes"], one["by"]) for one in events(site.told, "answered")]
    assert answers == [(False, "nobody, in time"), (True, "alice"), (False, "alice")]


def test_a_run_without_a_verdict_or_beyond_its_limit_is_inconclusive(site: Site) -> None:
    plain = site.folder / "plain.json"
    plain.write_text('{"title": "t", "description": "d", "method": [], "configuration": {}}')
    site.write({"variables": {"hold_s": 60}, "limit": "2s"}, {"file": "plain.json"})
    assert site.hold() is False
    first, second = site.told.runs.values()
    assert first.why == "it took longer than its limit, 2 s"
    assert second.why.startswith("it left no verdict")
    assert site.notes("tiny-1")[-1:] == ["healed"]


def test_a_webhook_that_is_down_stops_nothing_and_is_reported(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(day, "News", functools.partial(News, waits_s=(0.01,)))
    site.write(
        {},
        title="<b>Autumn</b>",
        notify=[{"webhook": "http://127.0.0.1:9/secret"}, {"command": "cat >> news"}],
    )
    assert site.hold() is True
    told = events(site.told, "notified")
    assert {(one["name"], one["there"], one["tries"]) for one in told} == {
        ("webhook 127.0.0.1", False, 2),
        ("cat >> news", True, 1),
    }
    news = (site.folder / "news").read_text().splitlines()
    assert len(news) == 3 and news[1] == "01-tiny-1: PASS"
    page = (site.day / "day.html").read_text()
    assert "news did not get to webhook 127.0.0.1 in 2 attempts" in page and "secret" not in page
    assert "&lt;b&gt;Autumn" in page and "<b>Autumn" not in page


@pytest.mark.parametrize(("typed", "verdict"), [("yes", "PASS"), ("no", "SKIPPED")])
def test_a_confirmation_is_typed_where_the_day_is_held(
    site: Site, typed: str, verdict: str
) -> None:
    site.write({"confirm": {"ask": "Is the on-call engineer here?", "within": "1m"}})
    ours, theirs = os.openpty()
    try:
        with site.held(stdin=theirs) as process:
            until(lambda: events(site.told, "asked"))
            os.write(ours, f"{typed}\n".encode())
            process.wait(60)
    finally:
        os.close(ours)
        os.close(theirs)
    assert site.verdicts() == {"01-tiny-1": verdict}
    (answer,) = events(site.told, "answered")
    assert answer["by"].endswith(", typed here")
