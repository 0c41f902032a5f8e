"""An agent over SSH: one exchange starts it, a second one brings it where it is missing.

The starter (see `hosts/starting.py`) is sent with the command.
"""

from __future__ import annotations

import contextlib
import shlex
from typing import Any

from aftershock.errors import HostUnreachable
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.connection import CUT, Connection, connect
from aftershock.hosts.starting import Lines, agent, program, settle, source
from aftershock.inventory import Node, Ssh

_COMPLAINT_BYTES = 4096
_STATUS_S = 1.0

# As root already, or by sudo without a password. sudo drops SSH_CONNECTION, which tells the agent
# whom it must not cut off.
_BECOME = """
if [ "$(id -u)" = 0 ] || [ "$1" = stay ]; then shift
elif command -v sudo >/dev/null; then shift; set -- sudo -n -- "$@"
else echo "aftershock-agent lacks sudo"; exit 1; fi
exec "$@"
"""
_ENTER = """
netns=$1 python=$2
if [ "$netns" ]; then
  [ -e "$netns" ] || { echo "aftershock-agent gone"; exit 1; }
  command -v nsenter >/dev/null || { echo "aftershock-agent lacks nsenter"; exit 1; }
fi
command -v "$python" >/dev/null || { echo "aftershock-agent lacks python"; exit 1; }
shift
if [ "$netns" ]; then exec nsenter --net="$netns" -- "$@"; fi
exec "$@"
"""
_RUN = "import os; exec(os.environ.pop('AFTERSHOCK_STARTER'))"  # a long text has no place in `ps`


class SshHost:
    """Starts an agent on a host that is reached by SSH."""

    def __init__(self, node: Node) -> None:
        assert node.ssh
        self.node = node
        self.ssh: Ssh = node.ssh

    def start(self) -> AgentChannel:
        """A running agent; HostUnreachable or Unsupported name the host and the mend."""
        content, digest = agent()
        connection = connect(self.node.name, self.ssh)
        try:
            command = self._command(digest, len(content))
            streams = _Streams(self.node.name, connection, command, self.ssh.timeout_s)
            settle(streams, content, self.node, self.ssh.python, self.ssh.timeout_s)
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError):
                raise HostUnreachable(f"{self.node.name}: starting the agent: {error}") from error
            raise
        return AgentChannel(self.node.name, streams)

    def _command(self, digest: str, size: int) -> str:
        """One line for whatever shell the user has there."""
        ssh, node = self.ssh, self.node
        starter = [ssh.python, "-I", "-S", "-c", _RUN, node.name, digest, str(size)]
        enter = ["sh", "-c", _ENTER, "sh", node.namespace or "", *starter]
        text = program(node, {}).decode() if node.pod else source("starter")
        told = {**node.env, "AFTERSHOCK_STARTER": text}
        env = ["env", *(f"{name}={value}" for name, value in told.items())]
        words = ["sh", "-c", _BECOME, "sh", "become" if ssh.sudo else "stay"]
        controller = 'AFTERSHOCK_CONTROLLER="$SSH_CONNECTION"'
        return f"exec {shlex.join([*words, *env])} {controller} {shlex.join(enter)}"


class _Requests:
    """What the agent reads."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def write(self, line: bytes) -> None:
        try:
            self._channel.sendall(line)
        except CUT as error:
            raise OSError(f"not sent: {error}") from error

    def flush(self) -> None:
        """Nothing is kept back."""

    def close(self) -> None:
        """The agent sees the end of its standard input."""
        with contextlib.suppress(*CUT):
            self._channel.shutdown_write()


class _Streams(Lines):
    """The streams of a command on a host; `Transport` of an agent's channel."""

    pid = 0  # it isn't a process of this machine

    def __init__(self, name: str, connection: Connection, command: str, within_s: float) -> None:
        super().__init__(name)
        self._connection = connection
        self._channel = connection.run(name, command, within_s)
        self._said = b""
        self.requests = _Requests(self._channel)

    def send(self, content: bytes, within_s: float) -> None:
        """Send much at once; OSError where it isn't taken in time."""
        self._channel.settimeout(within_s)
        self.requests.write(content)
        self._channel.settimeout(None)

    def more(self, within_s: float | None = None) -> bool:
        """Whether more came; waits for it."""
        self._channel.settimeout(within_s)
        chunk = b""
        # To read sends a word as well (there is room again), which fails where the line is cut.
        with contextlib.suppress(*CUT):
            chunk = self._channel.recv(1 << 16)
        self._channel.settimeout(None)
        self._rest += chunk
        self._drain()
        return bool(chunk)

    def _drain(self) -> None:
        """What nobody reads would fill the channel's window."""
        with contextlib.suppress(*CUT):
            while self._channel.recv_stderr_ready():
                self._said = (self._said + self._channel.recv_stderr(1 << 16))[-_COMPLAINT_BYTES:]

    def silent(self) -> HostUnreachable:
        """Why the agent's starter was not heard."""
        if not self._channel.eof_received:
            return HostUnreachable(
                f"{self.name}: it let us in, but started no agent in time: is it overloaded?"
            )
        said = self.complaint().strip().splitlines()
        self._channel.status_event.wait(_STATUS_S)
        last = said[-1] if said else f"exit status {self._channel.exit_status}"
        if last.startswith("sudo:"):
            return HostUnreachable(
                f"{self.name}: `sudo -n` refuses ({last[5:].strip()}): let the user run sudo "
                "without a password (NOPASSWD), or log in as root"
            )
        return HostUnreachable(
            f"{self.name}: the agent did not start ({last}): can the user run commands there?"
        )

    def complaint(self) -> str:
        """The last it said on its standard error."""
        self._drain()
        return self._said.decode(errors="replace")

    def end(self, patience_s: float) -> None:
        """Wait; an agent that holds a deadline-only fault is left to it."""
        self._ended.wait(patience_s)
        self._connection.close()
