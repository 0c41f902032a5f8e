"""What the API says of itself: version, resources, and just enough OpenAPI for kubectl."""

from __future__ import annotations

from typing import Any

from aftershock.lab.kubernetes.resources import SERVED, Resource, groups

Document = dict[str, Any]

VERSION: Document = {
    "major": "1",
    "minor": "36",
    "emulationMajor": "1",
    "emulationMinor": "36",
    "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35",
    "gitVersion": "v1.36.2+aftershock",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "linux/amd64",
}


def api_versions(address: str) -> Document:
    """/api as older clients ask for it."""
    where = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": where}


def group_list() -> Document:
    """/apis as older clients ask for it."""
    body = [_group(name, found) for name, found in groups().items()]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": body}


def group(name: str) -> Document | None:
    """One group; None: there is none."""
    found = groups().get(name)
    if found is None:
        return None
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, found)}


def _group(name: str, found: list[Resource]) -> Document:
    version = {"groupVersion": found[0].api_version, "version": found[0].version}
    return {"name": name, "versions": [version], "preferredVersion": version}


def resource_list(group_name: str, version: str) -> Document | None:
    """The APIResourceList of a group's version; None: there is none."""
    found = [r for r in SERVED if (r.group, r.version) == (group_name, version)]
    if not found:
        return None
    entries: list[Document] = []
    for resource in sorted(found, key=lambda r: r.plural):
        entry: Document = {
            "name": resource.plural,
            "singularName": resource.kind.lower(),
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": list(resource.verbs),
        }
        if resource.short:
            entry["shortNames"] = list(resource.short)
        if resource.in_all:
            entry["categories"] = ["all"]
        entries += [entry, *_sub_entries(resource)]
    head: Document = {"kind": "APIResourceList", "apiVersion": "v1"}
    if not group_name:
        del head["apiVersion"]
    return {**head, "groupVersion": found[0].api_version, "resources": entries}


def _sub_entries(resource: Resource) -> list[Document]:
    entries = []
    for name, (group_name, version, kind, verbs) in resource.subresources().items():
        entry: Document = {
            "name": f"{resource.plural}/{name}",
            "singularName": "",
            "namespaced": resource.namespaced,
        }
        if version:
            entry |= {"group": group_name, "version": version}
        entries.append({**entry, "kind": kind, "verbs": list(verbs)})
    return entries


def aggregated(core: bool) -> Document:
    """The APIGroupDiscoveryList: of /api (core) or of /apis."""
    among = {"": [r for r in SERVED if not r.group]} if core else groups()
    items = []
    for name, found in among.items():
        version = {
            "version": found[0].version,
            "resources": [_aggregated(r) for r in sorted(found, key=lambda r: r.plural)],
            "freshness": "Current",
        }
        items.append({"metadata": {"name": name} if name else {}, "versions": [version]})
    head: Document = {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2"}
    return {**head, "metadata": {}, "items": items}


def _aggregated(resource: Resource) -> Document:
    entry: Document = {
        "resource": resource.plural,
        "responseKind": {"group": "", "version": "", "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.kind.lower(),
        "verbs": list(resource.verbs),
    }
    if resource.short:
        entry["shortNames"] = list(resource.short)
    if resource.in_all:
        entry["categories"] = ["all"]
    subs = [
        {
            "subresource": name,
            "responseKind": {"group": group_name, "version": version, "kind": kind},
            "verbs": list(verbs),
        }
        for name, (group_name, version, kind, verbs) in resource.subresources().items()
    ]
    return entry | ({"subresources": subs} if subs else {})


def openapi_paths() -> Document:
    """/openapi/v3: where each group's document lies."""
    paths = {"api/v1": {"serverRelativeURL": "/openapi/v3/api/v1?hash=aftershock"}}
    for found in groups().values():
        path = f"apis/{found[0].api_version}"
        paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash=aftershock"}
    return {"paths": paths}


def openapi_document(group_name: str, version: str) -> Document | None:
    """A group's document without schemas: it says that dry runs and field checks are known."""
    found = [r for r in SERVED if (r.group, r.version) == (group_name, version)]
    if not found:
        return None
    root = f"/apis/{group_name}/{version}" if group_name else f"/api/{version}"
    options = [
        {"name": name, "in": "query", "schema": {"type": "string"}}
        for name in ("dryRun", "fieldManager", "fieldValidation")
    ]
    paths: Document = {}
    for resource in found:
        scope = "/namespaces/{namespace}" if resource.namespaced else ""
        kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
        patch = {
            "parameters": options,
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-action": "patch",
            "x-kubernetes-group-version-kind": kind,
        }
        paths[f"{root}{scope}/{resource.plural}/{{name}}"] = {"patch": patch}
    info = {"title": "Kubernetes", "version": VERSION["gitVersion"]}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": {}}}


OPENAPI_V2 = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
PACKED_V2 = OPENAPI_V2.replace("@", ".")  # as asked for it is no media type


def openapi_v2_packed() -> bytes:
    """The same as protobuf, which older clients ask for alone: swagger, info: title, version."""

    def field(number: int, content: bytes) -> bytes:
        return bytes((number << 3 | 2, len(content))) + content

    told = openapi_v2()
    info = field(1, told["info"]["title"].encode()) + field(2, told["info"]["version"].encode())
    return field(1, told["swagger"].encode()) + field(2, info)


def openapi_v2() -> Document:
    """An empty /openapi/v2."""
    info = {"title": "Kubernetes", "version": VERSION["gitVersion"]}
    return {"swagger": "2.0", "info": info, "paths": {}, "definitions": {}}
