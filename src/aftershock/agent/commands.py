"""A step that is somebody's own commands: apply, undo and check, under our lease.

`undo` must be harmless when there is nothing to undo: a healer that comes after a crash can't know
how far `apply` got. It is not run when `apply` was never begun. `check` exits with 0 while the
effect is there and with 1 while it isn't.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

from .classifier import check_options
from .errors import AgentError, Invalid, NotUndone
from .programs import at_home, ends_with_us

_OPTIONS = ("apply", "undo", "check", "timeout_s")
_LONGEST_S = 600.0
_LAST_WORDS = 500


class Outcome(NamedTuple):
    """How a command ended; `status` is None when its time was over."""

    status: Optional[int]
    said: str

    def tell(self, timeout_s: float) -> str:
        """In words."""
        how = f"took longer than {timeout_s:g} s" if self.status is None else f"ended {self.status}"
        return f"{how}: {self.said}" if self.said else f"{how} and said nothing"


class Command:
    """Commands that apply and undo."""

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        check_options(options, _OPTIONS)
        for name in ("apply", "undo", "check"):
            _check_words(name, options[name])
        if not 0 < options["timeout_s"] <= _LONGEST_S:
            raise Invalid(f"timeout_s {options['timeout_s']}: more than 0, at most {_LONGEST_S:g}")
        self.kind = "command"
        self.outlives = self.rash = True
        self.about: Dict[str, Any] = {"apply": list(options["apply"])}
        self._apply, self._undo = options["apply"], options["undo"]
        self._check: Optional[Sequence[str]] = options["check"]
        self._timeout_s: float = options["timeout_s"]
        self._fired = self._touched = False
        self._trouble = ""
        self._injection = injection

    def intent(self) -> Dict[str, Any]:
        """What undoes it from outside."""
        return {"undo": list(self._undo), "timeout_s": self._timeout_s}

    def attach(self) -> Dict[str, Any]:
        """Nothing is run but the check, which must not see the effect yet."""
        if self._check:
            outcome = self._run(self._check)
            if outcome.status == 0:
                raise AgentError(
                    f"check {_line(self._check)}: the effect is there already, before the fault: "
                    "undo it first, or correct the check"
                )
            if outcome.status != 1:
                raise AgentError(
                    f"check {_line(self._check)} {outcome.tell(self._timeout_s)}: "
                    "it should exit with 0 while the effect is there, and with 1 while it isn't"
                )
        return {"owned": [], "undo": self.intent()}

    def fire(self, until: float) -> None:
        """Run `apply`; what fails is to be undone."""
        self._fired = self._touched = True
        outcome = self._run(self._apply, bound=True)
        if outcome.status != 0:
            raise AgentError(f"apply {_line(self._apply)} {outcome.tell(self._timeout_s)}")

    def tick(self) -> None:
        """Nothing comes due."""

    def shut(self) -> None:
        """Run `undo`, once; what goes wrong is told when it is looked after."""
        if not self._fired:
            return
        outcome = self._run(self._undo)
        self._fired = outcome.status != 0
        self._trouble = f"undo {_line(self._undo)} {outcome.tell(self._timeout_s)}"

    def observe(self) -> Dict[str, Any]:
        """What the check says."""
        seen: Dict[str, Any] = {"kind": self.kind, "counts": {}, "ok": None, "said": "no check"}
        if self._check:
            outcome = self._run(self._check)
            seen.update(ok=outcome.status == 0, said=outcome.tell(self._timeout_s))
        return seen

    def detach(self) -> List[str]:
        """The effect must be gone."""
        if not self._touched:
            return []
        if self._fired:
            self.shut()
        if self._fired:
            raise NotUndone(self._trouble)
        if self._check and self._run(self._check).status == 0:
            raise NotUndone(f"check {_line(self._check)} still sees the effect after the undo")
        return []

    def close(self) -> None:
        """There is nothing held."""

    def _run(self, words: Sequence[str], bound: bool = False) -> Outcome:
        return run(words, self._timeout_s, bound)


def undo(intent: Mapping[str, Any]) -> List[str]:
    """Run the undo that a `Command` recorded, from any process there."""
    outcome = run(intent["undo"], intent["timeout_s"])
    if outcome.status != 0:
        raise NotUndone(f"undo {_line(intent['undo'])} {outcome.tell(intent['timeout_s'])}")
    return []


def run(words: Sequence[str], timeout_s: float, bound: bool = False) -> Outcome:
    """Run a command in a session of its own, and end all of it when its time is over.

    `bound`: it ends when this process does, so that nothing is applied after its undo.
    """
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                [*(ends_with_us() if bound else ()), *at_home(), *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return Outcome(127, f"{error.strerror}: {words[0]}")
        try:
            status: Optional[int] = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = None
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - _LAST_WORDS))
        said = output.read().decode(errors="replace").strip()
    return Outcome(status, said.splitlines()[-1] if said else "")


def _check_words(name: str, words: Any) -> None:
    if name == "check" and words is None:
        return
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        raise Invalid(f"command: {name} {words!r}: a list of words, the program first")


def _line(words: Sequence[str]) -> str:
    text = " ".join(words)
    return text if len(text) <= 80 else f"{text[:77]}…"
