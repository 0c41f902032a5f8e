"""The ways in to a cluster: found as kubectl finds them, and what is wrong is one sentence."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftershock.cluster import Cluster, NoAccess
from aftershock.cluster.access import IN_CLUSTER, find
from aftershock.cluster.places import check_namespace
from aftershock.cluster.pods import listed
from aftershock.lab.kubernetes.authorization import Rights

from .conftest import Lab

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody without any cluster."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


def changed(lab: Lab, name: str, change: Change) -> Path:
    """A copy of the lab's kubeconfig with something else in it."""
    plain = yaml.safe_load(lab.kubeconfig.read_text())
    change(plain)
    path = lab.kubeconfig.with_name(name)
    path.write_text(yaml.safe_dump(plain))
    return path


def renamed(name: str) -> Change:
    def change(plain: dict[str, Any]) -> None:
        plain["current-context"] = name
        for kind in ("contexts", "clusters", "users"):
            plain[kind][0]["name"] = name
        plain["contexts"][0]["context"] |= {"cluster": name, "user": name}

    return change


def asks(kubeconfig: str | None = None, context: str | None = None) -> str:
    """Ask for pods; what the cluster is called in the ledger."""
    cluster = Cluster(kubeconfig, context=context)
    try:
        listed(cluster)
        return cluster.kubeconfig
    finally:
        cluster.close()


def refusal(kubeconfig: str | None = None, context: str | None = None) -> str:
    with pytest.raises(NoAccess) as refused:
        asks(kubeconfig, context)
    said = str(refused.value)
    assert "\n" not in said and "Traceback" not in said
    return said


def test_the_usual_places(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no cluster is known" in refusal()
    usual = Path.home() / ".kube/config"
    usual.parent.mkdir(parents=True)
    usual.write_text(lab.kubeconfig.read_text())
    assert asks() == f"{usual}#aftershock-lab"
    monkeypatch.setenv("KUBECONFIG", "/nowhere/kubeconfig")
    assert "there is no kubeconfig /nowhere/kubeconfig (KUBECONFIG)" in refusal()


def test_several_files_are_merged_as_kubectl_does(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first to say a thing is heard; the client's own reading takes the last context."""
    first = changed(lab, "first", renamed("one"))
    dead = changed(lab, "second", renamed("two"))
    plain = yaml.safe_load(dead.read_text())
    plain["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    dead.write_text(yaml.safe_dump(plain))
    monkeypatch.setenv("KUBECONFIG", f"{first}:/nowhere/at-all:{dead}")
    assert asks() == f"{first}:{dead}#one"
    assert asks(f"{first}:{dead}#one") == f"{first}:{dead}#one"  # as the ledger has it
    assert "has no context 'three': it has one, two" in refusal(context="three")
    said = refusal(context="two")
    assert "https://127.0.0.1:1" in said and "connection refused: start the cluster" in said


def test_paths_are_relative_to_their_own_file(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def relative(plain: dict[str, Any]) -> None:
        authority = plain["clusters"][0]["cluster"]
        authority["certificate-authority"] = Path(authority["certificate-authority"]).name

    monkeypatch.chdir(tmp_path.parent)
    assert asks(str(changed(lab, "relative", relative)))


def test_certificates_within_a_kubeconfig_are_written_nowhere(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inline(plain: dict[str, Any]) -> None:
        cluster = plain["clusters"][0]["cluster"]
        authority = Path(cluster.pop("certificate-authority")).read_bytes()
        cluster["certificate-authority-data"] = base64.b64encode(authority).decode()

    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    assert asks(str(changed(lab, "inline", inline)))
    assert list(folder.iterdir()) == []
    assert held_in_memory() == []


def held_in_memory() -> list[str]:
    """The memory files of this process."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(link.readlink()))
    return [name for name in found if "memfd:" in name]


def test_other_programs_get_this_context_alone(lab: Lab) -> None:
    """Also those that can't read several files, and none finds the credentials on a disk."""
    one = changed(lab, "one", renamed("one"))
    two = changed(lab, "two", renamed("two"))
    cluster = Cluster(f"{one}:{two}", context="two")
    try:
        path = cluster.access.file()
        assert path and path.startswith("/proc/")
        code = "import sys, yaml; print(yaml.safe_load(open(sys.argv[1])))"
        done = subprocess.run(
            [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
        )
        assert "'current-context': 'two'" in done.stdout and "'one'" not in done.stdout
    finally:
        cluster.close()


def test_credentials_that_are_not_known_or_have_expired(lab: Lab) -> None:
    def token(text: str) -> Change:
        return lambda plain: plain["users"][0]["user"].update(token=text)

    said = refusal(str(changed(lab, "wrong", token("nonsense"))))
    assert "does not know us (401)" in said and "log in anew" in said
    claims = base64.urlsafe_b64encode(json.dumps({"exp": time.time() - 9e4}).encode())
    old = f"head.{claims.decode().rstrip('=')}.signature"
    day = f"{datetime.now(UTC) - timedelta(seconds=9e4):%Y-%m-%d}"
    assert f"the token expired on {day}" in refusal(str(changed(lab, "old", token(old))))


def test_a_client_certificate_that_has_expired(lab: Lab) -> None:
    made, key = expired_certificate()

    def certificate(plain: dict[str, Any]) -> None:
        plain["users"][0]["user"] = {
            "client-certificate-data": base64.b64encode(made).decode(),
            "client-key-data": base64.b64encode(key).decode(),
        }

    said = refusal(str(changed(lab, "certificate", certificate)))
    assert "the client certificate expired on 2001-02-03" in said


def expired_certificate() -> tuple[bytes, bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "somebody")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(datetime(2000, 2, 3, tzinfo=UTC))
        .not_valid_after(datetime(2001, 2, 3, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8
    pem = serialization.Encoding.PEM
    return made.public_bytes(pem), key.private_bytes(pem, form, serialization.NoEncryption())


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["no-such-plugin"], "No such file"),
        (["sh", "-c", "echo 'session is over' >&2; exit 3"], "process returned 3. session is over"),
        (["true"], "failed to decode process output"),
    ],
)
def test_a_credential_plugin_that_fails(
    lab: Lab, capfd: pytest.CaptureFixture[str], command: list[str], sentence: str
) -> None:
    version = "client.authentication.k8s.io/v1"
    plugin = {"apiVersion": version, "command": command[0], "args": command[1:]}
    path = changed(lab, "plugin", lambda plain: plain["users"][0].update(user={"exec": plugin}))
    said = refusal(str(path))
    assert f"the credential plugin {command[0]}" in said and sentence in said
    assert "exec:" not in capfd.readouterr().err  # the client's own log line


def test_a_credential_plugin_that_works(lab: Lab) -> None:
    version = "client.authentication.k8s.io/v1"
    answer = {"apiVersion": version, "kind": "ExecCredential"}
    answer["status"] = {"token": lab.server.token}  # type: ignore[assignment]
    plugin = {"apiVersion": version, "command": "echo", "args": [json.dumps(answer)]}
    assert asks(
        str(changed(lab, "plugin", lambda plain: plain["users"][0].update(user={"exec": plugin})))
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "it is empty or no kubeconfig"),
        ("a: [", "can't be read"),
        ("contexts: [{name: x, context: {cluster: y}}]", "no current context: name one of its"),
        ("{current-context: x, contexts: [{name: x, context: {cluster: y}}]}", "names the cluster"),
    ],
)
def test_a_kubeconfig_that_is_none(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    said = refusal(str(path))
    assert sentence in said and str(path) in said


def test_another_authority(lab: Lab, tmp_path: Path) -> None:
    made, _ = expired_certificate()
    other = tmp_path / "other.pem"
    other.write_bytes(made)
    path = changed(
        lab,
        "authority",
        lambda plain: plain["clusters"][0]["cluster"].update({"certificate-authority": str(other)}),
    )
    assert "certificate is not signed by" in refusal(str(path))


def test_from_a_pod(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, port = lab.server.url.removeprefix("https://").split(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    account = tmp_path / "pod-account"
    account.mkdir()
    module = "kubernetes.config.incluster_config"
    monkeypatch.setattr(f"{module}.SERVICE_TOKEN_FILENAME", str(account / "token"))
    monkeypatch.setattr(f"{module}.SERVICE_CERT_FILENAME", str(account / "ca.crt"))
    monkeypatch.setattr("aftershock.cluster.access._ACCOUNT", account)
    assert "this pod's service account can't be used" in refusal()
    (account / "token").write_text(lab.server.token)
    (account / "ca.crt").write_bytes(lab.server.ca)
    (account / "namespace").write_text("shop")
    assert find().namespace == "shop"
    assert asks() == IN_CLUSTER == asks(IN_CLUSTER)
    assert "a pod's service account has none" in refusal(context="x")


def test_a_namespace_that_is_not_there(lab: Lab) -> None:
    lab.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    rights = Rights("reader", {"shop": [{"verbs": ["get"], "apiGroups": [""], "resources": ["*"]}]})
    narrow = lab.server.write_kubeconfig(lab.kubeconfig.with_name("narrow"), "shop", rights=rights)
    for path in (str(lab.kubeconfig), str(narrow)):
        cluster = Cluster(path)
        check_namespace(cluster, "shop")
        if path == str(lab.kubeconfig):
            with pytest.raises(NoAccess, match=r"no namespace 'nowhere'.*it has .*shop"):
                check_namespace(cluster, "nowhere")
        cluster.close()
