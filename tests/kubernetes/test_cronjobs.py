"""The lab's API keeps CronJobs; a day's gates and orders by such an API."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from aftershock.cluster import Cluster
from aftershock.cluster.lock import LeaseLock
from aftershock.gameday import commands
from aftershock.gameday.asking import World, ask
from aftershock.gameday.plan import Question
from aftershock.gameday.plan_file import read_plan
from aftershock.gameday.render import Pod, kubernetes

from .conftest import Lab, needs_kubectl, until

ROOT = Path(__file__).parents[2]


def plan(folder: Path, **more: Any) -> Path:
    """A plan against this lab's API."""
    (folder / "pod-kill.json").write_text((ROOT / "experiments/pod-kill.json").read_text())
    (folder / "target.yaml").write_text(
        "gateway_url: http://127.0.0.1:9\nmodel: m\n"
        f"kubernetes: {{kubeconfig: {folder / 'kubeconfig'}, namespace: shop, selector: app=web}}\n"
    )
    told = {
        "title": "A day in the shop",
        "owner": "Ops",
        "target": "target.yaml",
        "calendar": {"cron": "0 10 * * Thu", "time_zone": "Europe/Berlin"},
        "experiments": [{"file": "pod-kill.json", "choose": {"zone": ["az-a", "az-b"]}}],
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({**told, **more}))
    return path


@needs_kubectl
def test_a_rendered_cron_job_is_accepted_and_shown(lab: Lab, core: Any, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    path = plan(made, target=None)
    path.write_text(path.read_text().replace("target: null\n", ""))
    (made / "target.yaml").unlink()
    text = kubernetes(read_plan(path), Pod("registry/aftershock:1", namespace="shop", claim="days"))
    core.create_namespace({"metadata": {"name": "shop"}})
    assert "cronjob.batch/aftershock-plan created" in lab.kubectl("apply", "-f", "-", stdin=text)
    assert "unchanged" in lab.kubectl("apply", "-f", "-", stdin=text)
    shown = lab.kubectl("-n", "shop", "get", "cronjobs")
    assert "0 10 * * Thu" in shown and "Europe/Berlin" in shown and "TIMEZONE" in shown
    for old, new, field in (
        ("0 10 * * Thu", "0 99 * * *", "spec.schedule"),
        ("Europe/Berlin", "Europe/Berln", "spec.timeZone"),
        ("Forbid", "Refuse", "spec.concurrencyPolicy"),
        ("restartPolicy: Never", "restartPolicy: Always", "template.spec.restartPolicy"),
        ("image: registry/aftershock:1", "imagePullPolicy: Always", "containers[0].image"),
    ):
        said = lab.kubectl("apply", "-f", "-", stdin=text.replace(old, new), code=1)
        assert field in said, said
    lab.kubectl("-n", "shop", "delete", "cronjob", "aftershock-plan")


def test_ready_pods_in_other_zones_are_counted(web: Lab, tmp_path: Path) -> None:
    plan(tmp_path)
    world = World(tmp_path, {"zone": "az-a", "target": str(tmp_path / "target.yaml")})

    def asked(at_least: float) -> str:
        return str(ask(Question("ready", ready_outside="${zone}", at_least=at_least), world))

    assert asked(4) == "ready: go (4 ready outside az-a)"
    assert asked(5) == "ready: no-go (4 ready outside az-a, below 5)"
    web.runtime.unready |= {
        pod["metadata"]["uid"]
        for pod in Cluster(str(web.kubeconfig), "shop").described("app=web")
        if pod["spec"]["nodeName"] == "node-b-1"
    }
    until(lambda: asked(4) == "ready: no-go (3 ready outside az-a, below 4)")
    nowhere = World(tmp_path, {"target": str(tmp_path / "none.yaml")})
    assert "could not be asked" in str(
        ask(Question("r", ready_outside="az-a", at_least=1), nowhere)
    )


def test_a_day_on_another_host_is_asked_by_its_lease(
    web: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plan(tmp_path)
    cluster = Cluster(str(web.kubeconfig), "shop")
    held = LeaseLock(cluster, "the game day 'A day in the shop'")
    held.acquire()
    monkeypatch.setenv("SUDO_USER", "alice")
    try:
        (said,) = commands.order("abort", str(path), "the pager rang")
        assert said == "abort asked of whoever holds namespace shop, by its Lease"
        order = until(lambda: held.order)
        assert (order["what"], order["by"], order["why"]) == ("abort", "alice", "the pager rang")
        assert any(
            "taken" in line and "A day in the shop" in line for line in commands.status(str(path))
        )
    finally:
        held.release()
        cluster.close()
