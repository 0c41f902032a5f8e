"""What the reaper's pod runs: take back what was changed in the API, should the controller be gone.

It is handed to any image that has Python 3.8 as the text of `python3 -c`, so it needs nothing but
the standard library. It looks at a Lease once a second:

- gone: the controller took everything back itself; nothing is left to do;
- renewed no more for as long as it says, or older than it may get: heal, and delete the Lease,
  which what belongs to it follows.

How long a Lease was not renewed is measured by our own clock, from when we saw it change; its age
by the API server's, which is in each answer. So no two machines' clocks have to agree.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from calendar import timegm
from email.utils import parsedate_to_datetime
from typing import Any, Callable, Dict, List, Tuple

ACCOUNT = os.environ.get(
    "AFTERSHOCK_SERVICE_ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"
)
LEASE_S, WATCHING = "aftershock.dev/lease-s", "aftershock.dev/reaper"
PERIOD_S = 1.0
_ANSWER_S = 10.0
_MERGE = "application/merge-patch+json"


class Missing(Exception):
    """There is no such object."""


class Again(Exception):
    """The API can't be reached, or somebody else was faster: it is worth another try."""


def call(method: str, path: str, body: Any = None) -> Tuple[Any, float]:
    """One request; the answer, and the server's time in seconds since 1970."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    host = f"[{host}]" if ":" in host else host
    with open(f"{ACCOUNT}/token", encoding="ascii") as file:  # read anew: tokens are replaced
        token = file.read().strip()
    request = urllib.request.Request(
        f"https://{host}:{port}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": _MERGE},
    )
    trusted = ssl.create_default_context(cafile=f"{ACCOUNT}/ca.crt")
    trusted.verify_flags &= ~ssl.VERIFY_X509_STRICT  # many a cluster's own CA isn't that strict
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S, context=trusted) as answer:
            date = parsedate_to_datetime(answer.headers["Date"]).timestamp()
            return json.load(answer), date
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise Missing(path) from None
        raise Again(f"{method} {path}: {error.code} {error.reason}") from None
    except (OSError, ValueError) as error:
        raise Again(f"{method} {path}: {error}") from None


def watch_over(namespace: str, name: str) -> None:
    """Until the Lease is gone, by the controller's doing or by ours."""
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}"
    undo = f"/api/v1/namespaces/{namespace}/configmaps/{name}"
    seen, seen_at, told = "", clock(), False
    while True:
        try:
            found, now = call("GET", lease)
            if found["spec"].get("renewTime") != seen:
                seen, seen_at = found["spec"].get("renewTime"), clock()
            if why := over(found, now, clock() - seen_at):
                heal(json.loads(call("GET", undo)[0]["data"]["undo"]), why)
                call("DELETE", lease)
                return
            if not told:
                call("PATCH", lease, {"metadata": {"annotations": {WATCHING: "watching"}}})
                told = True
        except Missing:
            say("the controller took everything back")
            return
        except Again as error:
            say(str(error))
        time.sleep(PERIOD_S)


def over(lease: Dict[str, Any], now: float, silent_s: float) -> str:
    """Why it is time to heal, or nothing."""
    meta, spec = lease["metadata"], lease["spec"]
    if silent_s > spec["leaseDurationSeconds"]:
        return f"the controller has been silent for {silent_s:.0f} s"
    born = timegm(time.strptime(meta["creationTimestamp"], "%Y-%m-%dT%H:%M:%SZ"))
    age_s = now - born
    if age_s > float(meta["annotations"][LEASE_S]):
        return f"the lease of {meta['annotations'][LEASE_S]} s is over"
    return ""


def heal(changes: List[Dict[str, Any]], why: str) -> None:
    """Take back each change, and try again until it is: what else could be done?"""
    say(why)
    for change in changes:
        while True:
            try:
                for path in change["paths"]:
                    _UNDO[change["kind"]](path, change)
                break
            except Again as error:
                say(str(error))
                time.sleep(PERIOD_S)
        say(f"took back the {change['kind']} of {', '.join(change['paths'])}")


def _uncordon(path: str, _: Dict[str, Any]) -> None:
    _patch(path, {"spec": {"unschedulable": None}})


def _untaint(path: str, change: Dict[str, Any]) -> None:
    try:
        node, _ = call("GET", path)
    except Missing:
        return
    there = node["spec"].get("taints") or []
    kept = [one for one in there if not _is(one, change["taint"])]
    if kept != there:
        version = node["metadata"]["resourceVersion"]  # so that nobody else's taint is lost
        _patch(path, {"metadata": {"resourceVersion": version}, "spec": {"taints": kept or None}})


def _is(one: Dict[str, Any], taint: Dict[str, Any]) -> bool:
    return all((one.get(part) or "") == taint[part] for part in ("key", "value", "effect"))


def _rescale(path: str, change: Dict[str, Any]) -> None:
    def ours(scale: Dict[str, Any]) -> bool:
        return bool((scale["spec"].get("replicas") or 0) == change["set"])

    _give_back(path, ours, {"replicas": change["replicas"]})


def _unblock(path: str, change: Dict[str, Any]) -> None:
    def ours(autoscaler: Dict[str, Any]) -> bool:
        return all(autoscaler["spec"].get(key) == held for key, held in change["set"].items())

    _give_back(path, ours, change["bounds"])


def _give_back(path: str, ours: Callable[[Dict[str, Any]], bool], spec: Dict[str, Any]) -> None:
    """What somebody else has changed since is theirs."""
    try:
        found, _ = call("GET", path)
    except Missing:
        return
    if ours(found):
        version = found["metadata"]["resourceVersion"]
        _patch(path, {"metadata": {"resourceVersion": version}, "spec": spec})


def _patch(path: str, body: Dict[str, Any]) -> None:
    try:
        call("PATCH", path, body)
    except Missing:
        say(f"{path} is gone")


_UNDO = {"cordon": _uncordon, "taint": _untaint, "scale": _rescale, "autoscaler-block": _unblock}


def clock() -> float:
    """Seconds that go on while the machine sleeps, and never jump."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def say(words: str) -> None:
    """A line for the pod's log."""
    print(words, flush=True)


if __name__ == "__main__":
    watch_over(*sys.argv[1:])
