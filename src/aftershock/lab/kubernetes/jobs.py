"""Jobs: a pod until one has succeeded, or too many have failed; then a while until the Job goes."""

from __future__ import annotations

import copy
from datetime import UTC, datetime

from aftershock.lab.kubernetes.owners import (
    counted,
    is_dying,
    is_over,
    is_ready,
    owned_by,
    reference,
)
from aftershock.lab.kubernetes.resources import JOBS, PODS
from aftershock.lab.kubernetes.store import Object, Store, timestamp
from aftershock.lab.kubernetes.verbs import Verbs


def keep_jobs(store: Store, verbs: Verbs) -> float | None:
    """One pass; the answer is when (in seconds) a Job's time is over next."""
    waits = [_keep(store, verbs, job) for job in store.all_of(JOBS) if not is_dying(job)]
    return min((wait for wait in waits if wait is not None), default=None)


def _keep(store: Store, verbs: Verbs, job: Object) -> float | None:
    meta, spec = job["metadata"], job["spec"]
    pods = owned_by(store, PODS, job)
    if ended := _ended(job):
        keep_s = spec.get("ttlSecondsAfterFinished")
        left = None if keep_s is None else keep_s - _age_s(ended["lastTransitionTime"])
        if left is not None and left <= 0:
            verbs.delete(JOBS, meta["namespace"], meta["name"], {"propagationPolicy": "Background"})
        return left
    status = job.get("status") or {}
    started = status.get("startTime") or timestamp()
    living = [pod for pod in pods if not is_over(pod)]
    failed = sum(pod["status"].get("phase") == "Failed" for pod in pods)
    succeeded = sum(pod["status"].get("phase") == "Succeeded" for pod in pods)
    deadline = spec.get("activeDeadlineSeconds")
    left = None if deadline is None else deadline - _age_s(started)
    conditions = []
    if succeeded:
        conditions = [_condition("Complete", "CompletionsReached")]
    elif failed > spec["backoffLimit"]:
        conditions = [_condition("Failed", "BackoffLimitExceeded")]
    elif left is not None and left <= 0:
        conditions = [_condition("Failed", "DeadlineExceeded")]
        for pod in living:
            verbs.delete(PODS, meta["namespace"], pod["metadata"]["name"])
    elif not living:
        verbs.create(PODS, meta["namespace"], _pod(verbs, job))
    numbers = counted(
        active=0 if conditions else max(1, len(living)),
        ready=sum(map(is_ready, living)),
        failed=failed,
        succeeded=succeeded,
    )
    more = {"conditions": conditions} if conditions else {}
    store.update(JOBS, {**job, "status": {"startTime": started, **numbers, **more}})
    return left


def _ended(job: Object) -> Object | None:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one["type"] in ("Complete", "Failed")), None)


def _condition(kind: str, reason: str) -> Object:
    now = timestamp()
    return {"type": kind, "status": "True", "reason": reason, "lastTransitionTime": now}


def _age_s(since: str) -> float:
    then = datetime.strptime(since, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return (datetime.now(UTC) - then).total_seconds()


def _pod(verbs: Verbs, job: Object) -> Object:
    template = copy.deepcopy(job["spec"]["template"])
    meta = template.get("metadata") or {}
    prefix, uid = f"{job['metadata']['name']}-", job["metadata"]["uid"]
    labels = {
        **(meta.get("labels") or {}),
        "job-name": job["metadata"]["name"],
        "batch.kubernetes.io/job-name": job["metadata"]["name"],
        "batch.kubernetes.io/controller-uid": uid,
    }
    named = {"name": prefix + verbs.random_suffix(), "generateName": prefix, "labels": labels}
    owners = {"ownerReferences": [reference(job)]}
    return {"metadata": {**named, **owners}, "spec": template["spec"]}
