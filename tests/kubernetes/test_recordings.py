"""What is served, held against the recorded answers of a real server."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from aftershock.lab.kubernetes.authorization import Rights

from .conftest import Lab, ready_pods, until

RECORDED = Path(__file__).resolve().parents[2].parent / "shared" / "kubernetes"
pytestmark = pytest.mark.skipif(
    not RECORDED.is_dir(), reason=f"no recorded answers of a real server at {RECORDED}"
)
_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
# What this server leaves out on purpose: field managers, resizing, users, volumes.
_LEFT_OUT = {"managedFields", "allocatedResources", "resources", "user", "volumeMounts", "volumes"}
_LEFT_OUT |= {"images", "daemonEndpoints", "features", "runtimeHandlers", "declaredFeatures"}


def exchange(file: str, name: str) -> Any:
    recorded = json.loads((RECORDED / file).read_text())
    return next(e for e in recorded["exchanges"] if e["id"] == name)


def ask(
    lab: Lab,
    method: str,
    path: str,
    body: Any = None,
    accept: str = "application/json",
    token: str | None = None,
    kind: str = "application/json",
) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token or lab.server.token}", "Accept": accept}
    payload = None
    if body is not None:
        payload = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        headers["Content-Type"] = kind
    request = urllib.request.Request(lab.server.url + path, payload, headers, method=method)
    context = ssl.create_default_context(cadata=lab.server.ca.decode())
    try:
        with urllib.request.urlopen(request, context=context) as response:
            code, text = response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            code, text = error.code, error.read()
    try:
        return code, json.loads(text)
    except ValueError:
        return code, text.decode()


def differences(real: Any, ours: Any, path: str = "") -> list[str]:
    """Keys that the real answer has and ours lacks, and values of another type."""
    if isinstance(real, dict):
        if not isinstance(ours, dict):
            return [f"{path}: {type(ours).__name__} instead of an object"]
        found = []
        for key, value in real.items():
            if key in _LEFT_OUT or (isinstance(value, str) and value.startswith("<")):
                continue
            if key not in ours:
                found.append(f"{path}.{key} is missing")
            elif key not in ("labels", "annotations", "matchLabels", "capacity", "allocatable"):
                found += differences(value, ours[key], f"{path}.{key}")
        return found
    if isinstance(real, list):
        if not isinstance(ours, list) or (real and not ours):
            return [f"{path}: {ours!r} instead of a list like {str(real)[:80]}"]
        return differences(real[0], ours[0], f"{path}[0]") if real else []
    return [] if type(real) is type(ours) else [f"{path}: {ours!r} instead of {real!r}"]


def test_pods_deployments_and_endpoints_have_the_real_shape(web: Lab, core: Any) -> None:
    name = ready_pods(core)[0].metadata.name
    shop = "/api/v1/namespaces/shop"
    apps = "/apis/apps/v1/namespaces/shop"
    slices = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"
    slices += "?labelSelector=kubernetes.io%2Fservice-name%3Dweb"
    found: list[str] = []
    until(lambda: ask(web, "GET", f"{apps}/deployments/web")[1]["status"]["readyReplicas"] == 6)
    for file, case, path in (
        ("04-pods-get-table.json", "get-running", f"{shop}/pods/{name}"),
        ("08-deployments.json", "get", f"{apps}/deployments/web"),
        ("08-deployments.json", "replicasets", f"{apps}/replicasets?labelSelector=app%3Dweb"),
        ("08-deployments.json", "endpoints", f"{shop}/endpoints/web"),
        ("08-deployments.json", "service", f"{shop}/services/web"),
        ("08-deployments.json", "scale-get", f"{apps}/deployments/web/scale"),
        ("08-deployments.json", "endpointslices", slices),
    ):
        code, ours = ask(web, "GET", path)
        assert code == 200
        found += [f"{case}{d}" for d in differences(exchange(file, case)["response"]["body"], ours)]
    # The recorded pods have a hook and tolerations of their own that ours were not given.
    theirs = ("lifecycle", "template.spec.tolerations")
    assert [d for d in found if not any(name in d for name in theirs)] == []


@pytest.mark.parametrize(
    "case",
    ["401-bad-token", "404-pod", "404-resource", "404-namespace", "404-path", "404-subresource",
     "404-create-in-missing-namespace", "404-wrong-group", "405-post-on-item",
     "405-put-on-collection", "405-patch-on-collection", "405-post-log", "options",
     "415-patch-json", "415-patch-text", "422-bad-name", "422-no-containers",
     "422-duplicate-container", "422-two-causes", "422-selector-mismatch", "422-no-name",
     "400-label-selector", "400-label-selector-in", "400-field-selector",
     "400-field-selector-labels", "400-limit", "400-resource-version", "400-namespace-mismatch",
     "400-grace", "500-watch-bad-rv", "422-propagation"],
)  # fmt: skip
def test_refusals_are_word_for_word(lab: Lab, case: str) -> None:
    recorded = exchange("14-errors.json", case)
    request, response = recorded["request"], recorded["response"]
    pod = {"containers": [{"name": "main", "image": "example.local/web:1"}]}
    lab.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "solo", "namespace": "shop"},
            "spec": pod,
        }
    )
    code, ours = ask(
        lab,
        request["method"],
        request["path"],
        request.get("body"),
        token="wrong" if case == "401-bad-token" else None,
        kind=request["headers"].get("Content-Type", "application/json"),
    )
    assert (code, ours) == (response["status"], response["body"])


def test_tables_have_the_real_columns(web: Lab) -> None:
    for case in ("table-list", "table-nodes", "table-deployments", "table-namespaces",
                 "table-pdb", "table-events"):  # fmt: skip
        recorded = exchange("04-pods-get-table.json", case)
        code, ours = ask(web, "GET", recorded["request"]["path"], accept=_TABLE)
        assert code == 200
        real = recorded["response"]["body"]["columnDefinitions"]
        named = [(c["name"], c["type"], c["format"], c["priority"]) for c in real]
        assert named == [
            (c["name"], c["type"], c["format"], c["priority"]) for c in ours["columnDefinitions"]
        ]


def test_nodes_have_the_real_shape(lab: Lab) -> None:
    recorded = json.loads((RECORDED / "17-nodes.json").read_text())["exchanges"]
    real = next(
        e["response"]["body"] for e in recorded if e["response"]["body"]["kind"] == "NodeList"
    )
    assert differences(real, ask(lab, "GET", "/api/v1/nodes")[1]) == []


def steps(file: str, pod: str) -> list[tuple[Any, ...]]:
    lines = [json.loads(line) for line in (RECORDED / file).read_text().splitlines()[1:]]
    events = [line["event"] for line in lines if line.get("stream") == "pods"]
    return _told([e for e in events if e["object"]["metadata"]["name"] == pod])


def _told(events: list[Any]) -> list[tuple[Any, ...]]:
    told = []
    for event in events:
        meta, state = event["object"]["metadata"], event["object"]["status"]
        grace = meta.get("deletionGracePeriodSeconds")
        told.append((event["type"], "deletionTimestamp" in meta, grace, state["phase"]))
    return told


@pytest.mark.parametrize(
    ("file", "pod", "query"),
    [
        ("09-watch-pod-kill.jsonl", "web-f8574f8c-9fg29", ""),
        ("10-watch-pod-kill-grace-0.jsonl", "web-f8574f8c-9vgh2", "?gracePeriodSeconds=0"),
    ],
)
def test_a_pods_death_is_told_as_by_a_real_server(
    web: Lab, core: Any, file: str, pod: str, query: str
) -> None:
    victim = ready_pods(core)[0].metadata.name
    shop = "/api/v1/namespaces/shop/pods"
    version = ask(web, "GET", shop)[1]["metadata"]["resourceVersion"]
    ask(web, "DELETE", f"{shop}/{victim}{query}")
    until(lambda: len(ready_pods(core)) == 6)
    watched = f"?watch=true&resourceVersion={version}&timeoutSeconds=1"
    text = ask(web, "GET", f"{shop}{watched}&fieldSelector=metadata.name%3D{victim}")[1]
    events = [json.loads(line) for line in text.splitlines()]
    ours, real = _told(events), steps(file, pod)
    # `sleep` ends with SIGTERM's status, the recorded server with 0.
    assert [step[:3] for step in ours] == [step[:3] for step in real]


def test_old_versions_and_initial_events(web: Lab) -> None:
    shop = "/api/v1/namespaces/shop/pods?watch=true"
    code, gone = ask(web, "GET", f"{shop}&resourceVersion=1&timeoutSeconds=1")
    assert code == 200 and gone["type"] == "ERROR"
    real = exchange("24-gone-and-watch-errors.json", "watch-rv-1")["response"]["stream"][0]
    assert differences(real, gone) == [] and gone["object"]["code"] == 410
    listed = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    text = ask(web, "GET", f"{shop}{listed}&timeoutSeconds=1&labelSelector=app%3Dweb")[1]
    events = [json.loads(line) for line in text.splitlines()]
    assert [event["type"] for event in events] == ["ADDED"] * 6 + ["BOOKMARK"]
    marks = events[-1]["object"]["metadata"]["annotations"]
    assert marks == {"k8s.io/initial-events-end": "true"}


def test_a_user_without_rights_is_told_what_the_real_one_was(lab: Lab) -> None:
    lab.server.users["limited"] = Rights("system:serviceaccount:shop:limited")
    recorded = json.loads((RECORDED / "14-errors.json").read_text())["exchanges"]
    cases = [e for e in recorded if e["id"].startswith("403-serviceaccount")]
    assert len(cases) >= 8
    for case in cases:
        asked = case["request"]
        kind = asked["headers"].get("Content-Type", "application/json")
        code, ours = ask(
            lab, asked["method"], asked["path"], asked.get("body"), token="limited", kind=kind
        )
        assert (code, ours) == (403, case["response"]["body"]), case["id"]


def test_access_reviews_are_answered_as_the_real_one_does(lab: Lab) -> None:
    lab.server.users["limited"] = Rights("system:serviceaccount:shop:limited")
    for case, token in (("accessreview-denied", "limited"), ("accessreview-allowed", None)):
        recorded = exchange("14-errors.json", case)
        asked = recorded["request"]
        code, ours = ask(lab, "POST", asked["path"], asked["body"], token=token)
        theirs = recorded["response"]["body"]
        del theirs["metadata"]["managedFields"]
        assert (code, ours) == (recorded["response"]["status"], theirs)
