"""The errors a caller may want to tell apart; messages say what happened and the mend."""


class AftershockError(Exception):
    """The base of every error that Aftershock raises on purpose."""


class InvalidInput(AftershockError):
    """A setting, argument or file that makes no sense; nothing was touched."""


class InvalidFault(InvalidInput):
    """A fault whose parameters make no sense; no host was touched."""


class Unsupported(AftershockError):
    """The host cannot do this (kernel, device, package); the message says what would help."""


class NotApplied(AftershockError):
    """A fault could not be armed or fired; what was done is undone."""


class NotReverted(AftershockError):
    """Something of ours could not be taken back; the message names it and where."""


class HostUnreachable(AftershockError):
    """No agent could be started on a host, or its channel was lost."""
