"""What an agent answers when it cannot do what was asked; `kind` picks the controller's error."""

from __future__ import annotations


class AgentError(Exception):
    """A refusal or failure with its mend; `kind` names a subclass of the controller's errors."""

    kind = "not_applied"


class Invalid(AgentError):
    """A request that makes no sense: an unknown operation, option or injection."""

    kind = "invalid"


class CannotDo(AgentError):
    """This host lacks what the request needs."""

    kind = "unsupported"


class NotUndone(AgentError):
    """Something of ours could not be taken back."""

    kind = "not_reverted"
