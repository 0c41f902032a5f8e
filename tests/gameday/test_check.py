"""`aftershock gameday check` tells what stands in the way of a day before it is held."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from aftershock.gameday.check import check

from .conftest import Site

ROOT = Path(__file__).parents[2]


def found(site: Site, **more: Any) -> tuple[bool, str]:
    """A plan of one of our own experiments, looked at."""
    kill = {"file": str(ROOT / "experiments" / "pod-kill.json")}
    plan = {"title": "Autumn", "owner": "Ops", "experiments": [kill], **more}
    site.plan.write_text(yaml.safe_dump(plan))
    looked = check(str(site.plan))
    return looked.ready, "\n".join(looked.lines())


def test_a_sound_plan_is_ready_and_tells_its_dates(site: Site) -> None:
    calendar = {"cron": "0 10 * * Thu", "time_zone": "Europe/Berlin"}
    ready, said = found(site, calendar=calendar)
    assert ready and said.endswith("ready")
    assert said.count("note   next: Thu ") == 5
    assert "ok     pod-kill: a dry run finds nothing in the way" in said
    assert "pod-kill: objective: back within 15 s" in said
    assert not list(site.journal.glob("2*")), "a dry run leaves no run"


def test_what_stands_in_the_way_is_told_all_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write({})
    target = site.folder / "target.yaml"
    target.write_text(
        "gateway_url: http://127.0.0.1:9\nmodel: m\nssh: {user: nobody, timeout_s: 1}\n"
        "hosts: [{name: far, zone: az-a, address: 127.0.0.1, port: 9}]\n"
    )
    kill = str(ROOT / "experiments" / "pod-kill.json")
    ready, said = found(
        site,
        experiments=[
            {"file": kill, "choose": {"zone": ["az-a", "az-x"]}},
            {"name": "slow", "file": kill, "variables": {"lease_s": 5}},
            {"file": "tiny-1.json", "variables": {"target": "target.yaml"}},
        ],
        calendar={"cron": "*/5 * * * *", "time_zone": "UTC"},
        notify=[{"webhook_env": "NOT_SET_HERE"}],
    )
    assert not ready
    wrong = [line for line in said.splitlines() if line.startswith("wrong")]
    for line in (
        "calendar: days would overlap",
        "pod-kill (zone=az-x): unknown zone 'az-x': the lab has az-a, az-b, az-c",
        "slow: lease_s is 5: the fault would heal before the verdict is in",
        "tiny-1: it lacks the control aftershock.controls",
        "doctor of target.yaml: ",
        "news: webhook NOT_SET_HERE: the variable is not set here",
    ):
        assert any(line in one for one in wrong), said
    assert len(wrong) == 6 and said.endswith("6 in the way")
    assert "ok     pod-kill (zone=az-a)" in said
