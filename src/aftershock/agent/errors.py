"""What an agent answers when it cannot do what was asked; `kind` picks the controller's error."""

from __future__ import annotations

import contextlib
import sys


class AgentError(Exception):
    """A refusal or failure with its mend; `kind` names a subclass of the controller's errors."""

    kind = "not_applied"


class Invalid(AgentError):
    """A request that makes no sense: an unknown operation, option or injection."""

    kind = "invalid"


class CannotDo(AgentError):
    """This host lacks what the request needs."""

    kind = "unsupported"


class Over(AgentError):
    """A fault came to its end by itself, before it was ordered to."""


class NotUndone(AgentError):
    """Something of ours could not be taken back."""

    kind = "not_reverted"


def complain(what: str) -> None:
    """Say it to whoever reads our standard error, if anybody still does."""
    with contextlib.suppress(OSError):
        print(f"aftershock agent: {what}", file=sys.stderr, flush=True)
