"""The service's token: from the environment or an experiment's secrets, sent, and told nowhere."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "load"))

from rig import Service

from aftershock.errors import InvalidInput
from aftershock.load.contact import NoService, first_contact
from aftershock.load.generator import Generator
from aftershock.load.profile import constant, load_profile
from aftershock.load.settings import LoadSettings, SentinelSettings
from aftershock.run.loading import headers_of
from aftershock.run.settings import Settings

TOKEN = "sk-of-the-secrets-5b1"
SECRETS = {"service": {"token": TOKEN}}


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service(modes=["told_back"])
    yield running
    running.stop()


def test_a_token_of_the_experiments_secrets_goes_with_every_request() -> None:
    assert headers_of(Settings(), constant(5), SECRETS) == {"Authorization": f"Bearer {TOKEN}"}
    for none in (None, {}, {"service": {}}, {"other": {"token": TOKEN}}, {"service": "x"}):
        assert headers_of(Settings(), constant(5), none) == {}


def test_a_variable_comes_before_it_and_other_headers_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "sk-of-the-environment")
    path = tmp_path / "p.yaml"
    path.write_text(
        "stages: [{kind: soak, rate_rps: 5, duration_s: 9}]\nrequests: {headers: {x-tenant: a}}\n"
    )
    found = headers_of(Settings(api_token_env="MY_TOKEN"), load_profile(str(path)), SECRETS)
    assert found == {"x-tenant": "a", "Authorization": "Bearer sk-of-the-environment"}


def test_a_token_that_can_be_no_header_is_refused_without_being_told() -> None:
    with pytest.raises(InvalidInput, match=r"service\.token is no single line") as raised:
        headers_of(Settings(), constant(5), {"service": {"token": f"{TOKEN}\nx"}})
    assert TOKEN not in str(raised.value)


def test_it_is_in_no_repr_no_log_no_command_line_and_no_refusal(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    headers = headers_of(Settings(), constant(5), SECRETS)
    load = LoadSettings(service.url, headers=headers)
    told = [repr(load), repr(SentinelSettings(service.url, headers=headers)), repr(constant(5))]
    told += Generator(load)._command()
    with caplog.at_level(logging.DEBUG), pytest.raises(NoService) as raised:
        first_contact(service.url, "plain-not", headers)  # which says back what it was told
    told += [str(raised.value), caplog.text]
    assert "HTTP 401" in told[-2] and "***" in told[-2]
    assert not [text for text in told if TOKEN in text]
    assert TOKEN in load.to_json() and TOKEN not in load.without_headers().to_json()


def test_a_run_against_a_service_that_refuses_it_writes_it_nowhere(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`chaos run` with `secrets`, against a target of one address that answers 401."""
    monkeypatch.setenv("THE_TOKEN", TOKEN)
    inventory = tmp_path / "target.yaml"
    inventory.write_text(
        f"target: elsewhere\ngateway_url: {service.url}\nmodel: any\n"
        "hosts: [{name: a1, zone: az-a, address: 127.0.0.1, via: local}]\n"
    )
    root = Path(__file__).parents[2]
    experiment: dict[str, Any] = json.loads((root / "experiments/load-cliff.json").read_text())
    experiment["secrets"] = {"service": {"token": {"type": "env", "key": "THE_TOKEN"}}}
    experiment["configuration"]["target"] = str(inventory)
    (tmp_path / "e.json").write_text(json.dumps(experiment))
    done = subprocess.run(
        [Path(sys.executable).with_name("chaos"), "--verbose", "run", tmp_path / "e.json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and "HTTP 401: it wants a token" in done.stdout, done.stdout
    written = [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 3
    assert not [text for text in (*written, done.stdout) if TOKEN in text]
