"""Break what Kubernetes runs: kill pods, keep replacements off a zone's nodes."""

from typing import Any

from aftershock import run as runs
from aftershock.run import draining, power, processes, scaling
from aftershock.run.podwords import Place

__all__ = [
    "block_autoscaler",
    "cordon_nodes",
    "cordon_zone",
    "drain_nodes",
    "evict_pods",
    "fail_nodes",
    "freeze_containers",
    "heal_containers",
    "keep_killing_pods",
    "kill_containers",
    "kill_pods",
    "power_off_nodes",
    "power_on_nodes",
    "restore_workloads",
    "scale_workload",
    "silence_nodes",
    "stop_killing_pods",
    "taint_nodes",
    "uncordon_nodes",
    "uncordon_zone",
    "untaint_nodes",
]


def kill_pods(
    zone: str = "",
    selector: str = "",
    grace_s: int = 0,
    node: str = "",
    name: str = "",
    owner: str = "",
    count: int = 0,
    share: float = 0.0,
    max_owner_share: float = 1.0,
    deadline_s: float = 0.0,
    seed: int = 0,
    namespace: str = "",
) -> dict[str, Any]:
    """Kill chosen pods through the Kubernetes API, all at once.

    Which: those on a `zone` or on a `node` (several with commas; everywhere when empty or `all`)
    that match `selector` (a label selector), `name` (a pattern such as `web-*`) and `owner` (such
    as `Deployment/web`, or `web`); the target's own selector when none of the three is given. How
    many: `count`, or a `share` of them (0 to 1, rounded down, one at least), or all; of one owner's
    pods at most `max_owner_share`, with those that are going already. `seed` decides which. A pod
    that is on its way out is never chosen, nor one of ours.

    How: `grace_s` seconds between the warning and the end, 0 for at once, -1 for the pod's own.
    `deadline_s`: what is not gone after so many seconds is ended at once; 0: it is only waited for.

    Returns the injection: which pods, and whose UIDs are gone. Before anything is touched it raises
    `NothingMatches` for a choice that is empty, `TooMuch` for one beyond the inventory's limits,
    `NotPermitted` for a right that is missing.
    """
    words = _choice(selector, name, owner, count, share, max_owner_share, seed)
    told = {**words, "grace_s": grace_s, "deadline_s": deadline_s}
    return runs.current().breaking.pods("kill", Place(zone, node, namespace), told)


def evict_pods(
    zone: str = "",
    selector: str = "",
    grace_s: int = -1,
    node: str = "",
    name: str = "",
    owner: str = "",
    count: int = 0,
    share: float = 0.0,
    max_owner_share: float = 1.0,
    deadline_s: float = 60.0,
    seed: int = 0,
    namespace: str = "",
    budgets: str = "honour",
) -> dict[str, Any]:
    """Evict chosen pods as a drain does: a PodDisruptionBudget may refuse, and is asked again.

    Which pods is as `kill_pods` has it. `deadline_s`: for so many seconds a budget that refuses is
    asked again; what it holds even then stays, and the evidence says so. `budgets`: `override`
    deletes the pods without asking any. `grace_s`: -1 for the pod's own. Returns and raises as
    `kill_pods`.
    """
    words = _choice(selector, name, owner, count, share, max_owner_share, seed)
    told = {**words, "grace_s": grace_s, "deadline_s": deadline_s, "budgets": budgets}
    return runs.current().breaking.pods("evict", Place(zone, node, namespace), told)


def keep_killing_pods(
    zone: str = "",
    selector: str = "",
    interval_s: float = 10.0,
    lease_s: float = 120.0,
    grace_s: int = 0,
    node: str = "",
    name: str = "",
    owner: str = "",
    count: int = 1,
    share: float = 0.0,
    max_owner_share: float = 1.0,
    deadline_s: float = 0.0,
    seed: int = 0,
    namespace: str = "",
) -> dict[str, Any]:
    """Kill chosen pods now, and others again and again, until `stop_killing_pods` or a heal.

    Returns at once, when the first are gone. Which pods is as `kill_pods` has it, chosen anew each
    time (`count` is 1 unless `share` is given). `interval_s`: the mean; each is drawn by `seed`
    from half to one and a half of it. It ends by itself after `lease_s` seconds, which then counts
    as healed before it was ordered, and with this process. Returns and raises as `kill_pods`; the
    injection has every round.
    """
    words = _choice(selector, name, owner, count, share, max_owner_share, seed)
    told = {**words, "grace_s": grace_s, "deadline_s": deadline_s}
    told |= {"interval_s": interval_s, "lease_s": lease_s}
    return runs.current().breaking.pods("keep killing", Place(zone, node, namespace), told)


def stop_killing_pods() -> dict[str, Any]:
    """Stop every `keep_killing_pods` of this run; no pod is killed any more then. Idempotent."""
    return runs.current().breaking.heal("all", kinds=("repeated-pod-kill",))


def _choice(
    selector: str,
    name: str,
    owner: str,
    count: int,
    share: float,
    max_owner_share: float,
    seed: int,
) -> dict[str, Any]:
    words = {"selector": selector, "name": name, "owner": owner, "count": count, "share": share}
    return {**words, "max_owner_share": max_owner_share, "seed": seed}


def fail_nodes(
    where: str, lease_s: float = 120.0, selector: str = "", peers: str = ""
) -> dict[str, Any]:
    """Lose whole nodes: cut off at one instant, closed to replacements, then their pods killed.

    `where`: names of nodes or zones, separated by commas. The rest is as `fail_zone` has it.
    Returns the injections with their evidence.
    """
    return runs.current().breaking.fail_nodes(where, lease_s, selector, peers)


def cordon_nodes(where: str) -> dict[str, Any]:
    """Make nodes unschedulable, by the names of nodes or zones, separated by commas.

    Returns the injection. Nodes that somebody else had cordoned are left to them.
    """
    return runs.current().breaking.cordon_nodes(where)


def uncordon_nodes(where: str) -> dict[str, Any]:
    """Uncordon what this run cordoned there. Idempotent."""
    return runs.current().breaking.heal(where, kinds=("cordon",))


def drain_nodes(
    where: str,
    deadline_s: float = 60.0,
    grace_s: int = -1,
    budgets: str = "honour",
    force: bool = False,
) -> dict[str, Any]:
    """Close nodes and evict all that runs on them, as `kubectl drain --ignore-daemonsets` does.

    `where`: names of nodes or zones, separated by commas. `deadline_s`: for all of it; until then a
    PodDisruptionBudget that refuses is asked again, and what is there then stays: the evidence says
    so. `grace_s`: -1 for the pods' own. `budgets`: `override` deletes without asking any. `force`:
    also pods that nobody would bring back. Left are pods of DaemonSets, mirror pods, ours, and
    those of namespaces that are never touched. What an evicted pod had in an emptyDir is lost.

    Tells of each pod in the log and the timeline. Returns the injections, `cordon` and `drain`, the
    latter with every step. `uncordon_nodes` opens again exactly the nodes that this closed. Raises
    as `evict_pods` does, and `InvalidFault` for a pod that would be gone for good.
    """
    return draining.drain_nodes(runs.current(), where, deadline_s, grace_s, budgets, force)


def taint_nodes(where: str, effect: str = "NoExecute") -> dict[str, Any]:
    """Put a taint of ours on nodes: `aftershock.dev/failed`, its value the run's name.

    `effect`: NoSchedule, PreferNoSchedule, or NoExecute, which ends every pod there that doesn't
    tolerate it. Returns the injection; with NoExecute its evidence is which pods are gone from
    there. Raises `InvalidFault` for another effect, and where it would end pods of kube-system.
    """
    return runs.current().breaking.taint_nodes(where, effect)


def untaint_nodes(where: str) -> dict[str, Any]:
    """Take off the taints that this run put there, and no others. Idempotent."""
    return runs.current().breaking.heal(where, kinds=("taint",))


def cordon_zone(zone: str) -> dict[str, Any]:
    """Make a zone's nodes unschedulable: as `cordon_nodes`."""
    return runs.current().breaking.cordon_nodes(zone)


def uncordon_zone(zone: str) -> dict[str, Any]:
    """Uncordon what this run cordoned in a zone: as `uncordon_nodes`."""
    return runs.current().breaking.heal(zone, kinds=("cordon",))


def kill_containers(
    where: str, container: str = "", times: int = 1, every_s: float = 10.0
) -> dict[str, Any]:
    """Kill the main process of pods' containers, from their node: each pod stays and restarts it.

    `where`: labels that the pods have (`app=model`), names as `pod/NAME`, and zones and nodes on
    which they are, with commas. `container`: its name, needed where a pod has several. `times`: how
    often each is killed (1 to 10,000), the further times in the background until the heal, about
    `every_s` seconds apart (half to one and a half of it, from the run's seed): a restart loop.

    Needs an agent on the nodes, in a pod or by SSH. Returns the injection; its evidence is what the
    API counts of restarts, with the pods' UIDs the same. Raises `InvalidInput` where no running pod
    is meant, and `HostUnreachable` when API or agent does not answer.
    """
    return processes.kill_containers(runs.current(), where, container, times, every_s)


def freeze_containers(where: str, container: str = "", lease_s: float = 120.0) -> dict[str, Any]:
    """Stop every thread of pods' containers: there they are, and answer nothing, until the heal.

    `where` and `container` as for `kill_containers`. `lease_s`: after so many seconds their hosts
    let them go on, at the latest; the kernel does when the agents end, however they end. A liveness
    probe may have the kubelet kill and restart what is frozen.

    Returns the injection; its evidence is what another process sees of the threads' states and
    their processor time, and whether the API has the pods as unready.
    """
    return processes.freeze_containers(runs.current(), where, container, lease_s)


def silence_nodes(where: str, lease_s: float = 120.0, program: str = "kubelet") -> dict[str, Any]:
    """Freeze nodes' kubelets: their pods run on, and the cluster hears nothing of them.

    `where`: zones and nodes, with commas. `program`: the kubelet's process as `ps -e` shows it on
    the node (k3s: `k3s-agent` or `k3s-server`, with all else that is in it).
    `lease_s`: after so many seconds the nodes let it go on. Where the agent is in a pod, the way to
    it leads through the kubelet: then nothing but the lease's end heals.

    Takes up to a quarter of a minute, until the API shows that the nodes' leases are not renewed:
    that is the evidence. The cluster itself takes some 50 s to call such a node NotReady. Returns
    the injection; raises `NotApplied` where no process of that name runs.
    """
    return processes.silence_nodes(runs.current(), where, program, lease_s)


def power_off_nodes(
    where: str,
    off: str,
    on: str,
    check: str = "",
    timeout_s: float = 60.0,
    lease_s: float = 300.0,
) -> dict[str, Any]:
    """Power nodes off by a command of yours that runs on this machine: IPMI, a cloud's API, virsh.

    `where`: zones and nodes, with commas; each has the commands for itself, with `{node}`, `{zone}`
    and `{address}` (its first) replaced, all at once. They are split as a shell would, and no shell
    runs them. `on` gives the power back when the fault ends, however it ends: after `lease_s`
    seconds by itself, and by `aftershock recover` when this machine went down, too. It must be
    harmless where the node is on. `check` exits with 0 while the node is off and with 1 while it is
    not. `timeout_s`: for each command.

    Returns the injection. Its evidence is that another node gets no answer any more, or the
    cluster's lease is not renewed (which takes a quarter of a minute), and the check. That `on`
    ended well heals it; how long the node then takes to boot is its fail-back. Raises `NotApplied`
    when `off` failed somewhere (everything is on again then).
    """
    return power.power_off_nodes(runs.current(), where, off, on, check, timeout_s, lease_s)


def power_on_nodes(where: str = "all") -> dict[str, Any]:
    """Order the power back on for what this run powered off there. Idempotent."""
    return runs.current().breaking.heal(where, kinds=(power.KIND,))


def heal_containers() -> dict[str, Any]:
    """Let go on what this run froze, nodes too, and end its restart loops. Idempotent."""
    kinds = ("freeze", "restart-loop", "container-kill")
    return runs.current().breaking.heal("all", kinds=kinds)


def scale_workload(
    workload: str, replicas: int, namespace: str = "", block_autoscaler: bool = False
) -> dict[str, Any]:
    """Ask for another number of replicas of a workload, until `restore_workloads` or a heal.

    `workload`: `Deployment/NAME` or `StatefulSet/NAME`. `replicas`: 0 to 10,000; a share of them
    beyond the limits (max_owner_share) is not taken away. `block_autoscaler`: hold its autoscaler
    at that number meanwhile, as `block_autoscaler` does; without, what an autoscaler makes of it is
    the service's own answer.

    Returns the injection, with both numbers; its evidence is how many pods are there. The number
    that was there before is set again, by a reaper when we are gone, unless somebody else has set
    another one meanwhile. Raises as `kill_pods` does, and `InvalidInput` for a workload that isn't
    there.
    """
    run = runs.current()
    return scaling.scale_workload(run, workload, replicas, namespace, block_autoscaler)


def block_autoscaler(workload: str, namespace: str = "") -> dict[str, Any]:
    """Hold a workload's autoscaler still: it neither adds nor removes replicas until the heal.

    Its least and most become the number of replicas that are asked for now, and get their own
    values back as those of `scale_workload` do. Returns the injection. Raises `InvalidInput` where
    no autoscaler (autoscaling/v2) scales `workload`, `InvalidFault` where that is scaled to 0.
    """
    return scaling.block_autoscaler(runs.current(), workload, namespace)


def restore_workloads() -> dict[str, Any]:
    """Give back the replicas that this run changed, and let autoscalers scale again. Idempotent."""
    return runs.current().breaking.heal("all", kinds=("scale", "autoscaler-block"))
