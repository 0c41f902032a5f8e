"""A pod's status as its kubelet writes it: pure, from what is known of the process."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aftershock.lab.kubernetes.store import timestamp

State = dict[str, Any]
EXPIRED = "Pod was active on the node longer than the specified deadline"


@dataclass(slots=True)
class Life:
    """What the kubelet knows of a pod."""

    phase: str = "Pending"
    ready: bool = False
    address: str = ""
    host: str = ""
    restarts: int = 0
    started: str = field(default_factory=timestamp)
    state: State = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    last: State = field(default_factory=dict)
    expired: bool = False

    @property
    def ended(self) -> bool:
        return self.phase in ("Succeeded", "Failed")


def terminated(
    exit_status: int, started_at: str, container_id: str, oom_killed: bool = False
) -> State:
    """A container's end, from an exit status as Popen gives it (negative: the signal)."""
    code = exit_status if exit_status >= 0 else 128 - exit_status
    reason = "Completed" if code == 0 else "OOMKilled" if oom_killed else "Error"
    end = {"exitCode": code, "reason": reason, "startedAt": started_at, "finishedAt": timestamp()}
    return {"terminated": {**end, "containerID": container_id}}


def container_id(uid: str, restarts: int) -> str:
    """The name of a container's run."""
    return "process://" + hashlib.sha256(f"{uid}/{restarts}".encode()).hexdigest()


def status_of(pod: Mapping[str, Any], life: Life) -> dict[str, Any]:
    """The pod's whole status; conditions keep their time until they change."""
    addresses: dict[str, Any] = {"hostIP": life.host, "hostIPs": [{"ip": life.host}]}
    if life.address:
        addresses |= {"podIP": life.address, "podIPs": [{"ip": life.address}]}
    why = {"reason": "DeadlineExceeded", "message": EXPIRED} if life.expired else {}
    return {
        **why,
        "observedGeneration": pod["metadata"].get("generation", 1),
        "phase": life.phase,
        "conditions": _conditions(pod, life),
        **addresses,
        "startTime": life.started,
        "containerStatuses": [_container(pod, spec, life) for spec in pod["spec"]["containers"]],
        "qosClass": pod["status"].get("qosClass", "BestEffort"),
    }


def _container(pod: Mapping[str, Any], spec: Mapping[str, Any], life: Life) -> dict[str, Any]:
    begun = "waiting" not in life.state or bool(life.last)
    status: dict[str, Any] = {
        "name": spec["name"],
        "state": life.state,
        "lastState": life.last,
        "ready": life.ready,
        "restartCount": life.restarts,
        "image": spec["image"],
        "imageID": "sha256:" + hashlib.sha256(spec["image"].encode()).hexdigest() if begun else "",
    }
    if begun:
        status["containerID"] = container_id(pod["metadata"]["uid"], life.restarts)
    return {**status, "started": "running" in life.state}


def _conditions(pod: Mapping[str, Any], life: Life) -> list[dict[str, Any]]:
    before = {c["type"]: c for c in pod["status"].get("conditions") or ()}
    names = ", ".join(spec["name"] for spec in pod["spec"]["containers"])
    why: dict[str, str] = {}
    if life.ended:
        why = {"reason": "PodCompleted" if life.phase == "Succeeded" else "PodFailed"}
    elif not life.ready:
        message = f"containers with unready status: [{names.replace(', ', ' ')}]"
        why = {"reason": "ContainersNotReady", "message": message}
    done = {"reason": "PodCompleted"} if life.phase == "Succeeded" else {}
    sandbox = bool(life.address) and not life.ended
    own: list[tuple[str, bool, dict[str, str]]] = [
        ("PodReadyToStartContainers", sandbox, {}),
        ("Initialized", True, done),
        ("Ready", life.ready, why),
        ("ContainersReady", life.ready, why),
        ("PodScheduled", True, {}),
    ]
    generation = pod["metadata"].get("generation", 1)
    kept = [c for c in before.values() if c["type"] not in {name for name, _, _ in own}]
    made = [_condition(before.get(name), name, holds, why, generation) for name, holds, why in own]
    return kept + made


def _condition(
    before: Mapping[str, Any] | None,
    name: str,
    holds: bool,
    why: Mapping[str, str],
    generation: int,
) -> dict[str, Any]:
    status = "True" if holds else "False"
    same = before is not None and before["status"] == status
    return {
        "type": name,
        "observedGeneration": generation,
        "status": status,
        "lastProbeTime": None,
        "lastTransitionTime": before["lastTransitionTime"] if before and same else timestamp(),
        **why,
    }
