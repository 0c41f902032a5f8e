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


@commands.command(short_help="What each host can do, and what mends the rest.")
@click.option("--inventory", metavar="FILE", help="Its hosts, instead of this machine.")
@click.option("--json", "as_json", is_flag=True, help="For machines: see aftershock/doctor.py.")
def doctor(inventory: str | None, as_json: bool) -> None:
    """Tell what each host can do, and the command that mends what it can't; change nothing. Of a
    cluster, tell which rights are missing, too.

    Exit status 0: every host can do what the network faults need; 1: some can't, or can't be
    reached.
    """
    import json
    from dataclasses import replace

    from aftershock import rights
    from aftershock.cluster.places import look_up
    from aftershock.doctor import examine, here
    from aftershock.inventory_file import read_inventory

    if inventory:
        target, cluster = look_up(read_inventory(inventory))
        report = examine(target.nodes, target.witness)
        if cluster is not None:
            report = replace(report, api=tuple(rights.examine(cluster, target)))
            cluster.close()
    else:
        report = examine([here()])
    _say([json.dumps(report.to_dict(), indent=2)] if as_json else report.lines())
    if not report.ready:
        raise SystemExit(1)


@commands.command(short_help="A run's report anew, in every form, from its folder.")
@click.argument("run", default="latest")
@click.option("--journal", metavar="FOLDER", help="Instead of AFTERSHOCK_JOURNAL or ./journal.")
@click.option("--open", "show", is_flag=True, help="Show report.html in the browser.")
def report(run: str, journal: str | None, show: bool) -> None:
    """Write report.html, report.md, junit.xml and verdict.prom of RUN anew, from its folder;
    with them its timeline as a picture for chats and documents: timeline.svg, timeline.png.

    RUN is a folder, or the name of one in the journal; the newest run if not given.
    """
    from aftershock.history import commands as history

    _say(history.render_anew(run, journal, show))


@commands.command(short_help="Recovery times over many runs, and what may be claimed of them.")
@click.option("--journal", metavar="FOLDER", help="Instead of AFTERSHOCK_JOURNAL or ./journal.")
@click.option("--experiment", metavar="NAME", help="Only this experiment's runs.")
@click.option("--target", metavar="NAME", help="Only runs against this target, such as lab.")
@click.option("--since", metavar="WHEN", help="Only runs begun since: 7d, 2026-11-01, an ISO time.")
@click.option("--require", metavar="TIME", help="Exit 1 unless recovery within it may be claimed.")
@click.option("--share", default=0.95, show_default=True, help="Of recoveries that must be within.")
@click.option("--confidence", default=0.95, show_default=True, help="Of the claim, and intervals.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@click.option(
    "--html", is_flag=False, flag_value="", metavar="[FILE]", help="Also a page; JOURNAL/rto.html."
)
def rto(as_json: bool, html: str | None, **asked: Any) -> None:
    """Read the journal: each run's RTO, distribution, trend, worst, and the share within the
    objective with its exact interval; how many clean runs a claim still needs; what was changed
    where it got worse. INCONCLUSIVE runs are counted apart, never as passes.

    Exit status with --require: 0 if of every experiment shown the claim holds that --share of
    recoveries take no longer, with --confidence; 1 otherwise. Without: 0.
    """
    from aftershock.history import commands as history

    found = history.look(**asked)
    for line in found.left_out:
        click.echo(line, err=True)
    _say([found.as_json()] if as_json else found.lines())
    if html is not None:
        click.echo(found.write_page(html), err=as_json)
    if not found.holds:
        raise SystemExit(1)


@commands.group(short_help="The runs that were kept.")
def journal() -> None:
    """The journal: a folder for each run."""


@journal.command("prune", short_help="Let old runs go, as retention says.")
@click.option("--journal", metavar="FOLDER", help="Instead of AFTERSHOCK_JOURNAL or ./journal.")
@click.option("--keep-last", type=int, metavar="N", help="Keep the newest N of each experiment.")
@click.option("--keep-for", metavar="TIME", help="Keep what is younger: 90d, 12w.")
@click.option("--failed", is_flag=True, help="Also runs that are FAIL or INCONCLUSIVE.")
@click.option("--thin", is_flag=True, help="Only timeline and logs: `rto` counts the run on.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def journal_prune(
    journal: str | None,
    keep_last: int | None,
    keep_for: str | None,
    failed: bool,
    thin: bool,
    dry_run: bool,
) -> None:
    """Remove the folders of runs that neither --keep-last nor --keep-for keeps.

    The last run of each experiment and target always stays, and so does what did not pass unless
    --failed is given, and every folder that can't be read as a run.
    """
    from aftershock.history import commands as history

    _say(history.prune(journal, keep_last, keep_for, failed, thin, dry_run))


@commands.group(short_help="Several experiments by a plan, with gates and a calendar.")
def gameday() -> None:
    """Game days: several experiments by a plan (docs/gamedays.md)."""


@gameday.command("check", short_help="All that can be known before the day.")
@click.argument("plan")
def gameday_check(plan: str) -> None:
    """Read PLAN, try its experiments dry, look at their targets' hosts, and tell the next dates.

    Nothing is touched, and no gate is asked. Exit status 0: nothing stands in the way.
    """
    from aftershock.gameday.check import check

    found = check(plan)
    _say(found.lines())
    if not found.ready:
        raise SystemExit(1)


@gameday.command("run", short_help="Hold the day.")
@click.argument("plan")
@click.option("--now", is_flag=True, help="Whatever the calendar says.")
@click.option(
    "--only", multiple=True, metavar="NAME", help="Only this experiment; may be repeated."
)
@click.option("--seed", type=int, help="Draw as a day with this seed did.")
@click.option("--anew", is_flag=True, help="Don't go on with a day that was cut off.")
@click.option("--scheduled", is_flag=True, help="As a scheduler calls: 0 if no date is due.")
def gameday_run(plan: str, **wish: Any) -> None:
    """Hold the day of PLAN: at once if it has no calendar, otherwise if a date is due.

    A day whose process died is gone on with where it was. Exit status 0: every run passed.
    """
    from aftershock.gameday.commands import Wish, hold

    if not hold(plan, Wish(**wish)):
        raise SystemExit(1)


@gameday.command("rehearse", short_help="Hold the day on the lab.")
@click.argument("plan")
@click.option(
    "--only", multiple=True, metavar="NAME", help="Only this experiment; may be repeated."
)
@click.option("--seed", type=int, help="Draw as a day with this seed did.")
def gameday_rehearse(plan: str, **wish: Any) -> None:
    """Hold the day of PLAN on the lab, without gates, pauses, confirmations and news."""
    from aftershock.gameday.commands import REHEARSAL, Wish, hold

    if not hold(plan, Wish(kind=REHEARSAL, **wish)):
        raise SystemExit(1)


@gameday.command("selftest", short_help="Kill the controllers in mid-fault, on the lab.")
@click.argument("plan")
def gameday_selftest(plan: str) -> None:
    """Rehearse PLAN's experiments until one has a fault that lasts, kill the day and its run with
    SIGKILL while it is on, and see that all healed. Exit status 0: it did.
    """
    from aftershock.gameday.selftest import selftest

    found = selftest(plan)
    _say(found.lines())
    if not found.passed:
        raise SystemExit(1)


@gameday.command("status", short_help="Days that go on, and the last ones.")
@click.argument("plan", required=False)
def gameday_status(plan: str | None) -> None:
    """What goes on, and what became of the last days; with PLAN also its next dates."""
    from aftershock.gameday import commands as days

    _say(days.status(plan))


@gameday.command("abort", short_help="End a day at once, healed.")
@click.argument("day", required=False)
@click.option("--why", default="", help="For the record.")
def gameday_abort(day: str | None, why: str) -> None:
    """End the day that goes on: the current run is healed at once. Only those may whom the plan
    names in may_abort, and whoever holds the day.

    DAY is its folder's name or its plan's path; not needed if one day goes on. From another host
    name the plan: its target must be a cluster.
    """
    from aftershock.gameday import commands as days

    _say(days.order("abort", day, why))


@gameday.command("confirm", short_help="Answer a day that asks.")
@click.argument("day", required=False)
@click.option("--no", "no", is_flag=True, help="Say no.")
@click.option("--why", default="", help="For the record.")
def gameday_confirm(day: str | None, no: bool, why: str) -> None:
    """Say yes, or --no, to what the day asks; only those may whom the plan names in may_confirm."""
    from aftershock.gameday import commands as days

    _say(days.order("decline" if no else "confirm", day, why))


@gameday.command("render", short_help="The plan for a scheduler.")
@click.argument("plan")
@click.option("--to", type=click.Choice(["kubernetes", "systemd", "cron"]), required=True)
@click.option("--out", metavar="FOLDER", help="Write files there, instead of to the terminal.")
@click.option("--image", help="kubernetes: has aftershock in it (deploy/Dockerfile).")
@click.option("--namespace", default="aftershock", show_default=True, help="kubernetes.")
@click.option("--account", default="controller", show_default=True, help="kubernetes: of the pod.")
@click.option("--claim", default="", help="kubernetes: a volume claim that keeps the records.")
def gameday_render(plan: str, to: str, out: str | None, **pod: Any) -> None:
    """Manifests, units or a line that hold the day of PLAN on its dates."""
    from aftershock.gameday import render

    _say(render.rendered(plan, to, out, **pod))


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
