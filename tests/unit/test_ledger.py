"""The ledger: what is on disk, after whatever end."""

import json
import os
from pathlib import Path

import pytest

from aftershock.errors import InvalidInput, NotReverted
from aftershock.ledger import Ledger, read, runs, state_dir, take_back, undoes
from aftershock.recover import recover


@pytest.fixture(autouse=True)
def _kinds() -> None:
    undoes("a-kind")(lambda undo: f"took {undo['what']} back")


def test_the_state_lies_where_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AFTERSHOCK_STATE", str(tmp_path / "x"))
    assert state_dir() == tmp_path / "x"
    monkeypatch.delenv("AFTERSHOCK_STATE")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert state_dir() == Path("/var/lib/aftershock")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert state_dir() == tmp_path / "xdg" / "aftershock"


def test_an_entry_is_open_until_it_is_undone() -> None:
    book = Ledger.open("one")
    entry = book.intend_undo("a-kind", {"what": "it"})
    (run,) = runs()
    assert run.is_open() and run.is_going_on() and run.undos[entry]["undo"] == {"what": "it"}
    book.undone(entry)
    assert not read(book.path).is_open()
    book.close()
    assert not book.path.exists()


def test_a_line_cut_off_by_a_crash_is_no_event() -> None:
    book = Ledger.open("crashed")
    book.intend_undo("a-kind", {"what": "it"})
    with book.path.open("a") as file:
        file.write('{"event": "undone", "entr')
    assert read(book.path).is_open()
    book.close()
    assert book.path.exists(), "what is open outlives the run"


def test_events_carry_their_time_and_are_json() -> None:
    book = Ledger.open("told")
    book.note("fired", injection="x")
    lines = [json.loads(line) for line in book.path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["begun", "fired"]
    assert all(line["at"].endswith("+00:00") for line in lines)
    book.close()


def test_nonsense_is_refused() -> None:
    with pytest.raises(InvalidInput, match="run id"):
        Ledger.open("../escape")
    book = Ledger.open("fine")
    with pytest.raises(InvalidInput, match="no undo is registered"):
        book.intend_undo("unheard-of", {})
    book.close()
    with pytest.raises(NotReverted, match="by hand"):
        take_back("unheard-of", "os", {})


def test_a_state_folder_that_cannot_be_written_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("AFTERSHOCK_STATE", str(tmp_path / "file"))
    with pytest.raises(InvalidInput, match="writable AFTERSHOCK_STATE"):
        Ledger.open("one")


def test_recover_without_anything_says_so() -> None:
    assert "Nothing was left behind" in recover().lines()[0]
