"""`aftershock`: the commands beside `chaos run`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click

from aftershock import __version__
from aftershock.errors import AftershockError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="aftershock")
def commands() -> None:
    """Chaos engineering for AI inference services. Experiments run with `chaos run`."""


@commands.group(short_help="A small world on this machine to try things in.")
def lab() -> None:
    """A small world on this machine: zones, gateway, model servers, Kubernetes, GPUs."""


@lab.command("up")
@click.option("--port", default=18080, show_default=True, help="The gateway's port on 127.0.0.1.")
@click.option("--seed", default=7, show_default=True, help="What all chance comes from.")
@click.option(
    "--gateway",
    type=click.Choice(["resilient", "naive"]),
    default="resilient",
    show_default=True,
    help="naive: without health checks or retries.",
)
def lab_up(port: int, seed: int, gateway: str) -> None:
    """Build the lab and leave it running to play with."""
    from aftershock.lab import commands as lab_commands
    from aftershock.lab.settings import LabSettings

    _say(lab_commands.lab_up(LabSettings(gateway_port=port, seed=seed, gateway=gateway)))


@lab.command("status")
def lab_status() -> None:
    """What runs in the lab."""
    from aftershock.lab import commands as lab_commands

    _say(lab_commands.lab_status())


@lab.command("down")
@click.option("--port", type=int, help="Only the lab whose gateway is on this port.")
def lab_down(port: int | None) -> None:
    """Take down every lab that `lab up` left running; nothing of it stays."""
    from aftershock.lab import commands as lab_commands

    _say(lab_commands.lab_down(port))


@commands.command()
@click.option("--force", is_flag=True, help="Also heal runs that are still going on.")
def recover(force: bool) -> None:
    """Heal what an earlier run left behind, and say what was found."""
    from aftershock.recover import recover as heal

    found = heal(force=force)
    _say(found.lines())
    if not found.healed:
        raise SystemExit(1)


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def main(arguments: list[str] | None = None) -> Any:
    """The console script; what goes wrong on purpose is one sentence and exit status 1."""
    return _plainly(lambda: commands.main(arguments, prog_name="aftershock"))


def _plainly(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except AftershockError as error:
        click.echo(f"aftershock: {error}", err=True)
        raise SystemExit(1) from None
