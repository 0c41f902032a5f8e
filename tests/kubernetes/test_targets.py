"""A target that is a cluster: what only its API knows, and what is refused before anything is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftershock.capacity import NothingMatches
from aftershock.cluster.permissions import NotPermitted
from aftershock.errors import AftershockError, InvalidInput, Unsupported
from aftershock.hosts.agentpods import PodsApi
from aftershock.hosts.fleet import Fleet
from aftershock.inventory import Node
from aftershock.run.foresight import Foresight
from aftershock.run.session import Run
from aftershock.run.settings import Settings
from aftershock.run.target import Target

from .sites import GENUINE, Site

CHAOS = Path(sys.executable).with_name("chaos")
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(600 if GENUINE else 60)
ZONE = "topology.kubernetes.io/zone"
Write = Callable[..., str]
WEB = {"workload": "Deployment/web"}


@pytest.fixture
def inventory(site: Site, tmp_path: Path) -> Write:
    """Write an inventory file of the site's cluster; its path."""

    def write(limits: dict[str, Any] | None = None, **kubernetes: Any) -> str:
        told = {"kubeconfig": str(site.kubeconfig), "namespace": site.namespace}
        plain = {
            "gateway_url": "http://127.0.0.1:1",
            "model": "m",
            "kubernetes": {**told, "selector": "app=web", **kubernetes},
            "limits": limits or {},
        }
        path = tmp_path / "cluster.yaml"
        path.write_text(yaml.safe_dump(plain))
        return str(path)

    return write


def looked_up(path: str, zone: str = "all") -> Target:
    target = Target(Settings(target=path, zone=zone))
    target.check()
    return target


def action(func: str, module: str = "kubernetes", **arguments: Any) -> dict[str, Any]:
    provider = {"type": "python", "module": f"aftershock.actions.{module}", "func": func}
    return {"type": "action", "name": func, "provider": {**provider, "arguments": arguments}}


def refusal(path: str, *method: dict[str, Any], kind: type[AftershockError] = InvalidInput) -> str:
    """What `chaos run` would end with, before a folder was made or an agent started."""
    with pytest.raises(kind) as refused:
        Run.prepare({"target": path, "zone": "all", "levels": "hosts"}, "t", method)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_nodes_and_zones_come_from_the_api(site: Site, inventory: Write) -> None:
    target = looked_up(inventory())
    try:
        found = target.inventory
        labels = {
            item.metadata.name: (item.metadata.labels or {}).get(ZONE)
            for item in site.core.list_node().items
        }
        assert {node.name: node.zone for node in found.nodes} == {
            name: zone for name, zone in labels.items() if zone
        }
        assert all(node.agentless and node.addresses for node in found.nodes)
        assert found.namespace == site.namespace and found.kubeconfig
        assert "#" in found.kubeconfig  # the ledger is to find the same cluster
    finally:
        target.down()
    one = found.nodes[0]
    chosen = looked_up(inventory(node_selector=f"kubernetes.io/hostname={one.name}"))
    assert [node.name for node in chosen.inventory.nodes] == [one.name]
    chosen.down()


def test_nodes_by_ssh_are_met_at_their_own_address(inventory: Write) -> None:
    path = Path(inventory())
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "ssh": {"user": "ops"}}))
    target = looked_up(str(path))
    for node in target.inventory.nodes:
        assert node.ssh and not node.agentless
        assert (node.ssh.address, node.ssh.user) == (node.addresses[0], "ops")
    target.down()


def test_nodes_by_pods_of_agents_are_in_the_same_cluster(site: Site, inventory: Write) -> None:
    path = Path(inventory())
    plain = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**plain, "agent": {"image": "i", "namespace": site.namespace}}))
    target = looked_up(str(path))
    for node in target.inventory.nodes:
        assert node.agent and not node.agentless and node.agent.node == node.name
        assert node.agent.kubeconfig == target.inventory.kubeconfig
    way = target.inventory.nodes[0].agent
    target.down()
    assert way and "#" in way.kubeconfig  # as the ledger keeps it
    api = PodsApi(way)
    assert not api.runs("nothing-of-ours")
    api.close()


def test_doctor_asks_the_nodes_of_a_cluster(site: Site, inventory: Write) -> None:
    done = subprocess.run(
        [str(CHAOS.with_name("aftershock")), "doctor", "--inventory", inventory(), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    hosts = json.loads(done.stdout)["hosts"]
    assert [host["name"] for host in hosts] == [node.name for node in site.nodes()]
    assert all("nothing gets there but the Kubernetes API" in host["error"] for host in hosts)
    assert done.returncode == 1


def test_an_agentless_node_says_so() -> None:
    with pytest.raises(Unsupported, match="a1: nothing gets there but the Kubernetes API"):
        Fleet().channels([Node("a1", "a", ("10.0.0.1",), agentless=True)])


def test_where_a_target_is_wrong(site: Site, inventory: Write) -> None:
    def said(zone: str = "all", **words: Any) -> str:
        with pytest.raises(AftershockError) as refused:
            looked_up(inventory(**words), zone)
        return str(refused.value)

    zones = ", ".join(dict.fromkeys(node.zone for node in site.nodes()))
    assert f"unknown zone 'az-z': the target cluster has {zones}" in said("az-z")
    assert "no namespace 'nowhere'" in said(namespace="nowhere")
    assert "has no context 'nowhere': it has " in said(context="nowhere")
    label = said(zone_label="example.org/rack")
    assert "has the label example.org/rack: name one that exists as zone_label" in label
    assert f"{ZONE} ({', '.join(sorted(zones.split(', ')))})" in label
    assert "has no nodes that match 'kind=none'" in said(node_selector="kind=none")


def test_what_is_asked_too_much_is_refused_before(site: Site, inventory: Write) -> None:
    site.deploy("web", 2)
    zone = site.nodes()[0].zone
    assert "no pod matches app=no" in refusal(inventory(), action("kill_pods", selector="app=no"))
    assert "2 of the 2 pods of Deployment/web" in refusal(inventory(), action("kill_pods"))
    assert "never touched" in refusal(inventory(), action("kill_pods", namespace="kube-system"))
    everywhere = ",".join(node.name for node in site.nodes())
    said = refusal(inventory({"max_zone_share": 1}), action("cordon_nodes", where=everywhere))
    assert "the last zone is never broken" in said
    said = refusal(inventory({"max_zone_share": 0.1}), action("fail_zone", "zone", zone=zone))
    assert "zones, and max_zone_share 0.1 allows less" in said or "last zone" in said
    said = refusal(
        inventory({"max_zone_share": 0.9, "max_node_share": 0.9}),
        action("fail_zone", "zone", zone=zone),
        kind=AftershockError,
    )
    assert "nothing gets there but the Kubernetes API" in said or "last zone" in said
    # One zone: everything of it is the last.
    alone = inventory({"max_node_share": 1}, zone_label="kubernetes.io/os")
    assert "it has one zone only" in refusal(alone, action("cordon_zone", zone="linux"))
    assert len(site.ready("web")) == 2
    assert not any(item.spec.unschedulable for item in site.core.list_node().items)


def test_the_look_ahead_ends_where_others_act(inventory: Write) -> None:
    """What somebody else's action deploys may be what the next one of ours kills."""
    other = {"type": "action", "name": "x", "provider": {"type": "process", "path": "true"}}
    target = looked_up(inventory())
    ahead = Foresight(Settings(target=inventory(), zone="all"), target)
    ahead.refuse([other, action("kill_pods", selector="app=no")], {})
    with pytest.raises(NothingMatches):
        ahead.refuse([action("stop_killing_pods"), action("kill_pods", selector="app=no")], {})
    target.down()


def test_a_right_that_is_missing_is_named(site: Site, inventory: Write) -> None:
    site.deploy("web", 2)
    looks = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    zones = [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]
    roles = [{"kind": "Role", "rules": looks}, {"kind": "ClusterRole", "rules": zones}]
    told = {"kubeconfig": str(site.somebody(roles))}
    kill = action("kill_pods", count=1)
    said = refusal(inventory(**told), kill, kind=NotPermitted)
    assert f"does not let us delete pods in namespace {site.namespace}: grant it" in said
    assert said.endswith("or name another context or namespace"), "which may be misspelt"
    blind = {"kubeconfig": str(site.somebody(roles[:1]))}
    assert "list nodes" in refusal(inventory(**blind), kill, kind=NotPermitted)


def test_a_dry_run_names_what_would_be_touched(
    site: Site, inventory: Write, tmp_path: Path
) -> None:
    site.deploy("web", 4)
    before = {pod.uid for pod in site.pods()}

    def dry(**variables: Any) -> subprocess.CompletedProcess[str]:
        told = {"target": inventory(), "levels": "hosts", "count": 2, **variables}
        return subprocess.run(
            [
                *(str(CHAOS), "run", str(ROOT / "experiments/pod-kill.json"), "--dry=activities"),
                *(f"--var={name}={value}" for name, value in told.items()),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    done = dry()
    foresight = Foresight(Settings(target=inventory(), zone="all"), looked_up(inventory()))
    expected = foresight.touches(action("kill_pods", count=2, seed=7, max_owner_share=0.5), {})
    foresight.target.down()
    told = [
        line.split("would touch: ")[1].strip()
        for line in (done.stdout + done.stderr).splitlines()
        if "would touch" in line
    ]
    assert done.returncode == 0, done.stdout + done.stderr
    assert told == expected and len(told) == 2
    names = {pod.name: pod for pod in site.pods()}
    for line in told:
        pod = names[line.split("/")[1].split(" ")[0]]
        assert f"Deployment/web, node {pod.node}, " in line
    assert {pod.uid for pod in site.pods()} == before
    wrong = dry(selector="app=nobody")
    assert wrong.returncode != 0 and "Traceback" not in wrong.stdout + wrong.stderr
    assert "no pod matches app=nobody" in wrong.stdout + wrong.stderr


def test_limits_hold_for_what_where_chooses(site: Site, inventory: Write) -> None:
    """Network faults, users' commands and frozen containers, on nodes and in pods."""
    site.deploy("web", 4)
    path = Path(inventory({"max_zone_share": 1, "max_node_share": 0.4}))
    plain = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**plain, "agent": {"image": "i"}}))
    nodes = site.nodes()
    half = ",".join(node.name for node in nodes[: len(nodes) // 2 + 1])
    first = nodes[0].name

    def said(func: str, module: str, **arguments: Any) -> str:
        return refusal(str(path), action(func, module, **arguments))

    share = "nodes would be touched, and max_node_share 0.4 allows less"
    assert share in said("degrade_network", "network", where=half, delay_ms=10)
    assert share in said("partition_network", "network", where=half, peers=first)
    assert share in said("partition_shape", "network", where="all", shape="ring", groups="nodes")
    assert share in said("run_command", "command", where=half, apply="true", undo="true")
    words = {"off": "true", "on": "true"}
    last = said("power_off_nodes", "kubernetes", where="all", **words)
    assert "the last zone is never broken" in last
    assert "the last zone" in said("silence_nodes", "kubernetes", where="all")
    of_all = "4 of the 4 pods of Deployment/web would go, and max_owner_share 0.5 allows 2"
    assert of_all in said("degrade_network", "network", where="app=web", delay_ms=10)
    assert of_all in said("freeze_containers", "kubernetes", where="app=web")
    assert of_all in said("kill_containers", "kubernetes", where="app=web")
    one = site.ready("web")[0].name
    target = looked_up(str(path))
    ahead = Foresight(Settings(target=str(path), zone="all"), target)
    for name, module, words in (
        ("degrade_network", "network", {"where": first, "delay_ms": 10}),
        ("degrade_network", "network", {"where": f"pod/{one}", "delay_ms": 10}),
        ("freeze_containers", "kubernetes", {"where": f"pod/{one}"}),
    ):
        assert ahead.touches(action(name, module, **words), {}), name
    target.down()


def test_a_zone_to_be_lost_is_told_by_name(site: Site, inventory: Write) -> None:
    site.deploy("web", 6)
    path = Path(inventory({"max_zone_share": 0.9, "max_node_share": 0.9, "max_owner_share": 0.9}))
    plain = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**plain, "agent": {"image": "i"}}))
    zone = site.nodes()[0].zone
    names = [node.name for node in site.nodes() if node.zone == zone]
    target = looked_up(str(path))
    ahead = Foresight(Settings(target=str(path), zone="all"), target)
    told = ahead.touches(action("fail_zone", "zone", zone=zone, lease_s="70"), {})
    target.down()
    assert told[0] == f"partition on {', '.join(f'{name} ({zone})' for name in names)}"
    assert told[1:5:2] == [f"{kind} of node {names[0]} ({zone})" for kind in ("cordon", "taint")]
    pods = [pod.name for pod in site.ready("web") if pod.node in names]
    assert {line.split("/")[1].split(" ")[0] for line in told if "kill pod" in line} == set(pods)
    assert told[-1] == "then what comes up there, for 70 s, chosen by app=web"


def test_no_cluster_at_all(tmp_path: Path, inventory: Write) -> None:
    plain = json.loads(json.dumps(yaml.safe_load(Path(inventory()).read_text())))
    content = yaml.safe_load(Path(plain["kubernetes"]["kubeconfig"]).read_text())
    content["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    dead = tmp_path / "dead"
    dead.write_text(yaml.safe_dump(content))
    said = refusal(inventory(kubeconfig=str(dead)), kind=AftershockError)
    assert "https://127.0.0.1:1" in said and "connection refused: start the cluster" in said
    assert not (tmp_path / "journal").exists()


def test_what_actions_may_be_told(site: Site, inventory: Write) -> None:
    """Words as `--var` gives them are numbers, too; what makes no sense is one sentence."""
    site.deploy("web", 4)
    target = looked_up(inventory())
    ahead = Foresight(Settings(target=inventory(), zone="all"), target)
    node = site.ready("web")[0].node

    def lines(func: str, **arguments: Any) -> list[str]:
        return ahead.touches(action(func, **arguments), {"few": "1", "none": "0"})

    told = lines("drain_nodes", where=node, force="no")
    assert told[0].startswith(f"cordon of node {node} (") and told[1].startswith("evict pod ")
    (told,) = lines("scale_workload", workload="Deployment/web", replicas="2")
    assert told == f"scale {site.namespace}/Deployment/web from 4 to 2 replicas"
    killing = lines("keep_killing_pods", count="${few}", share="${none}", interval_s="2")
    assert len(killing) == 2 and killing[0].startswith("kill pod ")
    assert killing[1] == "then others every 2 s or so, for 120 s, chosen by app=web"
    assert len(lines("keep_killing_pods", share="0.5")) == 3
    assert [one.split()[0] for one in lines("evict_pods", count=1)] == ["evict"]
    assert [one.split()[0] for one in lines("evict_pods", count=1, budgets="override")] == ["kill"]
    assert all(node in one for one in lines("kill_pods", node=node))
    assert lines("cordon_nodes", where=node)[0].startswith(f"cordon of node {node} (")
    for sentence, func, arguments in (
        ("budgets is 'maybe': honour or override", "evict_pods", {"budgets": "maybe"}),
        ("deadline_s is 0: say how long", "evict_pods", {"deadline_s": 0}),
        ("count is 'many': give a number", "kill_pods", {"count": "many"}),
        ("count is 1.5: give a whole number", "kill_pods", {"count": 1.5}),
        ("grace_s is -2", "kill_pods", {"grace_s": -2}),
        ("give one of them", "kill_pods", {"zone": "az-a", "node": node}),
        ("no zone or node 'x'", "kill_pods", {"node": "x"}),
        ("4 of the 4 replicas", "scale_workload", {**WEB, "replicas": 0}),
        ("no autoscaler of autoscaling/v2 scales", "block_autoscaler", WEB),
        ("interval_s is 0", "keep_killing_pods", {"interval_s": 0}),
    ):
        with pytest.raises(InvalidInput, match=sentence):
            lines(func, **arguments)
    target.down()
    unchosen = looked_up(inventory(selector=""))
    with pytest.raises(InvalidInput, match="every pod of the namespace would be meant"):
        Foresight(Settings(target=inventory(), zone="all"), unchosen).touches(
            action("kill_pods"), {}
        )
    unchosen.down()
