"""Inventory files: what is wrong is said in one sentence, with its line and the mend."""

import json
from pathlib import Path

import pytest
from chaoslib import merge_vars

from aftershock.errors import InvalidInput
from aftershock.inventory import FromApi, Inventory, Limits, Node, NodePod, Ssh
from aftershock.inventory_file import read_inventory

ROOT = Path(__file__).parents[2]
HEAD = "gateway_url: http://10.0.0.9:80\nmodel: m\n"
HOST = "  - {name: a1, zone: a, address: 10.0.1.1%s}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "id").write_text("a key")
    (tmp_path / "known").write_text("")
    return tmp_path


def read(folder: Path, text: str) -> Inventory:
    path = folder / "staging.yaml"
    path.write_text(text)
    return read_inventory(path)


def test_a_host_takes_from_the_file_what_it_leaves_out(folder: Path) -> None:
    found = read(
        folder,
        f"""{HEAD}
ssh: {{user: ops, key: id, known_hosts: known, jump: gate.example.org:2222}}
hosts:
{HOST % ""}
  - name: b1
    zone: b
    addresses: [10.0.2.1, "fd00::2:1"]
    devices: [ens5, ens6]
    ssh_address: b1.example.org
    port: 2022
    user: root
    sudo: false
    python: /opt/python3
    jump: {{address: 10.0.9.9, user: gate, port: 22}}
  - {{name: c1, zone: c, address: 10.0.3.1, pid: 77, via: local}}
""",
    )
    a1, b1, c1 = found.nodes
    keys = {"key": str(folder / "id"), "known_hosts": str(folder / "known")}
    jump = Ssh("gate.example.org", 2222, "ops", **keys)  # type: ignore[arg-type]
    assert a1.ssh == Ssh("10.0.1.1", user="ops", jump=jump, **keys)  # type: ignore[arg-type]
    assert (b1.addresses, b1.devices) == (("10.0.2.1", "fd00::2:1"), ("ens5", "ens6"))
    assert b1.ssh and b1.ssh.address == "b1.example.org" and b1.ssh.port == 2022
    assert (b1.ssh.user, b1.ssh.sudo, b1.ssh.python) == ("root", False, "/opt/python3")
    assert b1.ssh.jump == Ssh("10.0.9.9", 22, "gate", **keys)  # type: ignore[arg-type]
    assert (c1.pid, c1.ssh) == (77, None)
    assert (found.target, found.zones()) == ("staging", ("a", "b", "c"))


def test_a_host_is_never_this_machine_by_mistake(folder: Path) -> None:
    (plain,) = read(folder, HEAD + "hosts:\n" + HOST % "").nodes
    assert plain.ssh == Ssh("10.0.1.1")
    (inside,) = read(folder, HEAD + "hosts:\n" + HOST % ", netns: /run/netns/x").nodes
    assert inside.ssh is None
    (far,) = read(folder, HEAD + "ssh: {port: 22}\nhosts:\n" + HOST % ", pid: 7").nodes
    assert far.ssh and far.pid == 7


def test_what_is_written_down_is_read_again(folder: Path) -> None:
    """As `aftershock lab up` writes it, and with ways over SSH in it."""
    way = Ssh("10.0.1.2", user="ops", jump=Ssh("10.0.9.9", user="gate", key=str(folder / "id")))
    nodes = (
        Node("a1", "a", ("10.0.1.1",), netns="/proc/7/ns/net", enter_pid=7, env={"X": "1"}),
        Node("a2", "a", ("10.0.1.2",), ssh=way),
    )
    edge = Node("edge", "outside", ("10.0.0.1",), netns="/proc/8/ns/net", enter_pid=7)
    written = Inventory("lab", nodes, "http://127.0.0.1:18080", "m", witness=edge)
    for indent in (None, 2):
        found = read(folder, json.dumps(written.to_dict(), indent=indent))
        assert found == written
        assert Inventory.from_dict(json.loads(json.dumps(found.to_dict()))) == written


BAD = {
    "hosts:\n\t- name: x\n": (4, "a tab: YAML indents with spaces only"),
    "hosts: [\n": (4, "not YAML"),
    "host: []\n": (3, "unknown key 'host': did you mean 'hosts'?"),
    "hosts: []\n": (3, "no hosts: list them below `hosts:`"),
    "model: again\nhosts: []\n": (3, "'model' is in line 2 already"),
    "hosts:\n  - a1\n": (4, "a host is a mapping of keys: name, zone"),
    "hosts:\n" + HOST % ", adress: 10.0.0.1": (4, "host a1: unknown key 'adress': did you mean"),
    "hosts:\n" + HOST % ", password: x": (4, "a password has no place in a file"),
    "hosts:\n" + HOST % ", port: 70000": (4, "port is 70000: give 1 to 65535"),
    "hosts:\n" + HOST % ", port: ssh": (4, "port is 'ssh': give 1 to 65535"),
    "hosts:\n" + HOST % ", pid: 0": (4, "pid is 0: give 1 to"),
    "hosts:\n" + HOST % ", pid: 7, netns: /x": (4, "pid and netns both say where to go"),
    "hosts:\n" + HOST % ", key: nowhere": (4, "key: there is no file"),
    "hosts:\n" + HOST % ", sudo: maybe": (4, "sudo is 'maybe': give true or false"),
    "hosts:\n" + HOST % ", user: 7": (4, "user is 7: give a text"),
    "hosts:\n" + HOST % ", jump: 'a b'": (4, "jump is 'a b': give user@host:port"),
    "hosts:\n" + HOST % ", jump: 'h:99999'": (4, "give user@host:port"),
    "hosts:\n" + HOST % ", via: telnet": (4, "via is 'telnet': give ssh, local or pod"),
    "hosts:\n" + HOST % ", via: local, port: 22": (4, "port is for SSH, and `via: local` is not"),
    "hosts:\n" + HOST % ", enter_pid: 7, port: 22": (4, "enter_pid is for this machine only"),
    "hosts:\n" + HOST % ", timeout_s: 0": (4, "timeout_s is 0: give 0.1 to 600"),
    "hosts:\n" + HOST % ", env: {A: 1}": (4, "env A: give a text, in quotes"),
    "hosts:\n" + HOST % ", device: [eth0, 7]": (4, "device has 7: give texts"),
    "hosts:\n" + HOST % ", password_env: 'a b'": (4, "password_env 'a b': the name of a variable"),
    "hosts:\n  - name: a1\n    address: 10.0.1.1\n": (4, "host a1: no zone: say in which"),
    "hosts:\n  - name: a1\n    zone: a\n": (4, "host a1: no address"),
    "hosts:\n  - zone: a\n    address: 10.0.1.1\n": (4, "a host: no name"),
    "hosts:\n  - name: a 1\n    zone: a\n    address: 10.0.1.1\n": (4, "letters, digits, dot"),
    "hosts:\n  - name: a1\n    zone: a\n    address: a1.example.org\n": (6, "is no IP address"),
    "hosts:\n  - name: a1\n    zone: all\n    address: 10.0.1.1\n": (5, "which means every one"),
    "hosts:\n" + HOST % "" + HOST % "": (5, "name a1 is in line 4 already"),
    "hosts:\n" + HOST % "" + "  - {name: a2, zone: a, address: 10.0.1.1}\n": (
        5,
        "address 10.0.1.1 is in line 4 already",
    ),
    "ssh: {user: ops, prot: 22}\nhosts:\n" + HOST % "": (3, "ssh: unknown key 'prot': did you"),
    "kubeconfig: nowhere\nhosts:\n" + HOST % "": (3, "kubeconfig: there is no file"),
    "kubernetes: {kubeconfig: nowhere}\n": (3, "kubernetes: kubeconfig: there is no file"),
    "kubernetes: {contxt: a}\n": (3, "unknown key 'contxt': did you mean 'context'?"),
    "namespace: a\nkubernetes: {context: a}\n": (3, "namespace belongs below `kubernetes:`"),
    "kubernetes: {node_selector: a=b}\nhosts:\n" + HOST % "": (
        3,
        "node_selector is for nodes from the API",
    ),
    "ssh: {user: a}\nagent: {image: b}\nkubernetes: {}\n": (4, "there are ssh and agent"),
    "agent: {python: b}\nkubernetes: {}\n": (4, "its agent runs in a pod, and has no image"),
    "limits: {max_zone_share: 2}\nkubernetes: {}\n": (3, "max_zone_share is 2: give 0 to 1"),
    "limits: {never: [7]}\nkubernetes: {}\n": (3, "never has 7: give texts"),
}


@pytest.mark.parametrize("text", BAD, ids=[what for _, what in BAD.values()])
def test_what_is_wrong_and_where(folder: Path, text: str) -> None:
    line, what = BAD[text]
    with pytest.raises(InvalidInput) as raised:
        read(folder, HEAD + text)
    assert f"staging.yaml, line {line}: " in str(raised.value) and what in str(raised.value)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "line 1: the file is empty"),
        ("model: m\nhosts:\n" + HOST % "", "line 1: the inventory: no gateway_url"),
        (f"gateway_url: h:80\nmodel: m\nhosts:\n{HOST % ''}", "line 1: the inventory: gateway_url"),
        ("- a\n", "line 1: the inventory is a mapping of keys"),
    ],
)
def test_a_file_that_lacks_something(folder: Path, text: str, what: str) -> None:
    with pytest.raises(InvalidInput, match=what):
        read(folder, text)


def test_nodes_may_be_asked_of_a_cluster(folder: Path) -> None:
    (folder / "config").touch()
    found = read(
        folder,
        HEAD + "limits: {never: [payments], max_owner_share: 0.25}\n"
        "ssh: {user: ops}\n"
        "kubernetes: {kubeconfig: config, context: here, zone_label: rack, device: ens5}\n",
    )
    assert found.nodes == () and found.namespace == "" and found.selector == ""
    assert found.kubeconfig == f"{folder / 'config'}#here"
    assert found.limits == Limits(never=("payments",), max_owner_share=0.25)
    assert found.from_api is not None and found.from_api.ssh is not None
    assert (found.from_api.zone_label, found.from_api.devices) == ("rack", ("ens5",))
    assert found.from_api.ssh.user == "ops"
    assert Inventory.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    bare = read(folder, HEAD + "kubernetes: {}\n")
    assert bare.kubeconfig == "" and bare.from_api == FromApi()


def test_the_example_for_clusters_is_an_inventory_and_a_file_of_variables() -> None:
    path = ROOT / "experiments" / "cluster.yaml"
    found = read_inventory(path)
    assert found.from_api == FromApi() and found.limits == Limits()
    assert (found.namespace, found.selector) == ("inference", "app=model")
    told, _ = merge_vars(var_files=[str(path)])
    listed = json.loads((ROOT / "experiments" / "pod-kill.json").read_text())["configuration"]
    assert set(told) <= set(listed) and told["target"] == "experiments/cluster.yaml"


def test_listed_hosts_may_name_their_cluster_the_same_way(folder: Path) -> None:
    text = "kubernetes: {namespace: shop, zone_label: rack}\nhosts:\n"
    text += HOST % ", agentless: true"
    found = read(folder, HEAD + text)
    assert found.from_api is None and found.kubeconfig == "" and found.namespace == "shop"
    assert found.zone_label == "rack"
    assert found.nodes[0].agentless and found.nodes[0].ssh is None


def test_a_file_that_is_not_there(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="No such file or directory; give 'lab' or the path"):
        read_inventory(folder / "nowhere.yaml")


def test_the_example_in_the_guide(folder: Path) -> None:
    text = (ROOT / "docs" / "inventory.md").read_text().split("```yaml\n")[1].split("```")[0]
    found = read(folder, text.replace("~/.ssh/id_ed25519", "id"))
    assert found.zones() == ("az-a", "az-b", "az-c")
    assert all(node.ssh for node in found.nodes)


def test_hosts_by_agents_in_pods(folder: Path) -> None:
    (folder / "config").write_text("")
    found = read(
        folder,
        f"""{HEAD}kubeconfig: config
agent: {{image: "here/agent:1", namespace: chaos}}
hosts:
{HOST % ""}
  - {{name: b1, zone: b, address: 10.0.2.1, node: ip-10-0-2-1, agent: {{idle_s: 5}}}}
  - {{name: c1, zone: c, address: 10.0.3.1, via: ssh}}
  - {{name: d1, zone: d, address: 10.0.4.1, pid: 7, via: local}}
""",
    )
    a1, b1, c1, d1 = found.nodes
    assert a1.agent == NodePod(str(folder / "config"), "a1", "here/agent:1", "chaos")
    assert b1.agent and (b1.agent.node, b1.agent.idle_s) == ("ip-10-0-2-1", 5)
    assert c1.ssh and not c1.agent and not d1.agent and not d1.ssh


@pytest.mark.parametrize(
    ("agent", "host", "said"),
    [
        ("agent: {namespace: chaos}", "", "a1: its agent runs in a pod, and has no image: name"),
        ("agent: {image: i}", "", "a1: its agent runs in a pod, and has no kubeconfig: name"),
        ("agent: {image: i}\nssh: {user: ops}", "", "the file has both ssh and agent: say"),
        ("agent: {imag: i}", "", "agent: unknown key 'imag': did you mean 'image'"),
        ("", ", via: ssh, node: x", "node is for `via: pod`"),
        ("", ", via: pod, port: 22", "port is not for a host by its agent's pod"),
        ("", ", pod: {uid: x}", "pods are named by experiments"),
    ],
)
def test_what_is_wrong_with_agents_in_pods(folder: Path, agent: str, host: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        read(folder, f"{HEAD}{agent}\nhosts:\n{HOST % host}")
