"""The whole thing without Kubernetes: a URL, hosts reached by SSH, and nothing else."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from aftershock.hosts.fleet import Fleet
from aftershock.inventory_file import read_inventory
from tests.agent.wires import World, arrives, inside, wait_for, world
from tests.load.rig import Service
from tests.runs.conftest import ROOT, Outcome, command

from .sshds import PATHS, sshd, tool

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

ZONES = {"a": "az-a", "b": "az-b", "c": "az-c"}
_GATEWAY = """
defaults
  mode http
  option http-server-close
  option redispatch 1
  option httpchk GET /health
  retries 3
  retry-on conn-failure empty-response 503
  timeout connect 300ms
  timeout client 60s
  timeout server 60s
  timeout check 500ms
listen gateway
  bind {bind}:8080
  balance roundrobin
  default-server check inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions
"""


@dataclass
class Site:
    """Three zones of one host each, a gateway, and where we stand."""

    wires: World
    inventory: Path
    env: dict[str, str]

    def run(
        self, tmp_path: Path, experiment: str | Path = "az-failure.json", **variables: object
    ) -> Outcome:
        """`chaos run` from the controller's place."""
        told = {"target": self.inventory, "levels": "hosts", **variables}
        enter = [tool("nsenter"), f"--net={self.wires['w'].netns}"]
        done = subprocess.run(
            [*enter, *command(experiment, told)],
            cwd=tmp_path,
            env={**os.environ, **self.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
            check=False,
        )
        latest = Path(os.environ["AFTERSHOCK_JOURNAL"]) / "latest"
        return Outcome(done.returncode, done.stdout, latest.resolve() if latest.exists() else None)


@pytest.fixture
def site(tmp_path: Path, far_env: dict[str, str]) -> Iterator[Site]:
    """A host a zone, each with its own sshd and a model server, and HAProxy outside of them."""
    haproxy = shutil.which("haproxy", path=PATHS)
    assert haproxy, "`make demo` installs haproxy"
    with ExitStack() as stack:
        wires = stack.enter_context(world("abcew"))
        hosts, servers = [], []
        for name, zone in ZONES.items():
            node = wires[name]
            address, netns = node.addresses[0], str(node.netns)
            there = stack.enter_context(
                sshd(tmp_path / f"sshd-{name}", address, port=22, netns=netns)
            )
            service = Service("nsenter", f"--net={netns}", host=address, port=8000, seed=7)
            stack.callback(service.stop)
            way = there.way()
            env = "\n".join(f"      {k}: '{v}'" for k, v in far_env.items())
            hosts.append(
                f"  - name: {node.name}\n    zone: {zone}\n    address: {address}\n"
                f"    key: {way.key}\n    known_hosts: {way.known_hosts}\n    env:\n{env}\n"
            )
            servers.append(f"  server {node.name} {address}:8000\n")
        edge = wires["e"].addresses[0]
        config = tmp_path / "haproxy.cfg"
        config.write_text(_GATEWAY.format(bind=edge) + "".join(servers))
        words = ["nsenter", f"--net={wires['e'].netns}", haproxy, "-db", "-f", str(config)]
        gateway = stack.enter_context(subprocess.Popen(words, stderr=subprocess.DEVNULL))
        stack.callback(gateway.kill)
        inventory = tmp_path / "inventory.yaml"
        inventory.write_text(
            f"target: site\ngateway_url: http://{edge}:8080\nmodel: m\n"
            f"ssh:\n  user: root\n  python: {way.python}\nhosts:\n{''.join(hosts)}"
        )
        yield Site(wires, inventory, {})


def test_a_zone_is_lost_and_the_service_comes_back(site: Site, tmp_path: Path) -> None:
    outcome = site.run(tmp_path)
    if outcome.folder and outcome.codes == {"off_schedule"}:  # this machine was too busy to measure
        outcome = site.run(tmp_path)
    assert outcome.status == 0, outcome.printed
    verdict = outcome.verdict
    assert verdict["verdict"] == "PASS", outcome.reasons
    assert verdict["target"] == "site"
    assert 0 < verdict["service_rto_s"] < 15
    (partition,) = verdict["injections"]
    assert partition["hosts"] == ["node-a"] and partition["bit"] and partition["clean"]
    print(outcome.printed)
    assert arrives(site.wires["w"], site.wires["a"])


@pytest.mark.parametrize("at_least", [0, 1])
def test_a_site_that_another_controller_has_is_left_alone(
    site: Site, tmp_path: Path, at_least: int
) -> None:
    """It knows nothing of us, nor we of it: the hosts themselves tell."""
    other = Fleet()
    other.take("another's token", "the run 'theirs' (process 7 on their-machine)")
    one, *_ = read_inventory(str(site.inventory)).nodes
    try:
        inside(site.wires["w"].netns, lambda: other.fresh(one))
        outcome = site.run(tmp_path, at_least=at_least)
    finally:
        other.close()
    assert outcome.status != 0
    assert "node-a: taken by the run 'theirs' (process 7 on their-machine)" in outcome.printed
    assert "Traceback" not in outcome.printed
    if outcome.folder:
        assert outcome.verdict["verdict"] == "INCONCLUSIVE" and not outcome.verdict["injections"]


def test_levels_that_promise_gpus_where_there_are_none(site: Site, tmp_path: Path) -> None:
    """Nothing was measured of what was promised: never a pass."""
    outcome = site.run(tmp_path, levels="lab")
    assert outcome.status != 0
    assert "no_steady_state" in outcome.codes, outcome.printed
    assert wait_for(lambda: arrives(site.wires["w"], site.wires["a"]))


@pytest.mark.whole
def test_a_zone_is_cut_off_from_us_too(site: Site, tmp_path: Path) -> None:
    """The order to heal can't be heard there: the deadline heals, and the hosts tell of it then."""
    experiment = json.loads((ROOT / "experiments/network-partition.json").read_text())
    traffic = experiment["method"][0]["provider"]["arguments"]["traffic"]
    traffic["cut_controller"] = True
    path = tmp_path / "cut-off.json"
    path.write_text(json.dumps(experiment))
    outcome = site.run(tmp_path, path, lease_s=34)
    (partition,) = outcome.verdict["injections"]
    assert partition["bit"] and partition["ordered"] and partition["clean"], outcome.printed
    assert partition["per_host"]["node-a"]["ended_by"] == "deadline"
    assert outcome.codes <= {"off_schedule"}, outcome.printed
    assert arrives(site.wires["w"], site.wires["a"])
