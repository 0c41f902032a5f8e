"""The API through kubectl, as a user types it."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import urllib.request
from typing import Any

import pytest

from aftershock.lab.kubernetes.authorization import Rights
from aftershock.lab.kubernetes.protobuf import decode
from aftershock.lab.kubernetes.status import Refusal

from .conftest import Lab, deployment, needs_kubectl, ready_pods, until

pytestmark = needs_kubectl


def test_get_and_describe(web: Lab, core: Any) -> None:
    shown = web.kubectl("get", "pods", "-o", "wide")
    assert shown.splitlines()[0].split()[:5] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert shown.count("1/1     Running") == 6
    assert web.kubectl("get", "nodes", "-L", "topology.kubernetes.io/zone").count("az-a") == 2
    assert "web" in web.kubectl("get", "deploy,rs,svc,ep,endpointslices,ns,events")
    pods = json.loads(web.kubectl("get", "pods", "-l", "app=web", "-o", "json"))
    assert len(pods["items"]) == 6
    name = pods["items"][0]["metadata"]["name"]
    assert "Started" in web.kubectl("describe", "pod", name)
    assert "az-a" in web.kubectl("describe", "node", "node-a-1")
    assert "6 desired" in web.kubectl("describe", "deployment", "web")
    assert "not found" in web.kubectl("get", "pod", "nosuch", code=1)


def test_delete_and_wait(web: Lab, core: Any) -> None:
    first, second = ready_pods(core)[:2]
    web.kubectl("delete", "pod", first.metadata.name)
    web.kubectl("delete", "pod", second.metadata.name, "--grace-period=0", "--force")
    web.kubectl("rollout", "status", "deployment/web", "--timeout=20s")
    web.kubectl("wait", "--for=condition=Ready", "pod", "-l", "app=web", "--timeout=20s")
    third = ready_pods(core)[0].metadata.name
    web.kubectl("delete", "pod", third, "--wait=false")
    web.kubectl("wait", "--for=delete", f"pod/{third}", "--timeout=20s")


def test_get_watches(web: Lab, core: Any) -> None:
    first = ready_pods(core)[0].metadata.name
    words = ["kubectl", "--kubeconfig", str(web.kubeconfig), "get", "pods", "-w"]
    env = {**os.environ, "KUBECACHEDIR": str(web.kubeconfig.parent / "cache")}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env) as watching:
        try:
            assert watching.stdout
            shown = [watching.stdout.readline() for _ in range(7)]
            assert sum("Running" in line for line in shown) == 6
            web.kubectl("delete", "pod", first)
            told: set[str] = set()
            while not any("1/1" in line for line in told):  # the one in its place
                line = watching.stdout.readline()
                told |= {line} if first not in line else set()
                shown.append(line)
            assert any(first in line and "Terminating" in line for line in shown)
        finally:
            watching.kill()


def test_cordon_drain_and_uncordon(web: Lab, core: Any) -> None:
    assert "cordoned" in web.kubectl("cordon", "node-a-1")
    assert "SchedulingDisabled" in web.kubectl("get", "node", "node-a-1")
    web.kubectl("drain", "node-b-1", "--ignore-daemonsets", "--timeout=20s")
    assert not [p for p in ready_pods(core) if p.spec.node_name == "node-b-1"]
    web.kubectl("uncordon", "node-a-1", "node-b-1")
    until(lambda: not core.read_node("node-b-1").spec.taints)
    web.kubectl("taint", "nodes", "node-c-1", "lab/x=y:NoSchedule")
    web.kubectl("taint", "nodes", "node-c-1", "lab/x-")


def test_scale_label_and_annotate(web: Lab, core: Any) -> None:
    web.kubectl("scale", "deployment/web", "--replicas=4")
    until(lambda: len(ready_pods(core)) == 4)
    web.kubectl("scale", "deployment/web", "--replicas=5", "--current-replicas=4")
    web.kubectl("label", "deployment/web", "a=b")
    web.kubectl("annotate", "deployment/web", "c=d")
    web.kubectl("patch", "deployment", "web", "-p", '{"spec":{"replicas":6}}')
    until(lambda: len(ready_pods(core)) == 6)


def test_rollout_restart_and_undo(web: Lab, core: Any) -> None:
    before = {p.metadata.name for p in ready_pods(core)}
    web.kubectl("rollout", "restart", "deployment/web")
    web.kubectl("rollout", "status", "deployment/web", "--timeout=30s")
    until(lambda: len(ready_pods(core)) == 6)
    assert not before & {p.metadata.name for p in ready_pods(core)}
    web.kubectl("rollout", "undo", "deployment/web")
    web.kubectl("rollout", "status", "deployment/web", "--timeout=30s")


def test_a_stateful_set_is_rolled_out_one_by_one(lab: Lab, core: Any) -> None:
    db = {**deployment("db", 2), "kind": "StatefulSet"}
    db["spec"] = {**db["spec"], "serviceName": "db"}
    lab.apply(db)
    until(lambda: {pod.metadata.name for pod in ready_pods(core, "app=db")} == {"db-0", "db-1"})
    assert "2/2" in lab.kubectl("get", "statefulset", "db")
    before = {pod.metadata.uid for pod in ready_pods(core, "app=db")}
    lab.kubectl("rollout", "restart", "statefulset/db")
    lab.kubectl("rollout", "status", "statefulset/db", "--timeout=30s")
    after = {pod.metadata.uid for pod in ready_pods(core, "app=db")}
    assert len(after) == 2 and not after & before
    lab.kubectl("delete", "statefulset", "db", "--timeout=20s")
    until(lambda: not core.list_namespaced_pod("shop").items)


def test_apply_create_and_delete_from_a_file(lab: Lab, core: Any) -> None:
    web = deployment(replicas=2)
    lab.kubectl("create", "-f", "-", stdin='{"apiVersion":"v1","kind":"Namespace",'
                '"metadata":{"name":"shop"}}')  # fmt: skip
    assert "created" in lab.kubectl("apply", "-f", "-", stdin=json.dumps(web))
    web["spec"]["replicas"] = 3
    assert "configured" in lab.kubectl("apply", "-f", "-", stdin=json.dumps(web))
    lab.kubectl("rollout", "status", "deployment/web", "--timeout=20s")
    assert len(ready_pods(core)) == 3
    lab.kubectl("delete", "deployment", "web")
    until(lambda: not core.list_namespaced_pod("shop").items)
    lab.kubectl("delete", "namespace", "shop", "--timeout=20s")


CREATED = (
    "deployment web --image=a/b:1 --replicas=0 --port=80 -- sleep 100",
    "configmap settings --from-literal=a=b --from-literal=c=",
    "secret generic keys --from-literal=a=b",
    "serviceaccount who",
    "service clusterip web --tcp=80:http --tcp=81:8081",
    "service externalname far --external-name=example.com",
    "job once --image=a/b:1 -- true",
    "cronjob nightly --image=a/b:1 --schedule=0_3_*_*_* -- true",
    "poddisruptionbudget some --selector=app=web --min-available=50%",
    "poddisruptionbudget most --selector=app=web --max-unavailable=0",
)


def test_create_with_words_makes_what_a_dry_run_of_them_shows(lab: Lab) -> None:
    """These are sent as protobuf, with no second try."""
    lab.kubectl("create", "namespace", "shop")
    for line in CREATED:
        words = ["create", *(word.replace("_", " ") for word in line.split())]
        at = words.index("--") if "--" in words else len(words)
        dry = [*words[:at], "--dry-run=client", "-o", "json", *words[at:]]
        wanted, made = (
            json.loads(lab.kubectl(*one)) for one in (dry, [*words[:at], "-o", "json", *words[at:]])
        )
        assert within(wanted, made) == [], line


def within(wanted: Any, made: Any, path: str = "") -> list[str]:
    """What is wanted and not there; what a server fills in, or keeps, is beside."""
    if isinstance(wanted, dict) and isinstance(made, dict):
        kept = {key: value for key, value in wanted.items() if value not in (None, {}, [])}
        kept.pop("status", None)
        return [one for key in kept for one in within(kept[key], made.get(key), f"{path}.{key}")]
    if isinstance(wanted, list) and isinstance(made, list) and len(wanted) == len(made):
        pairs = enumerate(zip(wanted, made, strict=True))
        return [one for n, (a, b) in pairs for one in within(a, b, f"{path}[{n}]")]
    return [] if wanted == made else [f"{path}: {wanted!r}, not {made!r}"]


def test_what_is_not_known_of_protobuf_is_refused_and_not_dropped() -> None:
    def field(number: int, content: bytes) -> bytes:
        return bytes((number << 3 | 2, len(content))) + content

    def sent(spec: bytes) -> bytes:
        kind = field(1, field(1, b"v1") + field(2, b"Service"))
        return b"k8s\x00" + kind + field(2, field(1, field(1, b"web")) + field(2, spec))

    assert decode(sent(field(3, b"None")))["spec"] == {"clusterIP": "None"}
    with pytest.raises(Refusal, match="field 9 of ServiceSpec is not known"):
        decode(sent(field(9, b"10.0.0.0/8")))
    for broken in (b"{}", b"k8s\x00\x0a\xff", sent(b"\x1a\x7f")):
        with pytest.raises(Refusal, match="protobuf"):
            decode(broken)


def test_fields_that_do_not_exist_are_refused(lab: Lab, core: Any) -> None:
    lab.kubectl("create", "namespace", "shop")
    web, path = deployment(replicas=1), "spec.template.spec.containers[0].imagge"
    web["spec"]["template"]["spec"]["containers"][0]["imagge"] = "x"
    for verb in ("create", "apply"):
        said = lab.kubectl(verb, "-f", "-", stdin=json.dumps(web), code=1)
        assert f'strict decoding error: unknown field "{path}"' in said
    assert core.list_namespaced_pod("shop").items == []
    lab.kubectl("apply", "-f", "-", stdin=json.dumps(deployment(replicas=1)))
    changed = json.dumps({**deployment(replicas=1), "sbec": {}})
    assert 'unknown field "sbec"' in lab.kubectl("apply", "-f", "-", stdin=changed, code=1)
    assert "unchanged" in lab.kubectl("apply", "-f", "-", stdin=json.dumps(deployment(replicas=1)))


def test_what_older_versions_of_kubectl_ask_first(lab: Lab) -> None:
    authority = ssl.create_default_context(cafile=str(lab.kubeconfig) + "-ca.pem")

    def asked(path: str, accept: str) -> tuple[str, bytes]:
        told = {"Accept": accept, "Authorization": f"Bearer {lab.server.token}"}
        request = urllib.request.Request(lab.server.url + path, headers=told)
        with urllib.request.urlopen(request, context=authority, timeout=10) as answer:
            return answer.headers["Content-Type"], answer.read()

    beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
    kind, body = asked("/apis", f"{beta},application/json")
    assert kind.startswith("application/json") and json.loads(body)["kind"] == "APIGroupList"
    packed = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    kind, body = asked("/openapi/v2", packed)
    assert kind == "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    assert body.startswith(b"\x0a\x032.0") and b"Kubernetes" in body


def test_a_user_with_few_rights_is_told_so(web: Lab) -> None:
    rules = {"shop": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]}
    web.kubeconfig = web.server.write_kubeconfig(
        web.kubeconfig.with_name("narrow"), "shop", rights=Rights("reader", rules)
    )
    assert web.kubectl("get", "pods").count("Running") == 6
    assert 'User "reader" cannot delete' in web.kubectl("delete", "pods", "--all", code=1)
    assert web.kubectl("auth", "can-i", "list", "pods").strip() == "yes"
    assert web.kubectl("auth", "can-i", "delete", "pods", code=1).strip() == "no"
    assert web.kubectl("auth", "can-i", "get", "pods", "--subresource=log", code=1).strip() == "no"
    assert web.kubectl("auth", "can-i", "list", "pods", "-n", "default", code=1).strip() == "no"
    assert web.kubectl("auth", "can-i", "get", "/version").strip() == "yes"
    (rule,) = [
        line for line in web.kubectl("auth", "can-i", "--list").splitlines() if "pods" in line
    ]
    assert rule.split()[-2:] == ["[get", "list]"]
