"""While a run goes on, its target is what other extensions' activities reach."""

import os

import pytest
from kubernetes.config import kube_config

from aftershock.run.target import default_cluster


@pytest.mark.parametrize("before", ["/home/me/production", None])
def test_other_extensions_are_led_to_the_runs_cluster(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    if before is None:
        monkeypatch.delenv("KUBECONFIG", raising=False)
    else:
        monkeypatch.setenv("KUBECONFIG", before)
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", "/home/me/production")
    with default_cluster("/lab/kubeconfig"):
        assert os.environ["KUBECONFIG"] == "/lab/kubeconfig"
        assert kube_config.KUBE_CONFIG_DEFAULT_LOCATION == "/lab/kubeconfig"
    assert os.environ.get("KUBECONFIG") == before
    assert kube_config.KUBE_CONFIG_DEFAULT_LOCATION == "/home/me/production"
