"""What schedulers get: systemd's own verifier and Kubernetes' own models judge it."""

import os
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml

from aftershock.errors import InvalidInput
from aftershock.gameday.calendar import Calendar
from aftershock.gameday.plan_file import read_plan
from aftershock.gameday.render import Pod, cron, kubernetes, on_calendar, rendered

from .conftest import Site

CALENDAR = {
    "cron": "30 10 * * Mon-Thu",
    "time_zone": "Europe/Berlin",
    "missed": "catch up",
    "catch_up_within": "4h",
}
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is absent (package systemd)"
)


@pytest.fixture
def plan(site: Site) -> Path:
    (site.folder / "levels.yaml").write_text("target: tiny\n")
    return site.write(
        {},
        {"variables": {"zone": "levels.yaml"}},
        title="100% of $HOME, nightly",
        calendar=CALENDAR,
    )


@needs_systemd
def test_units_pass_systemds_own_verification(plan: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a folder, 50% full"
    shutil.copytree(plan.parent, odd)
    files = list(rendered(str(odd / "plan.yaml"), "systemd", str(tmp_path / "units")))
    assert [Path(one).suffix for one in files] == [".service", ".timer"]
    done = subprocess.run(
        ["systemd-analyze", "verify", *files], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Persistent=true" in Path(files[1]).read_text()


@needs_systemd
@pytest.mark.parametrize(
    ("line", "zone", "begin"),
    [
        ("30 2 * * *", "Europe/Berlin", "2026-03-24"),
        ("30 2 * * Sun", "Europe/Berlin", "2026-10-20"),
        ("0,30 2 * * *", "America/New_York", "2026-03-05"),
    ],
)
def test_systemd_reads_the_same_dates_where_the_clocks_change(
    line: str, zone: str, begin: str
) -> None:
    calendar, after = Calendar(line, ZoneInfo(zone)), datetime.fromisoformat(f"{begin}T00:00+00:00")
    ours = [at.astimezone(UTC) for at in islice(calendar.dates(after), 12)]
    assert theirs(on_calendar(calendar, after), after) == ours


@needs_systemd
@pytest.mark.parametrize(
    "line",
    ["30 10 * * Mon-Thu", "*/20 8-10 1,15 * *", "0 6 1-7 * Sun", "5 4 */2 2,8 0,7", "0 0 * * 7"],
)
def test_systemd_reads_the_same_dates(line: str) -> None:
    calendar = Calendar(line, ZoneInfo("Asia/Tokyo"))  # no change of the clocks in between
    begin = datetime(2026, 11, 1, tzinfo=UTC)
    ours = [at.astimezone(UTC) for at in islice(calendar.dates(begin), 12)]
    assert theirs(on_calendar(calendar, begin), begin) == ours


def theirs(events: list[str], after: datetime) -> list[datetime]:
    """The next twelve dates as systemd reads them."""
    found: set[datetime] = set()
    for event in events:
        words = ["systemd-analyze", "calendar", event, "--iterations=12"]
        done = subprocess.run(
            [*words, f"--base-time=@{after.timestamp():.0f}"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "TZ": "UTC"},
        )
        told = re.findall(r"(?:elapse|Iter. #\d+): \w+ (\S+ \S+) UTC", done.stdout)
        found |= {datetime.fromisoformat(f"{moment}+00:00") for moment in told}
    return sorted(found)[:12]


def test_a_cron_job_is_what_kubernetes_knows(plan: Path) -> None:
    pytest.importorskip("kubernetes")
    config, job = yaml.safe_load_all(kubernetes(read_plan(plan), Pod("registry/aftershock:1")))
    for document, kind in ((config, "V1ConfigMap"), (job, "V1CronJob")):
        assert unknown(document, kind) == []
    spec = job["spec"]
    assert (spec["schedule"], spec["timeZone"]) == ("30 10 * * Mon-Thu", "Europe/Berlin")
    assert spec["startingDeadlineSeconds"] == 4 * 3600
    (volume, _) = spec["jobTemplate"]["spec"]["template"]["spec"]["volumes"]
    mounted = {one["path"]: config["data"][one["key"]] for one in volume["configMap"]["items"]}
    assert set(mounted) == {"plan.yaml", "tiny-1.json", "tiny-2.json", "levels.yaml"}
    assert mounted["plan.yaml"] == plan.read_text()


def unknown(said: Any, kind: str) -> list[str]:
    """What Kubernetes' schema of a kind doesn't have, or lacks here, by the client's models."""
    from kubernetes.client import models

    for wrapper in ("list[", "dict(str, "):
        if kind.startswith(wrapper):
            inner = kind[len(wrapper) : -1]
            values = said if isinstance(said, list) else said.values()
            return [one for value in values for one in unknown(value, inner)]
    model = getattr(models, kind, None)
    if model is None:  # a plain type
        plain = {"str": str, "int": int, "bool": bool, "datetime": str}.get(kind, object)
        return [] if isinstance(said, plain) else [f"{said!r} is no {kind}"]
    names = {theirs: ours for ours, theirs in model.attribute_map.items()}
    found = [f"{kind}.{key}" for key in said if key not in names]
    try:
        model(**{names[key]: value for key, value in said.items() if key in names})
    except ValueError as error:  # of what is needed
        found.append(f"{kind}: {error}")
    for key, value in said.items():
        if key in names:
            found += unknown(value, model.openapi_types[names[key]])
    return found


def test_the_schema_that_judges_it_does_find_mistakes() -> None:
    wrong = {
        "kind": "CronJob",
        "spec": {"shedule": "x", "jobTemplate": {"spec": {"template": {}, "backoffLimit": "3"}}},
    }
    found = unknown(wrong, "V1CronJob")
    assert {"V1CronJobSpec.shedule", "'3' is no int"} < set(found)
    missing = [one for one in found if one.startswith("V1CronJobSpec: ")]
    assert "schedule" in str(missing), "each release of the client says it in its own words"


def test_crons_line_wakes_in_every_minute_that_a_date_has_in_utc(plan: Path) -> None:
    line = cron(read_plan(plan)).splitlines()[-1]
    assert line.startswith("30 * * * * cd ") and line.endswith("plan.yaml --scheduled")
    text = yaml.safe_load(plan.read_text())
    text["calendar"] |= {"time_zone": "Asia/Kathmandu"}  # 5:45 from UTC
    plan.write_text(yaml.safe_dump(text))
    assert cron(read_plan(plan)).splitlines()[-1].startswith("45 * * * * ")


def test_in_crons_line_no_percent_sign_ends_the_command(plan: Path, tmp_path: Path) -> None:
    """`make survival` has cron itself start such a line."""
    odd = tmp_path / "50% full"
    shutil.copytree(plan.parent, odd)
    line = cron(read_plan(odd / "plan.yaml")).splitlines()[-1]
    assert line.count("%") == line.count("\\%") == 2


def test_what_can_not_be_scheduled_is_refused(plan: Path, tmp_path: Path) -> None:
    def said(**change: Any) -> str:
        text = {**yaml.safe_load(plan.read_text()), **change}
        other = plan.with_name("other.yaml")
        other.write_text(yaml.safe_dump({k: v for k, v in text.items() if v is not None}))
        with pytest.raises(InvalidInput) as error:
            list(rendered(str(other), "kubernetes", image="x"))
        return str(error.value)

    assert "has no calendar: there is nothing to schedule" in said(calendar=None)
    assert "days would overlap" in said(calendar={**CALENDAR, "cron": "0,30 10 * * *"})
    outside = tmp_path.parent / f"{tmp_path.name}-outside.json"
    shutil.copy(plan.with_name("tiny-1.json"), outside)
    assert "is not below" in said(experiments=[{"file": f"../{outside.name}"}])
    (plan.parent / "levels.yaml").write_text("users:\n  - token: abc\n")
    assert "levels.yaml holds credentials" in said()
    target = "gateway_url: http://10.0.0.1\nmodel: m\n"
    for more, word in (
        ("kubernetes: {kubeconfig: mine, namespace: x, selector: app=m}\n", "names a kubeconfig"),
        ("ssh: {key: mine}\nhosts: [{name: a, zone: z, address: 10.0.0.2}]\n", "mine, which"),
        (
            "ssh: {jump: {address: gate, known_hosts: mine}}\n"
            "hosts: [{name: a, zone: z, address: 10.0.0.2}]\n",
            "mine, which",
        ),
    ):
        plan.with_name("target.yaml").write_text(target + more)
        plan.with_name("mine").write_text("")
        assert word in said(target="target.yaml")
    with pytest.raises(InvalidInput, match="--image"):
        list(rendered(str(plan), "kubernetes"))


def test_the_next_date_is_not_asked_of_the_past(plan: Path) -> None:
    calendar = read_plan(plan).calendar
    assert calendar
    now = datetime.now(UTC)
    assert next(iter(calendar.dates(now))) > now - timedelta(seconds=1)
