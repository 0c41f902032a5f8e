"""Gates ask real commands, servers and clusters; what can't be asked is a no."""

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from aftershock.gameday import news
from aftershock.gameday.asking import World, ask
from aftershock.gameday.news import News
from aftershock.gameday.plan import Notification, Question
from aftershock.lock import HostLock

from .conftest import until


class Server(http.server.BaseHTTPRequestHandler):
    """Incidents by GET; by POST it fails as often as it is told, then takes the news."""

    heard: ClassVar[list[dict[str, Any]]] = []
    refusals = 0

    def do_GET(self) -> None:
        if self.path == "/token" and self.headers.get("Authorization") != "Bearer s3cret":
            self._answer(401, "who are you?")
        elif self.path == "/down":
            self._answer(503, "down")
        else:
            self._answer(200, json.dumps({"open": [{"id": 1}], "state": "calm"}))

    def do_POST(self) -> None:
        said = self.rfile.read(int(self.headers["Content-Length"]))
        if Server.refusals:
            Server.refusals -= 1
            self._answer(500, "try again")
        else:
            Server.heard.append(json.loads(said))
            self._answer(200, "ok")

    def _answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    Server.heard, Server.refusals = [], 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("question", "go", "value"),
    [
        ({"command": "true"}, True, "exit status 0"),
        ({"command": "echo all quiet"}, True, "all quiet"),
        (
            {"command": "echo an incident is open; false"},
            False,
            "an incident is open, exit status 1",
        ),
        ({"command": "echo budget: 0.31", "at_least": 0.2}, True, "budget: 0.31"),
        ({"command": "echo budget: 0.11", "at_least": 0.2}, False, "budget: 0.11, below 0.2"),
        ({"command": "echo 5", "at_most": 4}, False, "5, above 4"),
        (
            {"command": "echo none", "at_most": 4},
            False,
            "could not be asked: no number in its answer",
        ),
        ({"command": "echo red", "equals": "green"}, False, "red, not 'green'"),
        ({"command": "echo ${zone}", "equals": "az-b"}, True, "az-b"),
        (
            {"command": "sleep 30 & wait", "timeout_s": 0.2},
            False,
            "could not be asked: no answer in",
        ),
        ({"command": "cat plan.txt"}, True, "in the plan's folder"),
        ({"url": "/"}, True, "HTTP 200"),
        ({"url": "/down"}, False, "HTTP 503"),
        ({"url": "/", "json": "open", "at_most": 0}, False, "1, above 0"),
        ({"url": "/", "json": "state", "equals": "calm"}, True, "calm"),
        ({"url": "/", "json": "open.0.id", "equals": "1"}, True, "1"),
        ({"url": "/", "json": "opne"}, False, "could not be asked: its answer has no 'opne'"),
        ({"url": "/", "contains": "calm"}, True, "{"),
        ({"url": "/token"}, False, "HTTP 401"),
        ({"url": "/token", "token_env": "TOKEN"}, True, "HTTP 200"),
        ({"url": "/token", "token_env": "TOKNE"}, False, "could not be asked: the variable TOKNE"),
        (
            {"url": "http://127.0.0.1:9/secret-path"},
            False,
            "could not be asked: 127.0.0.1:9: refused",
        ),
        ({"ready_outside": "az-a", "at_least": 4}, True, "the lab begins with all"),
    ],
)
def test_an_answer(
    question: dict[str, Any],
    go: bool,
    value: str,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN", "s3cret")
    (tmp_path / "plan.txt").write_text("in the plan's folder")
    if question.get("url", "").startswith("/"):
        question = {**question, "url": url + question["url"]}
    answer = ask(Question("it", **question), World(tmp_path, {"zone": "az-b", "target": "lab"}))
    assert (answer.go, answer.value[: len(value)]) == (go, value), answer
    assert answer.asked is not value.startswith("could not")
    assert "secret" not in answer.value


def test_another_run_in_progress_is_a_no_and_our_own_is_none(tmp_path: Path) -> None:
    mine, other = HostLock("shop", "this day"), HostLock("elsewhere", "the run 'other'")
    mine.acquire()
    world = World(tmp_path, {}, mine.token)
    assert ask(Question("alone", alone=True), world).go
    other.acquire()
    answer = ask(Question("alone", alone=True), world)
    assert not answer.go and "the run 'other' (process" in answer.value
    other.release()
    mine.release()


def told(places: list[Notification], folder: Path) -> list[tuple[str, bool, int, str]]:
    reports: list[tuple[str, bool, int, str]] = []

    def report(name: str, text: str, there: bool, tries: int, why: str) -> None:
        del text
        reports.append((name, there, tries, why))

    sender = News(places, folder, report, waits_s=(0.05, 0.05))
    sender.tell("*Autumn*: begins")
    sender.close()
    return reports


def test_news_are_tried_again_and_told_as_slack_wants_them(url: str, tmp_path: Path) -> None:
    Server.refusals = 2
    reports = told([Notification(webhook=f"{url}/services/T0/secret")], tmp_path)
    assert reports == [("webhook 127.0.0.1", True, 3, "")]
    assert Server.heard == [{"text": "*Autumn*: begins"}]


def test_a_place_that_hangs_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "TIMEOUT_S", 1.0)
    reports: list[tuple[str, str, bool]] = []

    def report(name: str, text: str, there: bool, tries: int, why: str) -> None:
        del tries, why
        reports.append((name, text, there))

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
        places = [Notification(webhook=url), Notification(command="cat >> heard")]
        sender = News(places, tmp_path, report, waits_s=(5.0,), last_s=3.0)
        for text in ("begins", "ends"):
            sender.tell(text)
        until((tmp_path / "heard").exists)
        sender.close()
    assert (tmp_path / "heard").read_text() == "begins\nends\n"
    assert sorted(reports) == [
        ("cat >> heard", "begins", True), ("cat >> heard", "ends", True),
        ("webhook 127.0.0.1", "begins", False), ("webhook 127.0.0.1", "ends", False),
    ]  # fmt: skip


def test_news_that_get_nowhere_are_reported_without_their_secret(tmp_path: Path) -> None:
    places = [
        Notification(webhook="http://127.0.0.1:9/services/secret"),
        Notification(webhook_env="NOT_SET_HERE"),
        Notification(command="cat > heard; echo no such pager >&2; exit 7"),
        Notification(command="cat > heard"),
    ]
    reports = {name: rest for name, *rest in told(places, tmp_path)}
    down, unset, failing, sound = (reports[place.name] for place in places)
    assert [(there, tries) for there, tries, _ in (down, unset, failing)] == [(False, 3)] * 3
    assert sound == [True, 1, ""]
    assert "secret" not in str(reports) and "refused" in down[2]
    assert unset[2] == "the variable NOT_SET_HERE is not set"
    assert failing[2] == "exit status 7: no such pager"
    until(lambda: (tmp_path / "heard").read_text() == "*Autumn*: begins\n")
